use super::*;
use crate::Options;
use crate::layers::faults::{Faults, Plan};
use model::Labels;
use model::world::{Clock, RealEntropy, World};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that a test moves; the two hands can be moved apart.
#[derive(Default)]
struct Hands {
    elapsed: AtomicU64,
    asleep: AtomicU64,
}

impl Hands {
    fn pass(&self, ms: u64) {
        self.elapsed.fetch_add(ms, Ordering::SeqCst);
    }
    /// The machine sleeps: only the wall clock goes on.
    fn sleep(&self, ms: u64) {
        self.asleep.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> i64 {
        (1_700_000_000_000 + self.elapsed.load(Ordering::SeqCst) + self.asleep.load(Ordering::SeqCst)) as i64
    }
    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.elapsed.load(Ordering::SeqCst))
    }
}

const TTL: Duration = Duration::from_secs(10);

fn bucket() -> (Bucket, Arc<Hands>) {
    let hands = Arc::new(Hands::default());
    let world = World { clock: hands.clone(), entropy: Arc::new(RealEntropy) };
    (Bucket::memory(Options::new(world)), hands)
}

fn contender(bucket: &Bucket, name: &str) -> Contender {
    Contender::new(bucket.clone(), "all", "", name, TTL)
}

async fn held(contender: &mut Contender) -> Lease {
    match contender.attempt().await.unwrap() {
        Attempt::Held(lease) => lease,
        Attempt::StandBy(other, _) => panic!("{other:?} has it"),
    }
}

async fn stands_by(contender: &mut Contender) -> (String, Duration) {
    match contender.attempt().await.unwrap() {
        Attempt::Held(lease) => panic!("{:?} holds it", lease.record()),
        Attempt::StandBy(other, left) => (other.holder, left),
    }
}

#[tokio::test]
async fn one_holds_it_the_next_waits_its_whole_time_and_the_first_notices() {
    let (bucket, hands) = bucket();
    let (mut a, mut b) = (contender(&bucket, "a"), contender(&bucket, "b"));
    let first = held(&mut a).await;
    assert_eq!((first.record().epoch, first.record().holder.as_str()), (1, "a"));
    first.confirm().await.unwrap();
    assert_eq!(stands_by(&mut b).await, ("a".to_owned(), Duration::from_secs(11)));
    hands.pass(8_000);
    assert_eq!(stands_by(&mut b).await.1, Duration::from_secs(3));
    // Renewed: all the waiting was for nothing.
    first.renew(false).await.unwrap();
    hands.pass(8_000);
    assert_eq!(stands_by(&mut b).await.1, Duration::from_secs(11));
    first.check().unwrap();
    // The holder gives up before the other one takes it.
    hands.pass(1_001);
    let Error::Lost(why) = first.check().unwrap_err() else { panic!("lost") };
    assert!(why.contains("not renewed in time"), "{why}");
    assert_eq!(first.lost().await, why);
    hands.pass(8_000);
    assert!(stands_by(&mut b).await.1 <= Duration::from_secs(2));
    hands.pass(2_000);
    let second = held(&mut b).await;
    assert_eq!(second.record().epoch, 2);
    assert!(first.confirm().await.is_err() && first.renew(false).await.is_err());
    second.confirm().await.unwrap();
}

#[tokio::test]
async fn one_that_was_given_back_is_taken_at_once_and_own_ones_too() {
    let (bucket, hands) = bucket();
    let (mut a, mut b) = (contender(&bucket, "a"), contender(&bucket, "b"));
    let first = held(&mut a).await;
    hands.pass(60_000);
    assert!(first.check().is_err());
    let again = held(&mut a).await;
    assert_eq!(again.record().epoch, 2, "the same process takes up what it let go");
    again.release().await;
    assert!(again.check().is_err());
    assert_eq!(held(&mut b).await.record().epoch, 3);
}

