//! One pass: look, plan, do, and look again, until nothing is left to do.

use super::effects::{Done, Effects};
use super::item::{self, Bench, Made};
use super::look::{Look, Seen};
use super::metrics::{OfMark, resolution};
use super::{Compactor, Fault, Options, producer};
use bucket::Bucket;
use bucket::catalogue::{Producer, fold};
use bucket::lease::{Claims, Lease, Taken};
use futures::StreamExt as _;
use model::{BlockId, Labels};
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tsdb::BlockMeta;
use tsdb::plan::{self, Action, Item, Plan, Snapshot, Why};

/// Rounds of one pass: more are not needed by far, since each makes blocks wider.
const ROUNDS: usize = 100;
/// So many rounds of planning are looked ahead for the forecast; fewer in a bucket where that would plan for more blocks in all.
const AHEAD: usize = 100;
const AHEAD_BLOCKS: usize = 1_000_000;
/// Marks and deletions at the same time.
const EFFECTS: usize = 16;
/// Entries of the catalogue from which on they are folded.
const FOLD: usize = 256;

/// What a tenure keeps from pass to pass.
pub(super) struct Tenure {
    bucket: Bucket,
    lease: Lease,
    look: Look,
    claims: Claims,
    /// Announced blocks that are forgotten, and of which nothing is left: their entries in the catalogue may go.
    dead: BTreeSet<BlockId>,
    /// Blocks that the last look showed, of others' shares, too.
    shown: BTreeSet<BlockId>,
    /// Streams that other scopes have, as the last pass found.
    taken: BTreeMap<Labels, Taken>,
}

/// Why something is left alone.
pub(super) struct Failed {
    pub(super) why: String,
    /// It is tried again without anybody's doing.
    pub(super) waits: bool,
}

impl Failed {
    fn stays(why: &str) -> Self {
        Self { why: why.to_owned(), waits: false }
    }
}

/// What an item left behind.
struct Outcome {
    item: Item,
    result: Result<Made, Fault>,
}

impl Tenure {
    pub(super) fn new(compactor: &Compactor, bucket: &Bucket, lease: &Lease) -> Self {
        let since = *compactor.since.get_or_init(|| lease.record().since_ms);
        Self {
            look: Look::new(bucket.clone(), compactor.options.metas, compactor.share.clone(), since),
            claims: Claims::new(bucket.clone(), lease.clone()),
            bucket: bucket.clone(),
            lease: lease.clone(),
            dead: BTreeSet::new(),
            shown: BTreeSet::new(),
            taken: BTreeMap::new(),
        }
    }

    /// The streams that the last pass left to other scopes, in words, and the longest that this can last if none of those lives.
    pub(super) fn taken(&self) -> Option<(Option<Duration>, String)> {
        let (stream, by) = self.taken.first_key_value()?;
        let what = format!(
            "{} of the streams are another compactor's, as {stream}, which {} has for the scope {}: end it first, then try again",
            self.taken.len(),
            by.holder,
            by.scope
        );
        Some((self.taken.values().filter_map(|by| by.left).max(), what))
    }

