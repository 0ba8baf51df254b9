//! Puts the parts of a compactor together.

use super::share::Share;
use super::tenure::End;
use super::{Compactor, Options, space};
use crate::server::{self, Context, Service, expand};
use crate::storage::{Storage, part_name, web};
use anyhow::{Context as _, bail, ensure};
use args::CompactArgs;
use args::state::State;
use bucket::verify::Right;
use model::world::World;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tsdb::disk::RealDisk;
use tsdb::plan::{Finding, Retention, Settings};
use tsdb::series::Dedup;

/// Shortest lease. It is renewed four times as often, and Google takes about one write a second to one object.
const SHORTEST_LEASE: Duration = Duration::from_secs(1);

/// The labels of replicas; several may be given at once, with commas.
fn replica_labels(args: &CompactArgs) -> Vec<String> {
    args.replica_labels.iter().flat_map(|l| l.split(',')).filter(|l| !l.is_empty()).map(str::to_owned).collect()
}

/// The labels of blocks that retention is for.
///
/// # Errors
/// When one is not written as NAME=VALUE.
pub(crate) fn retention_labels(flags: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty())?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    };
    flags
        .iter()
        .map(|text| pair(text).with_context(|| format!("--retention.external-label={text}: write it as NAME=VALUE")))
        .collect()
}

/// What becomes of samples of chunks that overlap.
fn dedup(args: &CompactArgs) -> anyhow::Result<Dedup> {
    match args.dedup_func.as_str() {
        "" => {
            if !replica_labels(args).is_empty() {
                tracing::warn!(
                    "--deduplication.replica-label without --deduplication.func=penalty keeps all samples of all replicas: right \
                     for identical copies only; of two Prometheus interleaved counters look as if they fell"
                );
            }
            Ok(Dedup::Merge)
        }
        "penalty" => {
            ensure!(
                !replica_labels(args).is_empty(),
                "--deduplication.func=penalty needs to know the replicas: give --deduplication.replica-label, or leave it out"
            );
            Ok(Dedup::Penalty)
        }
        other => bail!("--deduplication.func={other} is not known: it is penalty, or left out"),
    }
}

/// What flags say of how a bucket is to be kept.
fn settings(args: &CompactArgs) -> anyhow::Result<Settings> {
    ensure!((1..=4).contains(&args.max_level), "--debug.max-compaction-level is 1, 2, 3 or 4");
    ensure!(
        args.halt_on_error.0,
        "--no-debug.halt-on-error can't be had: nothing halts here, one bad block costs one block; leave the flag out"
    );
    ensure!(
        !args.accept_malformed_index.0,
        "--debug.accept-malformed-index can't be had: a block whose index is malformed is marked, told, and left alone, and the \
         others go on; leave the flag out"
    );
    let replica_labels = replica_labels(args);
    let mut settings = Settings {
        merge: args.vertical.0 || !replica_labels.is_empty(),
        replica_labels,
        max_index_bytes: args.max_index_size.0,
        downsample: !args.downsampling_disable.0,
        retention: Retention {
            raw: args.retention_raw.0,
            five_minutes: args.retention_5m.0,
            one_hour: args.retention_1h.0,
        },
        retention_labels: retention_labels(&args.retention_labels)?,
        delete_delay: args.delete_delay.0,
        consistency_delay: args.consistency_delay.0,
        ..Settings::default()
    };
    settings.ranges.truncate(usize::try_from(args.max_level).unwrap_or(4) + 1);
    let mut refused = Vec::new();
    for finding in settings.check() {
        match finding {
            Finding::Refused(what) => refused.push(what),
            Finding::Warning(what) => tracing::warn!("{what}"),
        }
    }
    ensure!(refused.is_empty(), "these settings can't be used: {}", refused.join("; "));
    Ok(settings)
}

