//! Whether a part serves: for `/-/ready`, the gRPC health service, and `thanos_status`.

use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A part's readiness; clones share it.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<watch::Sender<State>>);

#[derive(Clone, Debug, PartialEq)]
enum State {
    No(String),
    Yes,
    /// Shutting down; final.
    Closing,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::No("starting".to_owned()))))
    }
}

impl Readiness {
    /// Serves from now on.
    pub fn ready(&self) {
        self.set(State::Yes);
    }

    /// Does not serve, for this reason.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.set(State::No(reason.into()));
    }

    /// Shuts down: never ready again.
    pub fn close(&self) {
        self.set(State::Closing);
    }

    /// True if it serves.
    pub fn is_ready(&self) -> bool {
        *self.0.borrow() == State::Yes
    }

    /// Why it does not serve; `None` if it does.
    pub fn reason(&self) -> Option<String> {
        match &*self.0.borrow() {
            State::Yes => None,
            State::No(reason) => Some(reason.clone()),
            State::Closing => Some("shutting down".to_owned()),
        }
    }

    fn set(&self, to: State) {
        self.0.send_if_modified(|now| {
            let change = *now != State::Closing && *now != to;
            if change {
                *now = to;
            }
            change
        });
    }

    /// Keeps the gRPC health service in step, until `stop`; a stopping part is told as not serving.
    pub(super) async fn report_to(self, health: tonic_health::server::HealthReporter, stop: CancellationToken) {
        use tonic_health::ServingStatus::{NotServing, Serving};
        let mut changes = self.0.subscribe();
        loop {
            let serving = *changes.borrow_and_update() == State::Yes && !stop.is_cancelled();
            health.set_service_status("", if serving { Serving } else { NotServing }).await;
            if stop.is_cancelled() {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_is_final_and_reasons_are_told() {
        let r = Readiness::default();
        assert_eq!(r.reason().as_deref(), Some("starting"));
        r.ready();
        assert!(r.is_ready() && r.reason().is_none());
        r.not_ready("Prometheus is down");
        assert_eq!(r.reason().as_deref(), Some("Prometheus is down"));
        r.close();
        r.ready();
        assert_eq!(r.reason().as_deref(), Some("shutting down"));
    }
}