    /// Works until nothing is left to do.
    ///
    /// # Errors
    /// What stopped it, or what at least one item failed with: other items went on.
    pub(super) async fn pass(&mut self, compactor: &Compactor) -> Result<(), Fault> {
        let catalogue = producer(&self.bucket, &compactor.share.scope)?;
        // What was tried in this pass, and what failed and why: a listing may be behind, and nothing is tried twice.
        let mut tried: BTreeSet<String> = BTreeSet::new();
        let mut failed: BTreeMap<String, Failed> = BTreeMap::new();
        let (mut first_fault, mut lacks_disk) = (None, false);
        for round in 0..ROUNDS {
            self.lease.check()?;
            let seen = self.see(compactor).await?;
            let now = compactor.world.clock.now_ms();
            compactor.progress.metrics.cleanup_loops.inc_by(u64::from(round == 0));
            let plan = decide(compactor, &seen.snapshot, now, round == 0).await?;
            let items = self.choose(compactor, &seen, &plan, &tried, &mut failed).await?;
            failed.extend(seen.broken.iter().map(|(id, what)| (id.to_string(), Failed::stays(what))));
            compactor.progress.held(&plan.held, &failed);
            let cleared = self.clear(compactor, &catalogue, &seen, &mut tried).await?;
            if items.is_empty() {
                if let Some(e) = seen.errors.into_iter().next() {
                    first_fault.get_or_insert(Fault::Bucket(e));
                }
                if !cleared {
                    // What lies there for a piece of work that is over takes room for nothing.
                    if first_fault.is_none() && compactor.busy.try_write().is_ok() {
                        item::clean(compactor, &|_| false)?;
                    }
                    break;
                }
                continue;
            }
            tried.extend(items.iter().map(key));
            let used: BTreeSet<BlockId> = items.iter().flat_map(|i| i.action.blocks().to_vec()).collect();
            // Work that was given up may still be writing.
            drop(compactor.busy.write().await);
            item::clean(compactor, &|id| used.contains(id))?;
            let effects = self.effects();
            let announced = self.look.announced();
            let bench = Bench { compactor, effects, catalogue: catalogue.clone(), seen: &seen, announced };
            let outcomes = tokio::select! {
                biased;
                outcomes = run(&bench, items) => outcomes,
                never = self.meanwhile(compactor, &used) => match never {},
            };
            for Outcome { item, result } in outcomes {
                match result {
                    Ok(made) => {
                        match (&item.action, made.moot) {
                            (_, Some(why)) => drop(failed.insert(item.to_string(), Failed { why, waits: true })),
                            (Action::Delete(id), None) => self.look.deleted(*id),
                            _ => {}
                        }
                        made.blocks.into_iter().for_each(|meta| self.look.made(meta));
                    }
                    Err(fault) => {
                        tracing::warn!(item = %item, error = %fault, "failed");
                        if let Fault::Space { needed, free } = fault {
                            compactor.progress.lacks_disk(needed.saturating_sub(free));
                            lacks_disk = true;
                        }
                        failed.insert(item.to_string(), Failed { why: fault.to_string(), waits: fault.waits() });
                        // What belongs to one block is told where the block is marked, and no failure of the pass.
                        if fault.ends_pass() {
                            first_fault = Some(fault);
                        } else if !matches!(fault, Fault::Block { .. }) {
                            first_fault.get_or_insert(fault);
                        }
                    }
                }
            }
            if first_fault.as_ref().is_some_and(Fault::ends_pass) {
                break;
            }
        }
        if lacks_disk {
            // What lies there for later takes room, too.
            drop(compactor.busy.write().await);
            item::clean(compactor, &|_| false)?;
        }
        match first_fault {
            Some(fault) if fault.ends_pass() => Err(fault),
            fault => {
                self.fold().await?;
                fault.map_or(Ok(()), Err)
            }
        }
    }

    fn effects(&self) -> Effects {
        Effects { bucket: self.bucket.clone(), lease: self.lease.clone(), marked: self.look.marked() }
    }

    async fn see(&mut self, compactor: &Compactor) -> Result<Seen, Fault> {
        let (clock, metrics) = (&compactor.world.clock, &compactor.progress.metrics);
        let begin = clock.elapsed();
        metrics.syncs.inc();
        let seen = self.look.look().await;
        metrics.sync_duration.observe(clock.elapsed().saturating_sub(begin).as_secs_f64());
        if seen.is_err() {
            metrics.sync_failures.inc();
        }
        let seen = seen?;
        self.shown.clone_from(&seen.there);
        self.dead.clone_from(&seen.dead);
        compactor.progress.deletions_stopped(seen.foreign.clone());
        compactor.progress.blocks(seen.snapshot.blocks.values().map(|b| b.meta.clone()).collect());
        Ok(seen)
    }

