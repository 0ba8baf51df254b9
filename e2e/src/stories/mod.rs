//! The end-to-end stories: what users are promised, tried on real clusters. A story is a file; it is named for a row of the
//! acceptance table (`t01_…`) only if it does that row's whole check, else `tNN_part_…`; bad input is `bad_…`.

mod bad_bucket;
mod bad_fields;
mod bad_operator_gone;
mod bad_remotes;
mod bad_rights;
mod bad_scrape_config;
mod bad_two_remotes;
mod rights_suffice;
mod t01_fleet_from_one_cluster;
mod t04_sidecar_archives;
mod t07_store_serves_history;
mod t08_cache_is_disposable;
mod t09_store_follows_bucket;
mod t10_part_live_range;
mod t10_range_over_history;
mod t11_dedup_steady;
mod t12_dedup_fills_gaps;
mod t13_part_queries;
mod t14_compaction;
mod t15_five_minutes;
mod t16_an_hour;
mod t18_one_file;
mod t20_rights_on_the_bucket;
mod t21_secret;
mod t22_part_apply_and_delete;
mod t23_part_workloads;
mod t25_pods;
mod t26_part_store_api_names;
mod t27_part_store_api_addresses;
mod t31_part_cluster_label;
mod t32_name_and_intervals;
mod t33_second_cluster;
mod t34_own_name;
mod t35_exposed_with_mtls;
mod t36_part_remote_bucket;
mod t36_remote_by_address;
mod t37_remote_by_name;
mod t38_part_stores_api;
mod t41_hot_reload;
mod t44_filesystem;
mod t44_s3;
mod t46_one_cluster_down;
mod t50_three_clusters;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

pub use world::World;

use crate::cluster::{self, Cluster, LAB, Lock, OPS, PROD, STAGING};
use crate::say;

/// What a story uses; two that change the same thing don't run at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// Which pods of the fleet run in ops.
    OpsPods,
    /// Which clusters ops is linked to.
    OpsLinks,
    /// The fleet's stack in prod.
    Prod,
    /// The fleet's stack in staging.
    Staging,
    /// The operator in lab.
    Lab,
    /// The tutorial's stack in lab.
    Tutorial,
}

impl Thing {
    fn clusters(self) -> &'static [Cluster] {
        match self {
            // A look at one part of the fleet needs all of it.
            Self::OpsPods | Self::OpsLinks | Self::Prod | Self::Staging => &[OPS, PROD, STAGING],
            Self::Lab | Self::Tutorial => &[LAB],
        }
    }
}

/// A story.
#[derive(Debug, Clone, Copy)]
pub struct Story {
    /// Its name, as its file's.
    pub name: &'static str,
    /// What it changes for others.
    pub changes: &'static [Thing],
    /// What must not change under it.
    pub needs: &'static [Thing],
    /// What it does.
    pub run: fn(&World) -> anyhow::Result<()>,
}

/// Long ones first; of those that change the same thing, in this order.
const ALL: &[Story] = &[
    t21_secret::STORY,
    t44_s3::STORY,
    t14_compaction::STORY,
    t07_store_serves_history::STORY,
    t10_range_over_history::STORY,
    t04_sidecar_archives::STORY,
    t44_filesystem::STORY,
    t16_an_hour::STORY,
    t15_five_minutes::STORY,
    t12_dedup_fills_gaps::STORY,
    t20_rights_on_the_bucket::STORY,
    bad_bucket::STORY,
    t36_part_remote_bucket::STORY,
    t09_store_follows_bucket::STORY,
    t08_cache_is_disposable::STORY,
    t18_one_file::STORY,
    t01_fleet_from_one_cluster::STORY,
    t10_part_live_range::STORY,
    t31_part_cluster_label::STORY,
    t38_part_stores_api::STORY,
    bad_scrape_config::STORY,
    bad_rights::STORY,
    t33_second_cluster::STORY,
    t35_exposed_with_mtls::STORY,
    bad_fields::STORY,
    t11_dedup_steady::STORY,
    t23_part_workloads::STORY,
    t25_pods::STORY,
    t26_part_store_api_names::STORY,
    t32_name_and_intervals::STORY,
    t41_hot_reload::STORY,
    t13_part_queries::STORY,
    t27_part_store_api_addresses::STORY,
    t36_remote_by_address::STORY,
    t37_remote_by_name::STORY,
    bad_two_remotes::STORY,
    t34_own_name::STORY,
    bad_remotes::STORY,
    t46_one_cluster_down::STORY,
    t50_three_clusters::STORY,
    t22_part_apply_and_delete::STORY,
    bad_operator_gone::STORY,
];

