//! The operator: MonitoringCluster and RemoteStore, reconciled.
