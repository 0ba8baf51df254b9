//! Puts the parts of a store gateway together.

use super::blocks::filters::Policy;
use super::blocks::sync::{Options, Status, Syncer};
use super::blocks::{Home, Set};
use super::cache::IndexCache;
use super::config;
use super::grpc::StoreGateway;
use super::headers::{Headers, Limits};
use super::metrics::{Metrics, Seen};
use super::ranges::{self, Pages, Ranges};
use crate::server::point::Point;
use crate::server::{self, Context, Service, expand};
use crate::storage::selector::Selector;
use crate::storage::{Storage, part_name, web};
use anyhow::{Context as _, bail};
use args::StoreArgs;
use args::state::State;
use bucket::verify::Right;
use model::world::World;
use proto::thanos::info::info_server::InfoServer;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tsdb::disk::{Disk, RealDisk};

/// The file of the disk cache.
const PAGES: &str = "panoptes-pages";
/// The file that remembers the metas.
const MEMORY: &str = "panoptes-blocks";
/// How often index-headers that nobody uses are looked for.
const TIDY: Duration = Duration::from_secs(30);
/// Longest time that fetching one index-header may take: a block of ten million series has some hundred megabytes.
const HEADER_DEADLINE: Duration = Duration::from_secs(600);

/// Runs a store gateway until `shutdown`.
pub async fn run(args: StoreArgs, world: World, shutdown: CancellationToken) -> anyhow::Result<()> {
    if !args.cache_index_header.0 {
        bail!(
            "--no-cache-index-header can't be had: index-headers lie under --data-dir; give it a directory that may be lost"
        );
    }
    let context = Context::new("store", world.clone());
    let point =
        |flag: &str, text: &str| text.parse::<Point>().map_err(anyhow::Error::msg).with_context(|| flag.to_owned());
    let window = (point("--min-time", &args.min_time)?, point("--max-time", &args.max_time)?);
    let selector = expand::option("selector.relabel-config", &args.selector, &args.selector_file)?;
    let selector = Selector::parse(&selector).context("--selector.relabel-config")?;
    let (cache_bytes, cache_item) = config::index_cache(&args)?;
    let Some(storage) = Storage::new(
        (&args.objstore_config, &args.objstore_config_file),
        &part_name("store"),
        Right::READER,
        args.objstore_check_interval.duration(),
        &context,
    )?
    else {
        bail!("a store gateway serves a bucket: give --objstore.config-file or --objstore.config");
    };
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = PathBuf::from(&args.data_dir);
    disk.create_dir(&dir).context("--data-dir")?;
    let limits = Limits {
        open: usize::try_from(args.header_max_open).unwrap_or(usize::MAX),
        open_bytes: args.header_max_open_size.0,
        disk_bytes: args.header_max_disk_size.0,
        idle: args.header_idle_timeout.duration(),
        fetches: usize::try_from(args.header_concurrency).unwrap_or(usize::MAX).min(1024),
        deadline: HEADER_DEADLINE,
    };
    let pages = match args.disk_cache_size.0 {
        0 => None,
        bytes => {
            Some(Arc::new(Pages::open(&dir.join(PAGES), bytes).with_context(|| format!("{PAGES} in --data-dir"))?))
        }
    };
    let reads = ranges::Limits {
        concurrency: usize::try_from(args.objstore_max_concurrency).unwrap_or(usize::MAX),
        deadline: args.objstore_read_timeout.duration(),
    };
    if let Some(pages) = pages.clone() {
        // Until it is done, what is asked for is read from the bucket.
        tokio::task::spawn_blocking(move || pages.load());
    }
    let ranges = Ranges::with(reads, pages);
    let memory = dir.join(MEMORY);
    let home = Arc::new(Home {
        world: world.clone(),
        headers: Headers::new(dir, disk, world.clone(), limits),
        ranges,
        cache: IndexCache::new(cache_bytes, cache_item),
    });
    home.headers.scan().await.context("index-headers in --data-dir")?;
    let (set, status) = (Set::default(), Status::default());
    context.metrics.register_collector(Seen { status: status.clone(), home: Arc::clone(&home) });
    let syncer = Syncer {
        set: set.clone(),
        home: Arc::clone(&home),
        storage: storage.clone(),
        options: Options {
            window,
            policy: Policy {
                window: (i64::MIN, i64::MAX),
                selector,
                consistency_delay: args.consistency_delay.0,
                deletion_delay: args.ignore_deletion_marks_delay.0,
            },
            catalogue: args.catalogue_interval.duration().max(Duration::from_secs(1)),
            listing: args.sync_interval.duration().max(Duration::from_secs(1)),
            headers: args.header_strategy,
            header_concurrency: limits.fetches,
            meta_concurrency: usize::try_from(args.meta_concurrency).unwrap_or(usize::MAX).min(1024),
            memory: Some(memory),
        },
        status: status.clone(),
        metrics: Metrics::new(&context.metrics),
    };
    let clock = Arc::clone(&world.clock);
    let clamp = move || (window.0.at(clock.now_ms()), window.1.at(clock.now_ms()));
    let gateway = StoreGateway::new(set.clone(), &args, clamp, &context);
    let grpc = tonic::service::Routes::new(gateway.server()).add_service(InfoServer::new(gateway.clone()));
    let bound = server::bind(&args.server).await?;

    let stop = shutdown.child_token();
    let (bucket, shown, passes) = (storage.clone(), set.clone(), status.clone());
    let state = move || State { bucket: Some(bucket.state()), blocks: Some(passes.state(&shown)), ..State::default() };
    let http = if args.web_disable.0 {
        axum::Router::new()
    } else {
        let (set, status) = (set.clone(), status.clone());
        web::router(args.web_label.clone(), Arc::new(move |view| status.list(&set, view)))
    };
    let service = Service { component: "store", http, grpc, state: Arc::new(state) };
    let ready = context.ready.clone();
    ready.not_ready("the blocks of the bucket are not known yet");
    let serving = async {
        let outcome = bound.serve(context.clone(), service, stop.clone()).await;
        stop.cancel();
        outcome
    };
    let tidying = async {
        loop {
            tokio::select! {
                () = tokio::time::sleep(TIDY) => home.headers.close_idle(),
                () = stop.cancelled() => return,
            }
        }
    };
    let (served, (), (), ()) =
        tokio::join!(serving, storage.run(stop.clone()), syncer.run(|| ready.ready(), stop.clone()), tidying);
    served
}
