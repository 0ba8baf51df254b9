//! G09 and G12: power that goes, and a disk that is full and has room again; what lies on the disk is used again; an end in time.

use super::crashes::{block_on, heal, prepared, work};
use super::rivals::Virtual;
use super::*;
use model::world::World;
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use testkit::goal::Goal;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tsdb::disk::MemoryDisk;

#[test]
fn goal_g09_power_loss() {
    let goal = Goal::start("G09");
    let mut rng = goal.rng("losses");
    let prepared = block_on(prepared());
    let files = block_on(async {
        let site = prepared.copy();
        work(&site, &site.own_bucket()).await;
        site.disk.changes().len()
    });
    let losses = goal.pick(25, 500, 20_000);
    let all: Vec<(usize, u64)> = (0..losses).map(|_| (rng.below(files), rng.next_u64())).collect();
    let outcome = site::on_two_cores(&all, |(at, seed)| {
        block_on(async {
            let site = prepared.copy();
            site.disk.stop_before(*at);
            work(&site, &site.own_bucket()).await;
            let what = format!("the power went before change {at} of the disk, way {seed:#x}");
            site.verify(false).map_err(|e| format!("{what}: {e}"))?;
            heal(&site, site.disk.power_lost(*seed), &what).await
        })
    });
    outcome.unwrap_or_else(|e| panic!("{e}"));
    goal.figure(&format!("{losses} losses of power: 0 blocks damaged, each next start went on and ended all work"));
}

thread_local! {
    static FREE: Cell<Option<u64>> = const { Cell::new(None) };
}

fn free(_: &Path) -> Option<u64> {
    FREE.get()
}

/// A compactor on a disk that fills up: told beforehand by the free bytes, or only when a write fails.
async fn full(cycle: u64, told_before: bool) {
    let mut site = Site::new(raw());
    site.world =
        World { clock: Arc::new(Virtual(Instant::now(), T0 + 60 * HOUR)), entropy: Arc::clone(&site.world.entropy) };
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let disk = MemoryDisk::new();
    let mut compactor = site.compactor("one", Arc::new(disk.clone()));
    compactor.options.free = free;
    let bucket = site.own_bucket();
    let stop = CancellationToken::new();
    if told_before {
        FREE.set(Some(1000 + cycle));
    } else {
        FREE.set(None);
        disk.faults(move |n, _| (n as u64 > 4 + cycle).then_some(std::io::ErrorKind::StorageFull));
    }
    let course = async {
        sleep(Duration::from_secs(10)).await;
        let state = compactor.progress.state();
        if told_before {
            assert!(state.lacks_disk_bytes.is_some_and(|n| n > 0), "a full disk is not told: {state:?}");
        } else {
            assert!(state.failing_since_ms.is_some() && state.error.is_some(), "a full disk is not told: {state:?}");
        }
        site.verify(false).unwrap();
        assert!(site.blocks().values().all(|(m, _)| m.compaction.level == 1), "nothing can have been made");
        sleep(Duration::from_secs(600)).await;
        FREE.set(Some(1 << 40));
        disk.faults(|_, _| None);
        sleep(Duration::from_secs(30)).await;
        let state = compactor.progress.state();
        assert!(
            state.lacks_disk_bytes.is_none() && state.error.is_none(),
            "room is back, and it is not told: {state:?}"
        );
        let wide = site.blocks().values().filter(|(m, marked)| !marked && m.max_time - m.min_time == 8 * HOUR).count();
        assert_eq!(wide, 1, "room is back, and nothing was done in 30 s");
        site.verify(true).unwrap();
        stop.cancel();
    };
    tokio::join!(compactor.work(&bucket, Some(Duration::from_secs(300)), &stop), course);
}

#[test]
fn goal_g12_disk_full_and_back() {
    let goal = Goal::start("G12");
    let cycles = goal.pick(5, 50, 50);
    for cycle in 0..cycles {
        block_on(full(cycle, true));
        block_on(full(cycle, false));
    }
    goal.figure(&format!(
        "{cycles} cycles in two ways: told within 10 s, nothing damaged, work done within 30 s of room, without a restart"
    ));
}

