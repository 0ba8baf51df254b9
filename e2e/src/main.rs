//! The harness as a command: clusters, demo, stories.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use e2e::cluster::{self, Cluster, Purpose};
use e2e::{bench, demo, dns, goals, image, peers, say, stories};

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
    /// Start clusters, those of the fleet or those named; kubeconfigs are /run/panoptes/NAME/admin.kubeconfig
    Up {
        /// What they are for
        #[arg(long, default_value = "e2e")]
        purpose: Purpose,
        /// ops, prod, staging, lab
        clusters: Vec<String>,
    },
    /// End clusters, all or those named, and remove their data
    Down {
        /// ops, prod, staging, lab
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
    /// The goals of docs/goals.md with their negative runs, all or those whose numbers or names match one of the words
    Goals {
        /// ci (≤ 10 s each), fast (≤ 60 s) or night (≤ 30 min)
        #[arg(long, default_value = "fast")]
        size: String,
        /// Leave out the negative runs
        #[arg(long)]
        only_positive: bool,
        /// Numbers (G22), or parts of tests' names
        words: Vec<String>,
    },
    /// Ours beside the peer, on the same data, in one run
    Bench {
        /// The release binary `panoptes`
        #[arg(long)]
        binary: PathBuf,
        /// dashboard, stores, upload; all if none is named
        names: Vec<String>,
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
    /// Run the end-to-end stories, all or those whose names contain one of the words
    Stories {
        /// The release binary `panoptes`
        #[arg(long)]
        binary: PathBuf,
        /// Only list them
        #[arg(long)]
        list: bool,
        /// Keep the clusters afterwards, for a look
        #[arg(long)]
        keep: bool,
        /// Parts of names
        words: Vec<String>,
    },
    /// Ask a DNS server, from inside a pod
    #[command(hide = true)]
    Dns {
        /// The server's address
        server: std::net::Ipv4Addr,
        /// A or SRV
        kind: dns::Kind,
        /// The name
        name: String,
    },
    /// Serve Google Cloud Storage from memory (started by `up`)
    Gcs {
        /// Address and port
        #[arg(long)]
        listen: std::net::SocketAddr,
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
            let lock = cluster::Lock::take("clusters")?;
            for started in cluster::up(&lock, &chosen(&clusters, &cluster::FLEET)?, purpose, &[])? {
                say::plain(&format!("export KUBECONFIG={}", started.cluster.kubeconfig().display()));
            }
            Ok(())
        }
        Command::Down { clusters } => {
            let _lock = cluster::Lock::take("ending clusters")?;
            for cluster in chosen(&clusters, &cluster::ALL)? {
                cluster::down(&cluster)?;
                say::step(&format!("{} is gone", cluster.name));
            }
            cluster::remove_folders();
            Ok(())
        }
        Command::Demo { binary } => demo::demo(&binary),
        Command::DemoDown => demo::demo_down(),
        Command::Goals { size, only_positive, words } => goals::run(&goals::Options { size, only_positive, words }),
        Command::Bench { binary, names } => bench::run(&binary, &names),
        Command::Image { binary, name, output } => {
            let archive = image::Image::of_panoptes(&name, &binary).write()?;
            std::fs::copy(&archive.file, &output)?;
            say::step(&format!("{name} is in {}", output.display()));
            Ok(())
        }
        Command::Stories { list: true, words, .. } => {
            stories::chosen(&words).iter().for_each(|s| say::plain(s.name));
            Ok(())
        }
        Command::Stories { binary, keep, words, .. } => stories::run(&binary, &words, keep),
        Command::Dns { server, kind, name } => {
            dns::ask(server, kind, &name)?.iter().for_each(|answer| say::plain(answer));
            Ok(())
        }
        Command::Gcs { listen } => cluster::serve_buckets(listen),
        Command::Balancer { cluster } => cluster::serve_load_balancers(&Cluster::named(&cluster)?),
    }
}

fn chosen(names: &[String], otherwise: &[Cluster]) -> anyhow::Result<Vec<Cluster>> {
    if names.is_empty() {
        return Ok(otherwise.to_vec());
    }
    names.iter().map(|n| Cluster::named(n)).collect()
}
