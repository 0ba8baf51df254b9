//! `tools bucket web`: the list of blocks over HTTP, as Thanos's page of a bucket asks for it.

use super::{Objstore, Screen};
use crate::server::net;
use crate::storage::web::{self, Listing};
use args::Millis;
use bucket::fetch::Fetcher;
use model::world::World;
use parking_lot::Mutex;
use std::sync::Arc;

/// Flags.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Where it is served
    #[arg(long = "http-address", default_value = "0.0.0.0:10902", value_name = "HOST:PORT")]
    address: String,
    /// How often the bucket is listed
    #[arg(long, default_value = "30m", value_name = "DURATION")]
    refresh: Millis,
    /// Longest time that one listing may take
    #[arg(long, default_value = "5m", value_name = "DURATION")]
    timeout: Millis,
    /// External label by which a page groups the blocks
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    label: String,
}

/// Serves until it is stopped.
pub(super) async fn run(args: &Args, objstore: &Objstore, world: World, screen: &mut Screen<'_>) -> anyhow::Result<()> {
    let bucket = super::open(objstore, world.clone())?;
    let listener = net::bind(&args.address).await?;
    screen.note(&format!("http://{}/api/v1/blocks?view=global", listener.local_addr()?));
    let known = Arc::new(Mutex::new(Listing::default()));
    let shown = Arc::clone(&known);
    // No store has loaded them: both views are the bucket's.
    let router = web::router(args.label.clone(), Arc::new(move |_| shown.lock().clone()));
    let following = async {
        let mut fetcher = Fetcher::new(bucket);
        loop {
            match tokio::time::timeout(args.timeout.duration(), fetcher.sync()).await {
                Ok(Ok(view)) => {
                    let metas = view.blocks.into_values().map(|b| b.meta).collect();
                    let refreshed_ms = Some(world.clock.now_ms());
                    *known.lock() = Listing { metas, refreshed_ms, error: None };
                }
                Ok(Err(e)) => known.lock().error = Some(e.to_string()),
                Err(_) => known.lock().error = Some(format!("the bucket was not listed within {}", args.timeout)),
            }
            tokio::time::sleep(args.refresh.duration()).await;
        }
    };
    tokio::select! {
        served = axum::serve(listener, router) => Ok(served?),
        () = following => Ok(()),
    }
}