/// Looks back at everything that ran before.
const LAST: &[Story] = &[rights_suffice::STORY];

/// The stories whose names contain one of the words; all without words.
pub fn chosen(words: &[String]) -> Vec<Story> {
    let wanted = |s: &&Story| words.is_empty() || words.iter().any(|w| s.name.contains(w.as_str()));
    ALL.iter().chain(LAST).filter(wanted).copied().collect()
}

/// Runs stories on real clusters; the last line says `N passed, M failed, K flaky`. A story that fails is told again, only to
/// learn which of the two it is: one that then passes is flaky, which is said loudly but doesn't fail the run, since these
/// machines are loaded.
///
/// # Errors
/// When clusters or fleet don't come up, no story has such a name, or one fails twice.
pub fn run(binary: &Path, words: &[String], keep: bool) -> anyhow::Result<()> {
    let stories = chosen(words);
    anyhow::ensure!(!stories.is_empty(), "no story has {} in its name", words.join(" or "));
    let used: Vec<Thing> = stories.iter().flat_map(|s| [s.changes, s.needs].concat()).collect();
    let mut clusters: Vec<Cluster> = used.iter().flat_map(|t| t.clusters()).copied().collect();
    clusters.sort();
    clusters.dedup();
    let total = stories.len();
    let lock = Lock::take("stories")?;
    let told = on_clusters(&lock, binary, stories, &clusters);
    // Whatever happened: no process, mount or namespace is left behind.
    if !keep {
        for cluster in &clusters {
            if let Err(error) = cluster::down(cluster) {
                say::step(&format!("{} could not be ended: {error:#}", cluster.name));
            }
        }
        cluster::remove_folders();
    }
    let told = told?;
    let of = |wanted: Outcome| told.iter().filter(move |t| t.outcome == wanted);
    // Short, since of a long log often only the end is kept; the whole text stands where it happened.
    let brief = |text: &str| text.lines().next().unwrap_or_default().chars().take(400).collect::<String>();
    for story in of(Outcome::Failed) {
        say::plain(&format!("failed: {}: {}", story.name, brief(&story.first)));
    }
    for story in of(Outcome::Flaky) {
        say::plain(&format!(
            "FLAKY: {} passed only when it was told again; at first: {}",
            story.name,
            brief(&story.first)
        ));
    }
    let (failed, flaky) = (of(Outcome::Failed).count(), of(Outcome::Flaky).count());
    say::plain(&format!("{} passed, {failed} failed, {flaky} flaky", total - failed - flaky));
    anyhow::ensure!(failed == 0, "{failed} of {total} stories failed");
    Ok(())
}

/// How a story that failed once ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It failed again.
    Failed,
    /// It passed when it was told again.
    Flaky,
}

/// A story that failed once.
#[derive(Debug, Clone)]
struct Told {
    name: &'static str,
    outcome: Outcome,
    /// Why it failed at first.
    first: String,
}

/// Starts the clusters and runs the stories; gives those that failed at least once.
fn on_clusters(lock: &Lock, binary: &Path, stories: Vec<Story>, clusters: &[Cluster]) -> anyhow::Result<Vec<Told>> {
    let world = World::create(lock, binary, clusters)?;
    say::step(&format!("running {} stories", stories.len()));
    let is_last = |s: &Story| LAST.iter().any(|l| l.name == s.name);
    let (last, first): (Vec<Story>, Vec<Story>) = stories.into_iter().partition(is_last);
    let mut told = run_all(&world, &first, 6);
    told.extend(run_all(&world, &last, 1));
    Ok(told)
}

#[derive(Default)]
struct Schedule {
    waiting: Vec<Story>,
    running: Vec<Story>,
    told: Vec<Told>,
}

impl Schedule {
    /// Takes the first story that doesn't disturb a running one, nor one that waits before it.
    fn take(&mut self) -> Option<Story> {
        let at = (0..self.waiting.len()).find(|&at| {
            let story = &self.waiting[at];
            let before = self.waiting[..at].iter().filter(|s| overlap(s.changes, story.changes));
            before.count() == 0 && !self.running.iter().any(|other| disturb(story, other))
        })?;
        let story = self.waiting.remove(at);
        self.running.push(story);
        Some(story)
    }
}

fn overlap(a: &[Thing], b: &[Thing]) -> bool {
    a.iter().any(|x| b.contains(x))
}