    /// The items of a plan that may be done now, by this one.
    async fn choose(
        &mut self,
        compactor: &Compactor,
        seen: &Seen,
        plan: &Plan,
        tried: &BTreeSet<String>,
        failed: &mut BTreeMap<String, Failed>,
    ) -> Result<Vec<Item>, Fault> {
        let replicas = &compactor.settings.replica_labels;
        let wanted = compactor.options.wanted;
        let new = plan.items.iter().filter(|item| wanted(item) && !tried.contains(&key(item)));
        // What takes blocks away is a foreign compactor's, if there is one: see `foreign`.
        let allowed = |item: &&Item| seen.foreign.is_none() || !takes_away(item);
        let items: Vec<Item> = new.filter(allowed).cloned().collect();
        let of = |item: &Item| stream(&seen.snapshot, item, replicas);
        let streams: BTreeSet<Labels> = items.iter().filter_map(of).collect();
        let taken = self.claims.claim(&streams).await?;
        for (stream, by) in &taken {
            let why = format!("{} compacts it, for the scope {}", by.holder, by.scope);
            failed.insert(stream.to_string(), Failed { why, waits: true });
        }
        self.taken.clone_from(&taken);
        Ok(items.into_iter().filter(|item| of(item).is_none_or(|s| !taken.contains_key(&s))).collect())
    }

    /// Brings to an end what our own uploads left that broke off: commits what is whole, clears away the rest. Tells whether
    /// something was cleared away.
    async fn clear(
        &mut self,
        compactor: &Compactor,
        catalogue: &Producer,
        seen: &Seen,
        tried: &mut BTreeSet<String>,
    ) -> Result<bool, Fault> {
        let effects = self.effects();
        // A predecessor was killed between meta.json and commit.
        for meta in &seen.uncommitted {
            if effects.is_whole(meta).await? {
                self.lease.check()?;
                catalogue.commit(meta).await?;
                self.look.made(BlockMeta::clone(meta));
            }
        }
        let mut some = false;
        let wanted = |id: BlockId| {
            let (action, why) = (Action::Delete(id), Why::UploadBrokeOff { age: 0 });
            seen.foreign.is_none() && (compactor.options.wanted)(&Item { action, why })
        };
        for (id, forgotten) in seen.broken_off.iter().filter(|(id, _)| wanted(**id)) {
            // Once in a pass: a listing may be behind.
            if tried.insert(format!("clear {id}")) && effects.clear(*id, *forgotten).await? == Done::Yes {
                compactor.progress.metrics.partial_deletions.inc();
                tracing::info!(block = %id, "what an upload of ours left that broke off is cleared away");
                self.look.cleared(*id);
                some = true;
            }
        }
        Ok(some)
    }

    /// What goes on beside the work of a round, which may take hours: deletions that fall due, and how much there is to do.
    async fn meanwhile(&mut self, compactor: &Compactor, used: &BTreeSet<BlockId>) -> Infallible {
        let clock = &compactor.world.clock;
        let Options { cleanup, count, .. } = &compactor.options;
        let mut last = (clock.elapsed(), clock.elapsed());
        loop {
            let left = |every: &Duration, last: Duration| match every {
                every if every.is_zero() => Duration::MAX,
                every => (last + *every).saturating_sub(clock.elapsed()),
            };
            let pause = left(cleanup, last.0).min(left(count, last.1));
            if pause == Duration::MAX {
                return std::future::pending().await;
            }
            tokio::time::sleep(pause).await;
            let (is_due, counts) = (left(cleanup, last.0).is_zero(), left(count, last.1).is_zero());
            if let Err(fault) = self.clean(compactor, used, is_due, counts).await {
                // The next round meets it, too.
                tracing::warn!(error = %fault, "deletions beside other work failed");
            }
            if is_due {
                last.0 = clock.elapsed();
            }
            if counts {
                last.1 = clock.elapsed();
            }
        }
    }

