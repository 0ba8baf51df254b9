//! What is true, in the words of the API. Pure: conditions, columns and events from what was observed and done.

mod bucket;
mod cluster;
mod compaction;
mod conditions;
mod configuration;
mod events;
mod gateway;
mod history;
mod pods;
mod remote;
mod settle;

pub use cluster::{Facts, monitoring_cluster};
pub use conditions::{Conditions, find};
pub use events::{Happening, cluster_events, remote_events};
pub use gateway::Gateway;
pub use remote::{Link, remote_store, unassigned};
pub use settle::{Restless, settle_cluster, settle_remote};