/// Runs a compactor until `shutdown`, or for one pass without `--wait`.
///
/// # Errors
/// When flags can't be used, an address is taken, or the one pass failed.
pub async fn run(args: CompactArgs, world: World, shutdown: CancellationToken) -> anyhow::Result<()> {
    let context = Context::new("compact", world.clone());
    let (settings, dedup) = (settings(&args)?, dedup(&args)?);
    let selector = expand::option("selector.relabel-config", &args.selector, &args.selector_file)?;
    let share = Share::new(&selector, &args.min_time, &args.max_time, &settings.replica_labels)?;
    let lease = args.lease_duration.duration();
    ensure!(lease >= SHORTEST_LEASE, "--lease.duration is at least {} s", SHORTEST_LEASE.as_secs());
    let Some(storage) = Storage::new(
        (&args.objstore_config, &args.objstore_config_file),
        &part_name("compact"),
        Right::COMPACTOR,
        args.objstore_check_interval.duration(),
        &context,
    )?
    else {
        bail!("a compactor works on a bucket: give --objstore.config-file or --objstore.config");
    };
    let at_once = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).clamp(1, 1024);
    let options = Options {
        name: part_name("compact"),
        lease,
        compactions: at_once(args.compact_concurrency),
        downsamplings: at_once(args.downsample_concurrency),
        fetches: at_once(args.fetch_concurrency),
        files: at_once(args.block_files_concurrency),
        metas: at_once(args.meta_concurrency),
        dedup,
        hash: args.hash_func,
        cleanup: args.cleanup_interval.duration(),
        count: args.progress_interval.duration(),
        wanted: |_| true,
        inline: false,
        told: None,
        free: space::free,
    };
    let compactor =
        Compactor::new(Arc::new(RealDisk), PathBuf::from(&args.data_dir), (settings, share), options, &context);
    compactor.disk.create_dir(&compactor.dir).context("--data-dir")?;
    let _lock = space::lock(&compactor.dir)?;
    let bound = server::bind(&args.server).await?;
    let stop = shutdown.child_token();
    let (bucket, progress) = (storage.clone(), compactor.progress.clone());
    let state = move || State { bucket: Some(bucket.state()), compaction: Some(progress.state()), ..State::default() };
    let http = if args.web_disable.0 {
        axum::Router::new()
    } else {
        let progress = compactor.progress.clone();
        web::router(args.web_label.clone(), Arc::new(move |_| progress.list()))
    };
    let grpc = tonic::service::Routes::default();
    let service = Service { component: "compact", http, grpc, state: Arc::new(state) };
    context.ready.ready();
    let interval = args.wait.0.then(|| args.wait_interval.duration().max(Duration::from_secs(1)));
    let serving = async {
        let outcome = bound.serve(context.clone(), service, stop.clone()).await;
        stop.cancel();
        outcome
    };
    let working = async {
        let outcome = work(&compactor, &storage, interval, &stop).await;
        stop.cancel();
        outcome
    };
    let (served, worked, ()) = tokio::join!(serving, working, storage.clone().run(stop.clone()));
    worked.and(served)
}

/// Works with whichever bucket is configured.
async fn work(
    compactor: &Compactor,
    storage: &Storage,
    interval: Option<Duration>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut changes = storage.changes();
    while !stop.is_cancelled() {
        changes.borrow_and_update();
        let Some(in_use) = storage.in_use() else {
            if interval.is_none() {
                let why = storage.state().configuration_error.unwrap_or_default();
                bail!("there is no bucket to work on: {why}");
            }
            tokio::select! {
                _ = changes.changed() => continue,
                () = stop.cancelled() => return Ok(()),
            }
        };
        let until = stop.child_token();
        let another = async {
            while changes.changed().await.is_ok() {
                if storage.in_use().is_some_and(|now| now.configuration != in_use.configuration) {
                    until.cancel();
                    return;
                }
            }
        };
        let working = compactor.work(&in_use.bucket, interval, &until);
        tokio::pin!(working);
        let end = tokio::select! {
            end = &mut working => end,
            () = another => working.await,
        };
        match end {
            // Ended by another configuration, the one pass begins anew.
            End::Over if interval.is_none() && !until.is_cancelled() => return Ok(()),
            End::Over => {}
            End::StandsBy(holder) => bail!("{holder} has the lease on this bucket: end it first, or run with --wait"),
            End::Failed(fault) => return Err(fault.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_that_defeat_themselves_are_refused_and_commas_split() {
        let args = CompactArgs { replica_labels: vec!["a,b".into(), "c".into()], ..CompactArgs::default() };
        let found = settings(&args).unwrap();
        assert!(found.merge && found.replica_labels == ["a", "b", "c"]);
        let days = |n: i64| args::Millis(n * 86_400_000);
        for (args, says) in [
            (CompactArgs { retention_raw: days(1), ..CompactArgs::default() }, "raw data is kept for 1d only"),
            (CompactArgs { retention_labels: vec!["cluster".into()], ..CompactArgs::default() }, "NAME=VALUE"),
            (CompactArgs { halt_on_error: args::Switch(false), ..CompactArgs::default() }, "nothing halts here"),
            (CompactArgs { accept_malformed_index: args::Switch(true), ..CompactArgs::default() }, "is marked, told"),
            (CompactArgs { max_level: 5, ..CompactArgs::default() }, "1, 2, 3 or 4"),
        ] {
            let error = settings(&args).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let by = |func: &str, labels: &[&str]| {
            let replica_labels = labels.iter().map(|l| (*l).to_owned()).collect();
            dedup(&CompactArgs { dedup_func: func.to_owned(), replica_labels, ..CompactArgs::default() })
        };
        assert!(by("chain", &[]).unwrap_err().to_string().contains("chain is not known"));
        assert!(by("penalty", &[]).unwrap_err().to_string().contains("--deduplication.replica-label"));
        assert_eq!((by("", &["a"]).unwrap(), by("penalty", &["a"]).unwrap()), (Dedup::Merge, Dedup::Penalty));
    }
}