#[tokio::test]
async fn a_machine_that_slept_has_lost_it_and_so_has_one_whose_lease_another_wrote() {
    let (bucket, hands) = bucket();
    let lease = held(&mut contender(&bucket, "a")).await;
    hands.sleep(9_001);
    assert!(matches!(lease.check(), Err(Error::Lost(_))));

    let (bucket, _) = self::bucket();
    let lease = held(&mut contender(&bucket, "a")).await;
    let stolen = Record { holder: "b".into(), run: "other".into(), epoch: 2, ..lease.record().clone() };
    bucket.put(&lease_path("all"), bytes(&stolen).unwrap()).await.unwrap();
    lease.check().unwrap();
    let Error::Lost(why) = lease.confirm().await.unwrap_err() else { panic!("lost") };
    assert_eq!(why, "b holds it now, epoch 2");
    assert!(lease.check().is_err(), "from now on without asking");
    // One that can't be read is nobody's to take.
    bucket.put(&lease_path("all"), "no document").await.unwrap();
    let error = contender(&bucket, "c").attempt().await.unwrap_err();
    assert!(error.kind == Kind::Corrupt && error.what.contains("make sure that no compactor runs"), "{error}");
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_is_found_again() {
    let (bucket, _) = bucket();
    let lease = held(&mut contender(&bucket, "a")).await;
    // As if it had been written and nobody had told.
    let written = Record { renewals: 1, ..lease.record().clone() };
    bucket.put(&lease_path("all"), bytes(&written).unwrap()).await.unwrap();
    lease.renew(false).await.unwrap();
    lease.confirm().await.unwrap();
}

/// Time as the runtime has it.
struct Virtual(tokio::time::Instant);

impl Clock for Virtual {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + self.0.elapsed().as_millis() as i64
    }
    fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn one_renewal_that_hangs_does_not_cost_the_lease() {
    let clock: Arc<dyn Clock> = Arc::new(Virtual(tokio::time::Instant::now()));
    let world = World { clock: Arc::clone(&clock), entropy: Arc::new(RealEntropy) };
    let store = Faults::new(crate::Memory::new(clock), Arc::clone(&world.entropy), Plan::default());
    let bucket = Bucket::over(Arc::new(store.clone()), "test", Options::new(world));
    let lease = held(&mut contender(&bucket, "a")).await;
    let kept = lease.clone();
    let keeping = tokio::spawn(async move { kept.keep().await });
    tokio::time::sleep(TTL / 8).await;
    store.set(Plan { hangs: vec![ROOT.to_owned()], ..Plan::default() });
    tokio::time::sleep(TTL / 4).await;
    store.set(Plan::default());
    // The one that hangs goes on hanging.
    tokio::time::sleep(TTL * 2).await;
    lease.confirm().await.unwrap();
    keeping.abort();
}

#[tokio::test]
async fn a_stream_is_one_scopes_until_that_ones_lease_is_over() {
    let (bucket, hands) = bucket();
    let streams: BTreeSet<Labels> = ["a", "b"].map(|v| Labels::from_pairs([("cluster", v)])).into();
    let lease = held(&mut Contender::new(bucket.clone(), "even", "", "x", TTL)).await;
    let mut even = Claims::new(bucket.clone(), lease.clone());
    assert!(even.claim(&streams).await.unwrap().is_empty());
    let other = held(&mut Contender::new(bucket.clone(), "all", "", "y", TTL)).await;
    let mut all = Claims::new(bucket.clone(), other.clone());
    let third = Labels::from_pairs([("cluster", "c")]);
    let more: BTreeSet<Labels> = streams.iter().cloned().chain([third.clone()]).collect();
    let taken = all.claim(&more).await.unwrap();
    assert_eq!(taken.keys().cloned().collect::<BTreeSet<_>>(), streams);
    let left = Some(Duration::from_secs(11));
    assert_eq!(taken.values().next().unwrap(), &Taken { scope: "even".into(), holder: "x".into(), left });
    assert_eq!(even.claim(&more).await.unwrap().into_keys().collect::<Vec<_>>(), [third]);
    lease.release().await;
    assert!(all.claim(&more).await.unwrap().is_empty());
    // The one that comes back finds its streams gone.
    let lease = held(&mut Contender::new(bucket.clone(), "even", "", "x", TTL)).await;
    let mut even = Claims::new(bucket.clone(), lease);
    assert_eq!(even.claim(&streams).await.unwrap().len(), 2);
    // Without a lease nothing is claimed.
    hands.pass(60_000);
    let fourth = BTreeSet::from([Labels::from_pairs([("cluster", "d")])]);
    assert!(matches!(all.claim(&fourth).await, Err(Error::Lost(_))));
}
