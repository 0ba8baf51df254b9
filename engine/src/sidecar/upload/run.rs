//! The loop: look, plan, ship, tell.

use super::backoff;
use super::guard::{self, Permit, TsdbFlags};
use super::ledger::Ledger;
use super::local::{self, Bad, Local};
use super::others::Others;
use super::plan::{self, Known, Plan};
use super::progress::{Listed, Progress};
use super::ship::{Failure, Shipped, Shipper};
use super::stage;
use super::status::Status;
use crate::server::Context;
use crate::sidecar::prometheus::Prometheus;
use crate::sidecar::watch::Watch;
use crate::storage::{InUse, Storage};
use args::files::hex;
use args::state::{SkipReason, Upload};
use args::{HashFunc, SidecarArgs};
use bucket::catalogue::Producer;
use bucket::{Advice, Kind, block};
use model::world::World;
use model::{BlockId, Labels};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tsdb::disk::Disk;

/// Files of a block that are sent at the same time, unless a flag says otherwise.
const CONCURRENCY: usize = 4;
/// Most that the flag may ask for.
const MAX_CONCURRENCY: usize = 64;
/// How long an upload under way may go on after the signal to stop. What is not done by then, the next start does.
const GRACE: Duration = Duration::from_secs(10);

/// Uploads the blocks of one Prometheus.
pub(in crate::sidecar) struct Uploader {
    prometheus: Prometheus,
    watch: Watch,
    storage: Storage,
    disk: Arc<dyn Disk>,
    data: PathBuf,
    progress: Progress,
    status: Status,
    settings: Settings,
    world: World,
    ledger: Option<Open>,
    /// What the progress file listed at the start: believed for what is told, until the bucket could be asked.
    listed: BTreeSet<BlockId>,
    flags: Option<Option<TsdbFlags>>,
}

/// What flags say.
struct Settings {
    compacted: bool,
    ignore_unequal: bool,
    overlaps: bool,
    hash: HashFunc,
    concurrency: usize,
    timeout: Duration,
    /// See [`super::blocking`].
    inline: bool,
}

/// What is known with respect to the bucket in use, and the way there.
struct Open {
    configuration: String,
    producer: String,
    ledger: Ledger,
    shipper: Shipper,
    /// The blocks on disk.
    local: BTreeSet<BlockId>,
    /// What else is in the bucket, once a pass needed it, until its end.
    others: Option<Others>,
}

/// How a pass went.
pub(super) enum Pass {
    /// Something is still missing; told where it belongs.
    Waiting,
    Good,
    Failed(String),
}

impl Uploader {
    /// The uploader that flags describe.
    pub(in crate::sidecar) fn new(
        args: &SidecarArgs,
        prometheus: Prometheus,
        watch: Watch,
        storage: Storage,
        disk: Arc<dyn Disk>,
        context: &Context,
    ) -> Self {
        let data = PathBuf::from(&args.tsdb_path);
        let concurrency = match usize::try_from(args.shipper_upload_concurrency).unwrap_or(MAX_CONCURRENCY) {
            0 => CONCURRENCY,
            n => n.min(MAX_CONCURRENCY),
        };
        Self {
            prometheus,
            watch,
            storage,
            progress: Progress::new(Arc::clone(&disk), data.join(&args.shipper_meta_file_name)),
            disk,
            data,
            status: Status::new(Arc::clone(&context.world.clock), &context.metrics),
            settings: Settings {
                compacted: args.shipper_upload_compacted.0,
                ignore_unequal: args.shipper_ignore_unequal_block_size.0,
                overlaps: args.shipper_allow_out_of_order_uploads.0,
                hash: args.hash_func,
                concurrency,
                timeout: args.prometheus_get_config_timeout.duration(),
                inline: false,
            },
            world: context.world.clone(),
            ledger: None,
            listed: BTreeSet::new(),
            flags: None,
        }
    }

    /// The same, on one thread.
    #[cfg(test)]
    pub(super) fn inline(mut self) -> Self {
        self.settings.inline = true;
        self
    }

    /// The blocks that are in the bucket, as far as it knows.
    #[cfg(test)]
    pub(super) fn committed(&self) -> BTreeSet<BlockId> {
        self.ledger.as_ref().map(|open| open.ledger.committed.clone()).unwrap_or_default()
    }

