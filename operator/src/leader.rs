//! Which of several operators works: election through a Lease.
//!
//! A record counts as alive for its duration from when *we* last saw it change, on our monotonic clock: clocks of
//! machines need not agree. Every write carries the resourceVersion that it was decided on. A leader that can't renew
//! stops working [`Timing::renew_deadline`] after its last renewal began, which is before anybody else may take over.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use model::world::World;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

/// How patient everybody is.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long others wait for a record that doesn't change.
    pub lease: Duration,
    /// How long the leader goes on working without a renewal; shorter than `lease` by more than a request takes.
    pub renew_deadline: Duration,
    /// Time between two attempts; candidates add up to 20 % at random.
    pub retry: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { lease: Duration::from_secs(15), renew_deadline: Duration::from_secs(10), retry: Duration::from_secs(2) }
    }
}

/// The right to write, asked before every write.
#[derive(Clone, Debug)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    fn closed() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// A fence that never closes: for one operator alone, as in tests.
    #[must_use]
    pub fn open() -> Self {
        Self(Arc::new(Mutex::new(Some(Instant::now() + Duration::from_secs(30 * 365 * 86_400)))))
    }

    /// Whether we are the leader and certain of it.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.lock().is_some_and(|until| Instant::now() < until)
    }

    fn set(&self, until: Option<Instant>) {
        *self.0.lock() = until;
    }
}

/// A candidate.
pub struct Candidate {
    leases: Api<Lease>,
    name: String,
    identity: String,
    timing: Timing,
    world: World,
    fence: Fence,
    /// The record as last seen, and when we saw it change.
    seen: Option<(Lease, Instant)>,
}

/// Why leading ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Asked,
    Lost,
    WorkDone,
}