/// What was fetched before a kill is not fetched again.
#[tokio::test(start_paused = true)]
async fn a_killed_compactor_goes_on_with_what_it_had_fetched() {
    let mut site = Site::new(raw());
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    // The first dies when the fourth block is being fetched.
    let fourth = site.blocks().into_keys().nth(3).unwrap();
    let at = {
        let trial = site.copy();
        trial.pass(&trial.own_bucket(), Arc::new(trial.disk.clone())).await.unwrap();
        let changes = trial.disk.changes();
        changes.iter().position(|c| format!("{c:?}").contains(&fourth.to_string())).unwrap()
    };
    site.disk.stop_before(at);
    assert!(site.pass(&site.own_bucket(), Arc::new(site.disk.clone())).await.is_err());
    let disk = site.disk.killed();
    let before = disk.files().keys().filter(|p| p.ends_with("index")).count();
    assert_eq!(before, 3);
    let counting = bucket::layers::faults::Faults::new(
        site.memory.clone(),
        Arc::clone(&site.world.entropy),
        bucket::layers::faults::Plan::default(),
    );
    let bucket = site.bucket(Arc::new(counting.clone()) as Arc<dyn bucket::store::Store>);
    site.pass(&bucket, Arc::new(disk)).await.unwrap();
    // An index and a segment, of the fourth block alone.
    assert_eq!(counting.calls().get("get_range"), Some(&2), "{:?}", counting.calls());
    site.verify(true).unwrap();
}

/// A compactor that is told to stop while its bucket hangs gives up at once, and its lease soon.
#[tokio::test(start_paused = true)]
async fn it_stops_within_ten_seconds_whatever_hangs() {
    let mut site = Site::new(raw());
    for n in 0..5 {
        site.block(n * 2 * HOUR, 2 * HOUR, &[("cluster", "a")]).await;
    }
    let plan = bucket::layers::faults::Plan { hangs: vec!["chunks/".to_owned()], ..Default::default() };
    let hanging =
        bucket::layers::faults::Faults::new(site.memory.clone(), Arc::clone(&site.world.entropy), plan.clone());
    let bucket = site.bucket(Arc::new(hanging.clone()) as Arc<dyn bucket::store::Store>);
    let compactor = site.compactor("one", Arc::new(MemoryDisk::new()));
    let stop = CancellationToken::new();
    let (mut asked, mut ended) = (None, None);
    let course = async {
        sleep(Duration::from_secs(20)).await;
        assert!(!compactor.progress.state().doing.is_empty(), "it hangs in its work");
        // The lease can't be given back either.
        hanging.set(bucket::layers::faults::Plan { hangs: vec![String::new()], ..plan });
        asked = Some(Instant::now());
        stop.cancel();
    };
    let working = async {
        compactor.work(&bucket, Some(Duration::from_secs(300)), &stop).await;
        ended = Some(Instant::now());
    };
    tokio::join!(working, course);
    assert!(ended.unwrap() - asked.unwrap() < Duration::from_secs(10));
    site.verify(false).unwrap();
}

/// The second of two stands by, says behind whom, and takes over when the first has given its lease back or is gone.
#[tokio::test(start_paused = true)]
async fn the_second_stands_by_and_takes_over() {
    let mut site = Site::new(raw());
    site.world =
        World { clock: Arc::new(Virtual(Instant::now(), T0 + 60 * HOUR)), entropy: Arc::clone(&site.world.entropy) };
    let (first, second) =
        (site.compactor("first", Arc::new(MemoryDisk::new())), site.compactor("second", Arc::new(MemoryDisk::new())));
    let (stop, stop_all) = (CancellationToken::new(), CancellationToken::new());
    let pause = Some(Duration::from_secs(60));
    let course = async {
        sleep(Duration::from_secs(5)).await;
        let lease = second.progress.state().lease.unwrap();
        assert!(!lease.held && lease.holder == "first", "{lease:?}");
        assert!(first.progress.state().lease.unwrap().held);
        stop.cancel();
        // At its next attempt, since the lease was given back.
        sleep(Duration::from_secs(20)).await;
        let lease = second.progress.state().lease.unwrap();
        assert!(lease.held && lease.epoch == 2, "{lease:?}");
        stop_all.cancel();
    };
    let (one, two) = (site.own_bucket(), site.own_bucket());
    let later = async {
        sleep(Duration::from_secs(1)).await;
        second.work(&two, pause, &stop_all).await
    };
    tokio::join!(first.work(&one, pause, &stop), later, course);
}
