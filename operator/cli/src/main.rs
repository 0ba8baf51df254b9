//! The binary: picks a subcommand, sets allocator, tracing and signals. Nothing else happens here.

#[cfg(feature = "jemalloc")]
mod arenas;
mod logs;

use args::{CompactArgs, QueryArgs, SidecarArgs, StoreArgs};
use clap::{CommandFactory, Parser, Subcommand};
use model::world::World;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs the monitoring of a fleet of Kubernetes clusters: the operator, and the engine that it deploys beside Prometheus.
#[derive(Parser)]
#[command(name = "panoptes", version, arg_required_else_help = true, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Reconcile MonitoringClusters and RemoteStores; print definitions, manifests and role bindings.
    Operator(operator::cmd::OperatorArgs),
    /// Serve one Prometheus as a store (StoreAPI), and reload its configuration and rules.
    Sidecar(SidecarArgs),
    /// Answer PromQL over all stores of the cluster and of linked ones; be a store for other clusters.
    Query(QueryArgs),
    /// Serve the blocks of a bucket as a store (StoreAPI): history at the price of object storage.
    Store(StoreArgs),
    /// Make fewer and coarser blocks of those of a bucket, and let go what is too old.
    Compact(CompactArgs),
    /// Tools for people: look at a bucket, check it, mark blocks; run PromQL test scripts.
    Tools(engine::tools::ToolsArgs),
}

fn main() -> ExitCode {
    let argv = match normalized(std::env::args().collect()) {
        Ok(argv) => argv,
        Err(message) => return fail(&message),
    };
    let cli = match Cli::try_parse_from(argv) {
        Ok(cli) => cli,
        Err(e) => {
            let code = if e.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            // Nothing can be told if stdout and stderr are closed.
            let _ = e.print();
            return code;
        }
    };
    #[cfg(feature = "jemalloc")]
    if !matches!(cli.command, Command::Operator(_) | Command::Tools(_)) {
        arenas::few();
    }
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        return fail("another TLS provider is already installed");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("can't start the runtime: {e}")),
    };
    let outcome = runtime.block_on(run(cli.command));
    // A blocking task that ignores its cancellation must not hold up the exit.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => fail(&format!("{e:#}")),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    let shutdown = on_signal()?;
    match command {
        Command::Operator(a) => {
            logs::init(a.run.log_level, a.run.log_format);
            operator::cmd::run(a, shutdown).await
        }
        Command::Query(a) => {
            logs::init(a.server.log_level, a.server.log_format);
            engine::query::run(a, World::real(), shutdown).await
        }
        Command::Sidecar(a) => {
            logs::init(a.server.log_level, a.server.log_format);
            engine::sidecar::run(a, World::real(), shutdown).await
        }
        Command::Store(a) => {
            logs::init(a.server.log_level, a.server.log_format);
            engine::store::run(a, World::real(), shutdown).await
        }
        Command::Compact(a) => {
            logs::init(a.server.log_level, a.server.log_format);
            engine::compact::run(a, World::real(), shutdown).await
        }
        Command::Tools(a) => engine::tools::run(a, World::real(), shutdown).await,
    }
}

/// Thanos's spellings (`--no-x`) made ready for clap, for the subcommand that argv names: the deepest one, as in
/// `tools bucket ls`.
fn normalized(argv: Vec<String>) -> Result<Vec<String>, String> {
    let mut cli = Cli::command();
    // Flags of outer commands become known to the inner ones.
    cli.build();
    let (mut command, mut names) = (&cli, 1);
    while let Some(inner) = argv.get(names).and_then(|name| command.find_subcommand(name)) {
        (command, names) = (inner, names + 1);
    }
    let (head, tail) = argv.split_at(names.min(argv.len()));
    Ok(head.iter().cloned().chain(args::normalize(tail.iter().cloned(), command)?).collect())
}

/// A token that SIGTERM or SIGINT cancels. As PID 1 of a container a process without a handler ignores both.
fn on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let token = CancellationToken::new();
    let cancel = token.clone();
    tokio::spawn(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
        cancel.cancel();
    });
    Ok(token)
}

fn fail(message: &str) -> ExitCode {
    use std::io::Write;
    // Nothing can be told if stderr is closed.
    let _ = writeln!(std::io::stderr(), "panoptes: {message}");
    ExitCode::FAILURE
}