impl Candidate {
    /// A candidate for the Lease `namespace/name`. A random suffix keeps a restarted process apart from its predecessor.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str, timing: Timing, world: World) -> Self {
        let identity = format!("{identity}_{:016x}", world.entropy.next_u64());
        let leases = Api::namespaced(client, namespace);
        Self { leases, name: name.to_owned(), identity, timing, world, fence: Fence::closed(), seen: None }
    }

    /// The fence that holds while this candidate leads.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Runs `work` whenever this candidate leads, until `stop`. `work` is dropped, and with it every request of its, as
    /// soon as the lease can't be relied on; after `stop` the lease is handed back.
    pub async fn run<W, F>(mut self, stop: CancellationToken, mut work: W)
    where
        W: FnMut() -> F,
        F: Future<Output = ()>,
    {
        while !stop.is_cancelled() {
            let Some(renewed) = self.acquire(&stop).await else { break };
            tracing::info!(lease = %self.name, identity = %self.identity, "leading");
            let end = tokio::select! {
                biased;
                () = stop.cancelled() => End::Asked,
                () = self.renew(renewed) => End::Lost,
                () = work() => End::WorkDone,
            };
            self.fence.set(None);
            match end {
                End::Lost => tracing::warn!(lease = %self.name, "the lease could not be renewed in time: standing by"),
                End::Asked | End::WorkDone => self.release().await,
            }
        }
    }

    /// Waits until the lease is ours; the moment that the deciding request began. `None`: told to stop.
    async fn acquire(&mut self, stop: &CancellationToken) -> Option<Instant> {
        loop {
            let began = Instant::now();
            let deadline = began + self.timing.renew_deadline;
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                attempt = timeout_at(deadline, self.attempt()) => match attempt {
                    Ok(Ok(true)) => {
                        self.fence.set(Some(deadline));
                        return Some(began);
                    }
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "asking for the lease failed"),
                    Err(_) => tracing::warn!(lease = %self.name, "asking for the lease took too long"),
                },
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(self.jittered()) => {}
            }
        }
    }

    /// Renews until that fails for too long.
    async fn renew(&mut self, mut renewed: Instant) {
        loop {
            let deadline = renewed + self.timing.renew_deadline;
            sleep_until((Instant::now() + self.timing.retry).min(deadline)).await;
            let began = Instant::now();
            if began >= deadline {
                return;
            }
            match timeout_at(deadline, self.attempt()).await {
                Ok(Ok(true)) => {
                    renewed = began;
                    self.fence.set(Some(renewed + self.timing.renew_deadline));
                }
                Ok(Ok(false)) => return, // somebody else has it
                Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "renewing the lease failed"),
                Err(_) => return,
            }
        }
    }

    /// One attempt to take or renew the lease.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(current) = self.leases.get_opt(&self.name).await? else {
            let fresh = Lease {
                metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.record(None)),
            };
            return self.wrote(self.leases.create(&PostParams::default(), &fresh).await);
        };
        let now = Instant::now();
        let version = |lease: &Lease| lease.metadata.resource_version.clone();
        if self.seen.as_ref().is_none_or(|(seen, _)| version(seen) != version(&current)) {
            self.seen = Some((current.clone(), now));
        }
        let spec = current.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let changed = self.seen.as_ref().map_or(now, |(_, at)| *at);
        let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
        if !holder.is_empty() && holder != self.identity && changed + Duration::from_secs(seconds) > now {
            return Ok(false);
        }
        let next = Lease { spec: Some(self.record(Some(&spec))), ..current };
        self.wrote(self.leases.replace(&self.name, &PostParams::default(), &next).await)
    }

    fn wrote(&mut self, answer: kube::Result<Lease>) -> kube::Result<bool> {
        // A conflict is an error too: somebody else was faster, and the next attempt sees their record.
        self.seen = Some((answer?, Instant::now()));
        Ok(true)
    }

    fn record(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::from_millisecond(self.world.clock.now_ms()).unwrap_or_default());
        let ours = before.filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.timing.lease.as_secs()).ok(),
            acquire_time: ours.and_then(|spec| spec.acquire_time.clone()).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if before.is_some() && ours.is_none() { transitions + 1 } else { transitions }),
            ..LeaseSpec::default()
        }
    }

    /// Hands the lease back, so that the next one need not wait; best effort, and only if it is still ours.
    async fn release(&mut self) {
        let Some((lease, _)) = self.seen.take() else { return };
        let Some(spec) = lease.spec.clone().filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        else {
            return;
        };
        let spec = LeaseSpec { holder_identity: Some(String::new()), lease_duration_seconds: Some(1), ..spec };
        let free = Lease { spec: Some(spec), ..lease };
        let params = PostParams::default();
        match timeout_at(Instant::now() + Duration::from_secs(3), self.leases.replace(&self.name, &params, &free)).await
        {
            Ok(Ok(_)) => tracing::info!(lease = %self.name, "lease handed back"),
            Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "the lease was not handed back; it runs out"),
            Err(_) => tracing::warn!(lease = %self.name, "the lease was not handed back in time; it runs out"),
        }
    }

    fn jittered(&self) -> Duration {
        let share = u32::try_from(self.world.entropy.next_u64() % 201).unwrap_or(0);
        self.timing.retry + self.timing.retry * share / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response, StatusCode};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

    /// An API server that knows one Lease, checks resourceVersions, and can hang or refuse.
    #[derive(Default)]
    struct Server {
        lease: Mutex<Option<Lease>>,
        version: AtomicU64,
        hang: AtomicBool,
        refuse: AtomicBool,
    }

    impl Server {
        fn client(self: &Arc<Self>) -> Client {
            let server = self.clone();
            Client::new(
                tower::service_fn(move |request: Request<Body>| {
                    let server = server.clone();
                    async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
                }),
                "default",
            )
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            while self.hang.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(100)).await;
            }
            if self.refuse.load(Ordering::SeqCst) {
                return fail(StatusCode::INTERNAL_SERVER_ERROR, "InternalError");
            }
            let method = request.method().clone();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut lease = self.lease.lock();
            if method == Method::GET {
                return lease.as_ref().map_or_else(|| fail(StatusCode::NOT_FOUND, "NotFound"), ok);
            }
            let mut sent: Lease = serde_json::from_slice(&body).unwrap();
            let current = lease.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
            if method == Method::POST && lease.is_some() {
                return fail(StatusCode::CONFLICT, "AlreadyExists");
            }
            if method == Method::PUT && (current.is_none() || sent.metadata.resource_version != current) {
                return fail(StatusCode::CONFLICT, "Conflict");
            }
            let version = self.version.fetch_add(1, Ordering::SeqCst) + 1;
            sent.metadata.resource_version = Some(version.to_string());
            let answer = ok(&sent);
            *lease = Some(sent);
            answer
        }

        fn holder(&self) -> String {
            let lease = self.lease.lock();
            lease.as_ref().and_then(|l| l.spec.clone()).and_then(|s| s.holder_identity).unwrap_or_default()
        }
    }

    fn ok(lease: &Lease) -> Response<Body> {
        Response::new(Body::from(serde_json::to_vec(lease).unwrap()))
    }

    fn fail(code: StatusCode, reason: &str) -> Response<Body> {
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": code.as_u16(), "reason": reason, "message": reason,
        });
        Response::builder().status(code).body(Body::from(serde_json::to_vec(&status).unwrap())).unwrap()
    }

    struct Running {
        stop: CancellationToken,
        fence: Fence,
        working: Arc<AtomicUsize>,
        task: tokio::task::JoinHandle<()>,
    }

    /// Counts itself as working while it is not dropped.
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn start(server: &Arc<Server>, identity: &str) -> Running {
        let candidate = Candidate::new(server.client(), "ns", "operator", identity, Timing::default(), World::real());
        let (stop, fence, working) = (CancellationToken::new(), candidate.fence(), Arc::new(AtomicUsize::new(0)));
        let counter = working.clone();
        let task = tokio::spawn(candidate.run(stop.clone(), move || {
            counter.fetch_add(1, Ordering::SeqCst);
            let guard = Guard(counter.clone());
            async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            }
        }));
        Running { stop, fence, working, task }
    }

    impl Running {
        fn works(&self) -> bool {
            self.working.load(Ordering::SeqCst) > 0
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_works_and_hands_over() {
        let server = Arc::new(Server::default());
        let a = start(&server, "a");
        sleep(Duration::from_secs(1)).await;
        let b = start(&server, "b");
        sleep(Duration::from_secs(60)).await;
        assert!(a.works() && a.fence.holds(), "the first leads for as long as it renews");
        assert!(!b.works() && !b.fence.holds());
        a.stop.cancel();
        a.task.await.unwrap();
        assert_eq!(server.holder(), "", "released");
        assert!(!a.fence.holds());
        sleep(Duration::from_secs(4)).await;
        assert!(b.works(), "taken over without waiting for the lease to run out");
        let spec = server.lease.lock().clone().unwrap().spec.unwrap();
        assert_eq!(spec.lease_transitions, Some(1));
        b.stop.cancel();
        b.task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_cut_off_stops_before_another_can_start() {
        let server = Arc::new(Server::default());
        let a = start(&server, "a");
        sleep(Duration::from_secs(3)).await;
        assert!(a.works());
        // From now on the API server of `a` hangs: both share it, so `b` gets one of its own with the same record.
        let lease = server.lease.lock().clone();
        let other = Arc::new(Server { version: AtomicU64::new(100), ..Server::default() });
        *other.lease.lock() = lease;
        server.hang.store(true, Ordering::SeqCst);
        let b = start(&other, "b");
        let mut stopped = None;
        let mut started = None;
        for tick in 0..300u32 {
            sleep(Duration::from_millis(100)).await;
            assert!(!(a.works() && b.works()), "two leaders after {tick} ticks");
            assert!(!(a.fence.holds() && b.fence.holds()));
            if !a.works() && stopped.is_none() {
                stopped = Some(tick);
            }
            if b.works() && started.is_none() {
                started = Some(tick);
            }
        }
        let (stopped, started) = (stopped.expect("a stopped"), started.expect("b started"));
        assert!(stopped + 40 < started, "a stopped at {stopped}, b started at {started}");
        // When its API server answers again, the old leader sees that the lease ran out and competes as anybody does.
        server.hang.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(20)).await;
        assert!(a.works());
    }

    #[tokio::test(start_paused = true)]
    async fn short_trouble_costs_nothing() {
        let server = Arc::new(Server::default());
        let a = start(&server, "a");
        sleep(Duration::from_secs(3)).await;
        server.refuse.store(true, Ordering::SeqCst);
        for _ in 0..60 {
            sleep(Duration::from_millis(100)).await;
            assert!(a.works() && a.fence.holds());
        }
        server.refuse.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(30)).await;
        assert!(a.works() && a.fence.holds());
        // For longer than the deadline, it stops.
        server.refuse.store(true, Ordering::SeqCst);
        sleep(Duration::from_secs(13)).await;
        assert!(!a.works() && !a.fence.holds());
    }

    #[tokio::test(start_paused = true)]
    async fn clocks_of_machines_need_not_agree() {
        let server = Arc::new(Server::default());
        // A record from a machine whose clock is a year ahead, not renewed any more.
        let ahead = MicroTime(Timestamp::now() + jiff::SignedDuration::from_hours(8760));
        *server.lease.lock() = Some(Lease {
            metadata: ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() },
            spec: Some(LeaseSpec {
                holder_identity: Some("gone".into()),
                lease_duration_seconds: Some(15),
                renew_time: Some(ahead),
                ..LeaseSpec::default()
            }),
        });
        let a = start(&server, "a");
        sleep(Duration::from_secs(14)).await;
        assert!(!a.works(), "the record is respected for its duration");
        sleep(Duration::from_secs(5)).await;
        assert!(a.works());
    }
}
