//! The operator: MonitoringCluster and RemoteStore, reconciled.
//!
//! One staircase: observe the world, validate the wish, desire the objects, apply them, tell the status.
//! `cluster` (validate) and `desired` are pure: no client, no clock.

pub mod api;
pub mod apply;
pub mod cluster;
pub mod cmd;
pub mod controllers;
pub mod desired;
pub mod leader;
pub mod observe;
pub mod status;
