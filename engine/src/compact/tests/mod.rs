//! The compactor over a bucket in memory, in virtual time.

mod bad_blocks;
mod crashes;
mod disks;
mod flow;
mod hostile;
mod judge;
mod rare;
mod rivals;
mod simulation;
mod weather;

mod site;

use site::{DAY, HOUR, Site, T0, raw};
use tsdb::plan::Settings;