fn disturb(a: &Story, b: &Story) -> bool {
    overlap(a.changes, b.changes) || overlap(a.changes, b.needs) || overlap(a.needs, b.changes)
}

fn run_all(world: &World, stories: &[Story], workers: usize) -> Vec<Told> {
    let schedule = Mutex::new(Schedule { waiting: stories.to_vec(), ..Schedule::default() });
    let changed = Condvar::new();
    let lock = || schedule.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let mut now = lock();
                    let story = loop {
                        if let Some(story) = now.take() {
                            break story;
                        }
                        if now.waiting.is_empty() {
                            return;
                        }
                        now = changed.wait(now).unwrap_or_else(PoisonError::into_inner);
                    };
                    drop(now);
                    let told = tell_twice(&story, |attempt| tell(world, &story, attempt));
                    let mut now = lock();
                    now.running.retain(|s| s.name != story.name);
                    now.told.extend(told);
                    changed.notify_all();
                }
            });
        }
    });
    schedule.into_inner().unwrap_or_else(PoisonError::into_inner).told
}

/// Tells a story, and once more if it fails; `None` if it passes at once.
fn tell_twice(story: &Story, mut tell: impl FnMut(usize) -> Result<(), String>) -> Option<Told> {
    let first = tell(1).err()?;
    say::step(&format!("{} is told again, to learn whether it always fails", story.name));
    let outcome = if tell(2).is_ok() { Outcome::Flaky } else { Outcome::Failed };
    Some(Told { name: story.name, outcome, first })
}

/// The name of a story that must fail when it is told for the first time: a trial of the retry itself.
const FAILS_ONCE: &str = "PANOPTES_STORY_FAILS_ONCE";

fn tell(world: &World, story: &Story, attempt: usize) -> Result<(), String> {
    let start = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let on_purpose = attempt == 1 && std::env::var(FAILS_ONCE).is_ok_and(|name| name == story.name);
        anyhow::ensure!(!on_purpose, "it fails once because {FAILS_ONCE} says so");
        (story.run)(world)
    }))
    .unwrap_or_else(|_| Err(anyhow::anyhow!("it panicked; the message is above")));
    let seconds = start.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => {
            say::step(&format!("ok     {} ({seconds:.1} s)", story.name));
            Ok(())
        }
        Err(error) => {
            let error = format!("{error:#}");
            say::step(&format!("FAILED {} ({seconds:.1} s): {error}", story.name));
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nothing(_: &World) -> anyhow::Result<()> {
        Ok(())
    }

    const fn story(name: &'static str, changes: &'static [Thing], needs: &'static [Thing]) -> Story {
        Story { name, changes, needs, run: nothing }
    }

    #[test]
    fn a_change_waits_for_those_that_need_and_keeps_its_place() {
        let look = story("look", &[], &[Thing::Lab]);
        let first = story("first", &[Thing::Lab], &[]);
        let second = story("second", &[Thing::Lab], &[]);
        let other = story("other", &[Thing::Prod], &[]);
        let mut schedule = Schedule { waiting: vec![look, first, second, other], ..Schedule::default() };
        assert_eq!(schedule.take().unwrap().name, "look");
        assert_eq!(schedule.take().unwrap().name, "other");
        assert!(schedule.take().is_none());
        schedule.running.clear();
        assert_eq!(schedule.take().unwrap().name, "first");
        assert!(schedule.take().is_none());
    }

    #[test]
    fn a_story_that_passes_the_second_time_is_flaky_and_not_failed() {
        let story = story("s", &[], &[]);
        let of = |results: [Result<(), String>; 2]| {
            let mut results = results.into_iter();
            tell_twice(&story, |_| results.next().unwrap())
        };
        let no = || Err("because".to_owned());
        assert!(of([Ok(()), no()]).is_none());
        assert_eq!(of([no(), Ok(())]).unwrap().outcome, Outcome::Flaky);
        let failed = of([no(), Err("again".to_owned())]).unwrap();
        assert_eq!((failed.outcome, failed.first.as_str()), (Outcome::Failed, "because"));
    }

    #[test]
    fn every_file_is_a_story_of_its_name() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/stories");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().trim_end_matches(".rs").to_owned())
            .filter(|name| name != "mod" && name != "world")
            .collect();
        files.sort();
        let mut names: Vec<&str> = chosen(&[]).iter().map(|s| s.name).collect();
        names.sort_unstable();
        assert_eq!(files, names);
    }
}
