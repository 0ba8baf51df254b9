//! What lies between a service and a provider.

pub mod around;
pub mod faults;
pub mod meter;
pub mod retry;