    /// Deletes what is due, but for blocks that are in `used`; counts what there is to do, if asked.
    async fn clean(
        &mut self,
        compactor: &Compactor,
        used: &BTreeSet<BlockId>,
        deletes: bool,
        counts: bool,
    ) -> Result<(), Fault> {
        self.lease.check()?;
        let seen = self.see(compactor).await?;
        let plan = decide(compactor, &seen.snapshot, compactor.world.clock.now_ms(), counts).await?;
        let items = self.choose(compactor, &seen, &plan, &BTreeSet::new(), &mut BTreeMap::new()).await?;
        let is_due = |item: &&Item| deletes && matches!(&item.action, Action::Delete(id) if !used.contains(id));
        let effects = self.effects();
        let catalogue = producer(&self.bucket, &compactor.share.scope)?;
        let bench = Bench { compactor, effects, catalogue, seen: &seen, announced: self.look.announced() };
        compactor.progress.metrics.cleanup_loops.inc_by(u64::from(deletes));
        let due: Vec<Item> = items.iter().filter(is_due).cloned().collect();
        let doing = futures::stream::iter(due).map(|item| async { (one(&bench, &item).await, item) });
        let done: Vec<(Result<Made, Fault>, Item)> = doing.buffer_unordered(EFFECTS).collect().await;
        let mut failed = None;
        for (result, item) in done {
            match (&item.action, result) {
                (Action::Delete(id), Ok(Made { moot: None, .. })) => self.look.deleted(*id),
                (_, Err(fault)) => drop(failed.get_or_insert(fault)),
                _ => {}
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Makes one document of many entries of the catalogue, and lets it forget what is gone.
    async fn fold(&mut self) -> Result<(), Fault> {
        let shown = |id: &BlockId| self.shown.contains(id);
        let folding = fold(&self.bucket, &mut self.look.catalogue, &self.lease, &shown, &self.dead, FOLD).await?;
        if folding != Default::default() {
            tracing::info!(entries = folding.entries, gone = folding.gone, "the catalogue was folded");
        }
        Ok(())
    }
}

/// Tells items apart.
fn key(item: &Item) -> String {
    format!("{:?}", item.action)
}

/// Whether blocks are deleted or marked for deletion by it, be it as sources.
fn takes_away(item: &Item) -> bool {
    matches!(item.action, Action::Delete(_) | Action::MarkForDeletion(_) | Action::Compact(_))
}

/// Plans, and judges the plan by its laws; forecasts, if asked. Off the async threads: a large bucket takes seconds, and the
/// lease has to be renewed meanwhile.
async fn decide(compactor: &Compactor, snapshot: &Arc<Snapshot>, now: i64, ahead: bool) -> Result<Plan, Fault> {
    let (snapshot, settings) = (Arc::clone(snapshot), compactor.settings.clone());
    let progress = compactor.progress.clone();
    item::blocking(compactor, move || {
        let plan = plan::make(&snapshot, now, &settings);
        if let Some(broken) = plan::laws::check(&snapshot, now, &settings, &plan).first() {
            return Err(Fault::Held(broken.to_string()));
        }
        if ahead || plan.items.is_empty() {
            let rounds = (AHEAD_BLOCKS / snapshot.blocks.len().max(1)).clamp(3, AHEAD);
            progress.todo(&plan::forecast(&snapshot, now, &settings, rounds));
        }
        Ok(plan)
    })
    .await
}

/// The labels of the stream that an item is about; none for what is no block.
fn stream(snapshot: &Snapshot, item: &Item, replicas: &[String]) -> Option<Labels> {
    let block = snapshot.blocks.get(item.action.blocks().first()?)?;
    Some(plan::without_replicas(&block.meta.labels(), replicas))
}

/// Does items: marks and deletions first, then work, several at a time.
async fn run(bench: &Bench<'_>, items: Vec<Item>) -> Vec<Outcome> {
    let (work, effects): (Vec<Item>, Vec<Item>) =
        items.into_iter().partition(|i| matches!(i.action, Action::Compact(_) | Action::Downsample(..)));
    let (coarser, wider): (Vec<Item>, Vec<Item>) =
        work.into_iter().partition(|i| matches!(i.action, Action::Downsample(..)));
    let bytes = |items: &[Item]| bench.bytes_of(items.iter().flat_map(|i| i.action.blocks()));
    bench.compactor.progress.round(bytes(&coarser).saturating_add(bytes(&wider)));
    let options = &bench.compactor.options;
    let mut outcomes = Vec::new();
    for (group, at_once) in [(effects, EFFECTS), (wider, options.compactions), (coarser, options.downsamplings)] {
        let mut doing = futures::stream::iter(group)
            .map(|item| async move {
                let result = one(bench, &item).await;
                if let Some(told) = &bench.compactor.options.told {
                    // Whoever asked may be gone.
                    let _ = told.send(match &result {
                        Ok(Made { moot: Some(why), .. }) => format!("not done: {item}: {why}"),
                        Ok(_) => format!("done: {item}"),
                        Err(fault) => format!("failed: {item}: {fault}"),
                    });
                }
                Outcome { item, result }
            })
            .buffer_unordered(at_once.max(1));
        while let Some(outcome) = doing.next().await {
            let ends = outcome.result.as_ref().is_err_and(Fault::ends_pass);
            outcomes.push(outcome);
            if ends {
                return outcomes;
            }
        }
    }
    outcomes
}

/// Does one item. A block that is to blame for its failure is marked.
async fn one(bench: &Bench<'_>, item: &Item) -> Result<Made, Fault> {
    let metrics = &bench.compactor.progress.metrics;
    let marked = |marker, reason| metrics.marked.get_or_create(&OfMark { marker, reason }).inc();
    let (effects, snapshot) = (&bench.effects, &bench.seen.snapshot);
    let told = |done: Done| match done {
        Done::Yes => {
            tracing::info!(item = %item, "done");
            Made::default()
        }
        Done::Moot(why) => {
            tracing::info!(item = %item, why, "not done");
            Made { moot: Some(why), ..Made::default() }
        }
    };
    let of = |id: &BlockId| resolution(snapshot.blocks.get(id).map_or(0, |b| b.meta.resolution()));
    match &item.action {
        Action::Delete(id) => {
            let deleted = effects.delete(*id, &item.why, snapshot, &bench.compactor.settings).await;
            match &deleted {
                Ok(Done::Yes) if matches!(item.why, Why::UploadBrokeOff { .. }) => metrics.partial_deletions.inc(),
                Ok(Done::Yes) => metrics.cleaned.inc(),
                Ok(Done::Moot(_)) => 0,
                Err(_) => metrics.cleanup_failures.inc(),
            };
            Ok(told(deleted?))
        }
        Action::MarkForDeletion(id) => {
            let done = effects.condemn(*id, &item.why, snapshot).await?;
            if done == Done::Yes {
                if matches!(item.why, Why::Superseded { .. }) {
                    metrics.garbage_blocks.inc();
                    metrics.garbage_runs.inc();
                }
                marked("deletion-mark.json", "");
            }
            Ok(told(done))
        }
        Action::MarkNoCompact(id, reason) => {
            effects.no_compact(*id, reason, &item.why.to_string()).await?;
            marked("no-compact-mark.json", reason);
            Ok(told(Done::Yes))
        }
        Action::Compact(c) => {
            let label = c.blocks.first().map(of).unwrap_or_else(|| resolution(0));
            metrics.runs_started.get_or_create(&label).inc();
            let working = bench.compactor.progress.begin(item.to_string(), bytes_of(bench, item));
            let made = bench.compact(c, &working).await;
            drop(working);
            match &made {
                Ok(_) => {
                    metrics.compactions.get_or_create(&label).inc();
                    metrics.runs_completed.get_or_create(&label).inc();
                    if c.overlap {
                        metrics.vertical.get_or_create(&label).inc();
                    }
                }
                Err(_) => drop(metrics.failures.get_or_create(&label).inc()),
            }
            if let Err(Fault::Block { block, reason, what }) = &made {
                effects.no_compact(*block, reason, what).await?;
                marked("no-compact-mark.json", reason);
            }
            made
        }
        Action::Downsample(id, to) => {
            let (label, clock) = (of(id), &bench.compactor.world.clock);
            let begin = clock.elapsed();
            let working = bench.compactor.progress.begin(item.to_string(), bytes_of(bench, item));
            let made = bench.downsample(*id, to, &working).await;
            drop(working);
            match &made {
                Ok(_) => {
                    metrics.downsampled.get_or_create(&label).inc();
                    let took = clock.elapsed().saturating_sub(begin);
                    metrics.downsample_duration.get_or_create(&label).observe(took.as_secs_f64());
                }
                Err(_) => drop(metrics.downsample_failures.get_or_create(&label).inc()),
            }
            if let Err(Fault::Block { block, reason, what }) = &made {
                effects.no_downsample(*block, reason, what).await?;
                marked("no-downsample-mark.json", reason);
            }
            made
        }
    }
}

fn bytes_of(bench: &Bench<'_>, item: &Item) -> u64 {
    bench.bytes_of(item.action.blocks())
}