    /// Gives the section of the state document.
    pub(in crate::sidecar) fn state(&self) -> impl Fn() -> Upload + Send + Sync + 'static + use<> {
        let status = self.status.clone();
        move || status.get()
    }

    /// Uploads until `stop`, and a little longer where a block is under way.
    pub(in crate::sidecar) async fn run(mut self, stop: CancellationToken) {
        self.begin().await;
        let mut changes = self.storage.changes();
        let (mut failures, mut looks) = (0u32, 0u32);
        while !stop.is_cancelled() {
            // What changes from now on is news after the pass.
            changes.borrow_and_update();
            let grace = async {
                stop.cancelled().await;
                tokio::time::sleep(GRACE).await;
            };
            let pass = tokio::select! {
                pass = self.pass(&stop) => pass,
                () = grace => {
                    tracing::warn!("an upload was not done in time; the next start goes on with it");
                    return;
                }
            };
            let pause = match pass {
                Pass::Waiting => {
                    looks = looks.saturating_add(1);
                    backoff::soon(looks)
                }
                Pass::Good => {
                    (failures, looks) = (0, 0);
                    self.status.passed(None);
                    backoff::delay(0, 0)
                }
                Pass::Failed(error) => {
                    failures = failures.saturating_add(1);
                    let pause = backoff::delay(failures, self.world.entropy.next_u64());
                    tracing::warn!(%error, next_try = ?pause, "blocks could not be uploaded");
                    self.status.passed(Some(error));
                    pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                // Another configuration, or another verdict on the bucket. As long as the verdict stays, failures wait.
                _ = changes.changed(), if failures > 0 || looks > 0 => {}
            }
        }
    }

    /// Clears what a killed process left, and gives Prometheus a list to wait for: without a readable one it compacts
    /// everything.
    pub(super) async fn begin(&mut self) {
        let (disk, data, progress) = (Arc::clone(&self.disk), self.data.clone(), self.progress.clone());
        let outcome = super::blocking(self.settings.inline, move || {
            stage::clean(&*disk, &data)?;
            let (listed, problem) = progress.read();
            if let Some(problem) = problem {
                tracing::warn!(%problem, "the list of uploaded blocks can't be read; it is made anew from the bucket");
            }
            progress.write(&listed)?;
            Ok::<_, tsdb::Error>(listed)
        });
        match outcome.await {
            Ok(Ok(listed)) => self.listed = listed.all(),
            Ok(Err(error)) => tracing::warn!(%error, "the data directory of Prometheus can't be written"),
            Err(error) => tracing::warn!(%error, "the data directory of Prometheus can't be prepared"),
        }
    }

    async fn pass(&mut self, stop: &CancellationToken) -> Pass {
        let local = match self.scan().await {
            Ok(local) => local,
            Err(why) => return Pass::Failed(why),
        };
        let plan = self.plan(&local);
        self.status.planned(&plan);
        let labels = match self.permitted().await {
            Ok(labels) => labels,
            // Not asked yet is no refusal.
            Err(None) => return Pass::Waiting,
            Err(Some(why)) => {
                if self.status.refused(Some(why.clone())) {
                    tracing::warn!(reason = %why, "no block is uploaded");
                }
                return Pass::Waiting;
            }
        };
        self.status.refused(None);
        self.send(&local, &labels, stop).await
    }

    /// The blocks on disk.
    pub(super) async fn scan(&self) -> Result<Vec<Local>, String> {
        let (disk, data) = (Arc::clone(&self.disk), self.data.clone());
        match super::blocking(self.settings.inline, move || local::scan(&*disk, &data)).await {
            Ok(scanned) => scanned.map_err(|e| e.to_string()),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Sends what is to be sent under these labels, to the bucket in use.
    pub(super) async fn send(&mut self, local: &[Local], labels: &Labels, stop: &CancellationToken) -> Pass {
        let Some(in_use) = self.storage.in_use() else { return Pass::Waiting };
        let state = self.storage.state();
        if state.checked_at_ms.is_none() {
            return Pass::Waiting;
        }
        if let Some(error) = state.error {
            return Pass::Failed(error.message);
        }
        if let Err(e) = self.open(&in_use, labels).await {
            return self.failed(&e);
        }
        self.ship_all(local, labels, stop).await
    }

    fn plan(&self, local: &[Local]) -> Plan {
        let empty = Ledger::default();
        let (ledger, committed) = match &self.ledger {
            Some(open) => (&open.ledger, &open.ledger.committed),
            None => (&empty, &self.listed),
        };
        let upload_compacted = self.settings.compacted;
        let (claims, bad, due) = (&ledger.claims, &ledger.bad, &ledger.due);
        plan::plan(local, &Known { committed, claims, bad, due, upload_compacted })
    }

    /// The external labels, if blocks may be uploaded under them; or why not, as far as Prometheus has told.
    async fn permitted(&mut self) -> Result<Labels, Option<String>> {
        let seen = self.watch.seen();
        if seen.usable {
            match self.prometheus.tsdb_flags(self.settings.timeout).await {
                Ok(flags) => {
                    if self.flags.as_ref() != Some(&flags)
                        && let Permit::Risky(what) = self.judge(flags.as_ref())
                    {
                        tracing::warn!("{what}");
                    }
                    self.flags = Some(flags);
                }
                Err(error) => tracing::debug!(%error, "Prometheus does not tell its flags now"),
            }
            if let Ok(retention) = self.prometheus.retention(self.settings.timeout).await {
                self.status.retention(guard::retention_ms(&retention));
            }
        }
        if seen.external.is_empty() {
            return Err(seen.up.then(|| {
                "Prometheus has no external labels, so its blocks could not be told from those of others: set \
                 global.external_labels in its configuration"
                    .to_owned()
            }));
        }
        match self.flags.as_ref().map(|flags| self.judge(flags.as_ref())) {
            None => Err(None),
            Some(Permit::No(why)) => Err(Some(why)),
            Some(Permit::Yes | Permit::Risky(_)) => Ok(seen.external.clone()),
        }
    }

    fn judge(&self, flags: Option<&TsdbFlags>) -> Permit {
        guard::judge(flags, self.progress.path(), self.settings.ignore_unequal)
    }

    /// Makes sure that the ledger is of the bucket in use: one listing after a start or a change of the configuration.
    async fn open(&mut self, in_use: &InUse, labels: &Labels) -> Result<(), Failure> {
        let producer = producer_name(labels);
        if self.ledger.as_ref().is_some_and(|o| o.configuration == in_use.configuration && o.producer == producer) {
            return Ok(());
        }
        let catalogue = Producer::new(in_use.bucket.clone(), &producer)?;
        let own = catalogue.own().await?;
        let progress = self.progress.clone();
        let (listed, _) = super::blocking(self.settings.inline, move || progress.read()).await?;
        self.ledger = Some(Open {
            configuration: in_use.configuration.clone(),
            producer,
            ledger: Ledger::new(own, listed.all()),
            shipper: Shipper {
                bucket: in_use.bucket.clone(),
                catalogue,
                disk: Arc::clone(&self.disk),
                data: self.data.clone(),
                source: tsdb::meta::source::SIDECAR,
                hash: self.settings.hash,
                concurrency: self.settings.concurrency,
                world: self.world.clone(),
                inline: self.settings.inline,
            },
            local: BTreeSet::new(),
            others: None,
        });
        Ok(())
    }

    /// Ships what is planned. One block's failure is its own; the bucket's ends the pass.
    async fn ship_all(&mut self, local: &[Local], labels: &Labels, stop: &CancellationToken) -> Pass {
        let now = self.world.clock.elapsed();
        if let Some(open) = &mut self.ledger {
            open.local = local.iter().map(|l| l.id).collect();
            open.ledger.forget(&open.local, now);
            open.others = None;
        }
        let mut plan = self.plan(local);
        self.tell(&plan).await;
        let mut failed = None;
        let planned = [plan.next.clone(), plan.again.clone()].concat();
        for id in planned {
            if stop.is_cancelled() {
                break;
            }
            if !plan.next.contains(&id) && !plan.again.contains(&id) {
                // It went to the bucket within a block of this pass.
                continue;
            }
            let Some(facts) = local.iter().find(|l| l.id == id).and_then(|l| l.facts.as_ref().ok()) else { continue };
            let Some(open) = &mut self.ledger else { break };
            let alone = facts.level > 1 && !self.settings.overlaps;
            match open.one(id, labels, (facts.min_time, facts.max_time), alone).await {
                Ok(Shipped::Sent { bytes }) => {
                    tracing::info!(block = %id, bytes, "block uploaded");
                    self.status.uploaded(bytes);
                }
                Ok(Shipped::WasThere) => tracing::info!(block = %id, "block is in the bucket already"),
                Ok(Shipped::Gone) => tracing::info!(block = %id, "block vanished from disk before it was uploaded"),
                // Told with the plan.
                Ok(Shipped::Bad(_)) => {}
                Err(failure) => {
                    self.status.metrics.upload_failures.inc();
                    let text = format!("block {id}: {failure}");
                    if ends_the_pass(&failure) {
                        self.doubt(&failure);
                        self.tell(&self.plan(local)).await;
                        return Pass::Failed(text);
                    }
                    tracing::warn!(block = %id, error = %failure, "block could not be uploaded; others go on");
                    failed.get_or_insert(text);
                }
            }
            plan = self.plan(local);
            self.tell(&plan).await;
        }
        if let Some(open) = &mut self.ledger {
            open.others = None;
        }
        match failed {
            Some(error) => Pass::Failed(error),
            None => {
                let whole = !stop.is_cancelled() && self.plan(local).next.is_empty();
                self.status.metrics.compacted_done.set(i64::from(self.settings.compacted && whole));
                Pass::Good
            }
        }
    }

    /// Tells Prometheus and people how far it is.
    async fn tell(&self, plan: &Plan) {
        self.status.planned(plan);
        let listed = Listed { uploaded: plan.done.clone(), claimed: plan.claimed.clone() };
        let progress = self.progress.clone();
        match super::blocking(self.settings.inline, move || progress.write(&listed)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the list of uploaded blocks can't be written"),
            Err(error) => tracing::warn!(%error, "the list of uploaded blocks was not written"),
        }
    }

    /// The bucket has failed: its rights are tried again, all of them if one is missing.
    fn doubt(&self, failure: &Failure) {
        self.storage.doubt(matches!(failure, Failure::Bucket(e) if e.kind == Kind::Denied));
    }

    fn failed(&self, failure: &Failure) -> Pass {
        if ends_the_pass(failure) {
            self.doubt(failure);
        }
        Pass::Failed(failure.to_string())
    }
}

impl Open {
    /// Ships one block and notes what came of it. `range` is its time in ms; `alone`: no other block of that time may be there.
    async fn one(&mut self, id: BlockId, labels: &Labels, range: (i64, i64), alone: bool) -> Result<Shipped, Failure> {
        if self.ledger.doubtful(id) && !self.shipper.bucket.exists(&block::object(id, block::META)).await? {
            if let Some(within) = self.others(labels).await?.covered.get(&id).copied() {
                self.shipper.catalogue.covered(id, within).await?;
                self.ledger.commit(id);
                return Ok(Shipped::WasThere);
            }
            self.ledger.absent(id);
        }
        if alone && let Some(other) = self.others(labels).await?.overlapping(id, range) {
            let message = format!(
                "Prometheus has compacted it, and the bucket has block {other} of the same time and labels: upload it with \
                 --shipper.allow-out-of-order-uploads, or leave it, if its data is there"
            );
            return Ok(self.bad(id, Bad { reason: SkipReason::Overlaps, message }));
        }
        let look = self.ledger.tried(id);
        self.ledger.attempt(id);
        let shipped = Box::pin(self.shipper.ship(id, labels, look)).await;
        if let Err(Failure::Bucket(e)) = &shipped
            && (e.path.ends_with(block::META) || e.path.ends_with(".commit"))
        {
            // Whether it is whole is not known; until the next try, a compactor may take it.
            self.ledger.doubt(id);
        }
        Ok(match shipped? {
            Shipped::Bad(bad) => self.bad(id, bad),
            Shipped::Gone => {
                self.ledger.good(id);
                Shipped::Gone
            }
            there => {
                self.ledger.commit(id);
                if let Some(others) = &mut self.others {
                    others.joined(id, range);
                }
                there
            }
        })
    }

    fn bad(&mut self, id: BlockId, bad: Bad) -> Shipped {
        self.ledger.bad(id, bad.clone(), self.shipper.world.clock.elapsed());
        Shipped::Bad(bad)
    }

    /// What else is in the bucket. Asked at most once in a pass, and only for what is rare: compacted blocks, and blocks that
    /// may have been whole there though the catalogue doesn't say so.
    async fn others(&mut self, labels: &Labels) -> Result<&Others, Failure> {
        let others = match self.others.take() {
            Some(others) => others,
            None => Others::read(&self.shipper.bucket, &self.local, labels).await?,
        };
        Ok(self.others.insert(others))
    }
}

/// True if other blocks would fail in the same way.
fn ends_the_pass(failure: &Failure) -> bool {
    match failure {
        Failure::Bucket(e) => e.kind == Kind::Local || e.advice() != Advice::Skip,
        Failure::Disk(_) | Failure::Task(_) => false,
    }
}

/// The name of this producer in the catalogue: the same after a restart, different for other external labels.
fn producer_name(labels: &Labels) -> String {
    let mut hash = Sha256::new();
    for (name, value) in labels.iter() {
        hash.update(name.as_bytes());
        hash.update([0xff]);
        hash.update(value.as_bytes());
        hash.update([0xff]);
    }
    format!("sidecar-{}", hex(hash.finalize().get(..16).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::super::ship::tests::{block, labels, shipper};
    use super::*;
    use bucket::catalogue::Stage;
    use futures::TryStreamExt as _;
    use std::collections::BTreeMap;
    use std::path::Path;
    use std::sync::atomic::Ordering;
    use tsdb::meta::BlockMeta;

    fn open(data: &Path, id: BlockId, own: BTreeMap<BlockId, Stage>, claims: BTreeSet<BlockId>) -> Open {
        let (shipper, _) = shipper(data, 0);
        let ledger = Ledger::new(own, claims);
        let local = BTreeSet::from([id]);
        Open { configuration: String::new(), producer: String::new(), ledger, shipper, local, others: None }
    }

    /// Puts a block there that was made of others, under labels of another time.
    async fn compacted(open: &Open, sources: &[BlockId]) {
        let mut meta = BlockMeta::new(BlockId::from_parts(1_700_000_000_999, 9), 0, 7_200_000);
        meta.compaction.sources = sources.to_vec();
        let path = block::object(meta.id, block::META);
        let bucket = &open.shipper.bucket;
        bucket.create(&path, meta.write().unwrap()).await.unwrap();
        // Somebody's broken file is not our trouble.
        let broken = block::object(BlockId::from_parts(1_700_000_000_999, 10), block::META);
        bucket.create(&broken, "{").await.unwrap();
    }

    #[tokio::test]
    async fn what_was_compacted_in_the_bucket_meanwhile_does_not_come_back() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let intent = (BTreeMap::from([(id, Stage::Intent)]), BTreeSet::new());
        for (own, claims) in [intent, (BTreeMap::new(), BTreeSet::from([id]))] {
            let mut open = open(data.path(), id, own, claims);
            compacted(&open, &[id]).await;
            assert_eq!(open.one(id, &labels(), (0, 10), false).await.unwrap(), Shipped::WasThere);
            assert!(open.ledger.committed.contains(&id));
            // The next start knows it without asking the bucket.
            assert_eq!(open.shipper.catalogue.own().await.unwrap(), BTreeMap::from([(id, Stage::Commit)]));
            let Others { covered, .. } = Others::read(&open.shipper.bucket, &open.local, &labels()).await.unwrap();
            assert_eq!(covered.len(), 1);
            let names: Vec<_> = open.shipper.bucket.list("panoptes").map_ok(|m| m.path).try_collect().await.unwrap();
            assert!(names.len() == 1 && names[0].ends_with(&format!("/{id}.covered")), "{names:?}");
        }
        // Of something else: it is sent.
        let mut open = open(data.path(), id, BTreeMap::new(), BTreeSet::from([id]));
        compacted(&open, &[BlockId::from_parts(5, 5)]).await;
        assert!(matches!(open.one(id, &labels(), (0, 10), false).await.unwrap(), Shipped::Sent { .. }));
    }

    #[tokio::test]
    async fn no_byte_is_sent_before_the_intent_is_there() {
        let data = tempfile::tempdir().unwrap();
        let id = block(data.path());
        let mut open = open(data.path(), id, BTreeMap::new(), BTreeSet::new());
        let (shipper, refusals) = shipper(data.path(), 0);
        open.shipper = shipper;
        refusals.store(1, Ordering::SeqCst);
        assert!(open.one(id, &labels(), (0, 10), false).await.is_err());
        assert!(matches!(open.one(id, &labels(), (0, 10), false).await.unwrap(), Shipped::Sent { .. }));
        let producer = open.shipper.catalogue.name().to_owned();
        let intent = format!("{}{producer}/{id}.intent", bucket::catalogue::ROOT);
        assert!(open.shipper.bucket.exists(&intent).await.unwrap());
    }
}
