//! The harness as a command: clusters, demo, stories.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::cluster::{self, Cluster, Purpose};
use e2e::{bench, demo, image, peers, say};

#[derive(Parser)]
#[command(about = "Whole Kubernetes clusters on this machine: demo and end-to-end stories of Panoptes")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the peers (Kubernetes, Prometheus, Thanos, …), all or those named
    Peers {
        /// Names of folders in e2e/peers
        names: Vec<String>,
    },
    /// Start clusters, all three or those named; kubeconfigs are /run/panoptes/NAME/admin.kubeconfig
    Up {
        /// What they are for
        #[arg(long, default_value = "e2e")]
        purpose: Purpose,
        /// ops, prod, staging
        clusters: Vec<String>,
    },
    /// End clusters, all three or those named, and remove their data
    Down {
        /// ops, prod, staging
        clusters: Vec<String>,
    },
    /// Three clusters, one view over all of them
    Demo {
        /// The release binary `panoptes`
        #[arg(long)]
        binary: PathBuf,
    },
    /// End the demo and remove what it left
    DemoDown,
    /// Ours beside the peer, on the same data, in one run
    Bench {
        /// The release binary `panoptes`
        #[arg(long)]
        binary: PathBuf,
    },
    /// Write the product's image as an archive for `ctr images import`
    Image {
        /// The release binary `panoptes`
        #[arg(long)]
        binary: PathBuf,
        /// Reference of the image
        #[arg(long, default_value = image::PANOPTES)]
        name: String,
        /// The file to be written
        #[arg(long)]
        output: PathBuf,
    },
    /// Give addresses to Services of type LoadBalancer (started by `up`)
    #[command(hide = true)]
    Balancer {
        /// The cluster
        cluster: String,
    },
}

fn main() -> ExitCode {
    say::seconds();
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::plain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Peers { names } if names.is_empty() => peers::ensure(&peers::names()),
        Command::Peers { names } => peers::ensure(&names.iter().map(String::as_str).collect::<Vec<_>>()),
        Command::Up { purpose, clusters } => {
            for started in cluster::up(&chosen(&clusters)?, purpose, &[])? {
                say::plain(&format!("export KUBECONFIG={}", started.cluster.kubeconfig().display()));
            }
            Ok(())
        }
        Command::Down { clusters } => {
            for cluster in chosen(&clusters)? {
                cluster::down(&cluster)?;
                say::step(&format!("{} is gone", cluster.name));
            }
            Ok(())
        }
        Command::Demo { binary } => demo::demo(&binary),
        Command::DemoDown => demo::demo_down(),
        Command::Bench { binary } => bench::run(&binary),
        Command::Image { binary, name, output } => {
            let archive = image::Image::of_panoptes(&name, &binary).write()?;
            std::fs::copy(&archive.file, &output)?;
            say::step(&format!("{name} is in {}", output.display()));
            Ok(())
        }
        Command::Balancer { cluster } => cluster::serve_load_balancers(&Cluster::named(&cluster)?),
    }
}

fn chosen(names: &[String]) -> anyhow::Result<Vec<Cluster>> {
    if names.is_empty() {
        return Ok(cluster::ALL.to_vec());
    }
    names.iter().map(|n| Cluster::named(n)).collect()
}
