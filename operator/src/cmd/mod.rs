//! `panoptes operator …`: what the command line calls.

mod manifests;
mod operate;

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use args::{LogFormat, LogLevel};
use tokio_util::sync::CancellationToken;

use crate::api;

/// The image of our own parts where neither `--image` nor an object says another.
pub const DEFAULT_IMAGE: &str = concat!("panoptes.dev/panoptes:", env!("CARGO_PKG_VERSION"));

/// The namespace that the operator is installed in.
pub const SYSTEM_NAMESPACE: &str = "panoptes-system";

/// `panoptes operator`: runs the operator, or prints what an installation needs.
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct OperatorArgs {
    /// How it runs.
    #[command(flatten)]
    pub run: RunArgs,
    /// What it prints instead.
    #[command(subcommand)]
    pub print: Option<Print>,
}

/// What `panoptes operator` can print.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Print {
    /// Print the CustomResourceDefinitions: `panoptes operator crds | kubectl apply --server-side -f -`
    Crds(CrdsArgs),
    /// Print everything else that an installation needs: namespace, rights, the operator's Deployment
    Manifests(ManifestsArgs),
    /// Print the RoleBinding that lets the operator work in a namespace
    Rbac(RbacArgs),
}

/// Flags of `panoptes operator`.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// Work in these namespaces only; may be repeated. By default in all in which it may
    #[arg(long = "namespace", value_name = "NAMESPACE")]
    pub namespaces: Vec<String>,
    /// Namespace of the Lease by which replicas elect their leader
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE", default_value = SYSTEM_NAMESPACE)]
    pub leader_election_namespace: String,
    /// Name of this replica in the Lease; the pod's name
    #[arg(long, value_name = "NAME", env = "POD_NAME", default_value = "operator")]
    pub identity: String,
    /// Where /metrics, /-/healthy and /-/ready answer
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:10902")]
    pub http_address: SocketAddr,
    /// Image of our own parts, where an object doesn't say another
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    pub image: String,
    /// Least severe level that is logged: error, warn, info, debug, trace
    #[arg(long = "log.level", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
    /// How log lines look: logfmt or json
    #[arg(long = "log.format", value_name = "FORMAT", default_value = "logfmt")]
    pub log_format: LogFormat,
}

/// Flags of `panoptes operator crds`.
#[derive(Clone, Debug, clap::Args)]
pub struct CrdsArgs {
    /// Write one file per definition into this folder instead of printing them
    #[arg(long, value_name = "FOLDER")]
    pub output: Option<PathBuf>,
}

/// Flags of `panoptes operator manifests`.
#[derive(Clone, Debug, clap::Args)]
pub struct ManifestsArgs {
    /// The operator's image, which is also the default image of its parts
    #[arg(long, value_name = "IMAGE", default_value = DEFAULT_IMAGE)]
    pub image: String,
    /// How many operators; one works, the others stand by
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub replicas: i32,
}

/// Flags of `panoptes operator rbac`.
#[derive(Clone, Debug, clap::Args)]
pub struct RbacArgs {
    /// The namespace that holds, or will hold, a MonitoringCluster
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: String,
}

/// `panoptes operator`: prints or runs; running ends after `stop`.
///
/// # Errors
/// Where there is no cluster to talk to, the HTTP address is taken, or printing fails.
pub async fn run(args: OperatorArgs, stop: CancellationToken) -> anyhow::Result<()> {
    match args.print {
        None => operate::operate(args.run, stop).await,
        Some(Print::Crds(args)) => match args.output {
            None => write_out(&crds()?),
            Some(folder) => write_crds(&folder),
        },
        Some(Print::Manifests(args)) => write_out(&manifests(&args)?),
        Some(Print::Rbac(args)) => write_out(&rbac(&args.namespace)?),
    }
}

/// Both CustomResourceDefinitions as YAML.
///
/// # Errors
/// Where one can't be written as YAML, which would be a mistake of ours.
pub fn crds() -> anyhow::Result<String> {
    Ok(api::crd_files()?.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join("---\n"))
}

/// All else that an installation needs, as YAML.
///
/// # Errors
/// Where it can't be written as YAML, which would be a mistake of ours.
pub fn manifests(args: &ManifestsArgs) -> anyhow::Result<String> {
    yaml(&manifests::installation(&args.image, args.replicas))
}

/// The RoleBinding that lets the operator work in a namespace, as YAML.
///
/// # Errors
/// Where it can't be written as YAML, which would be a mistake of ours.
pub fn rbac(namespace: &str) -> anyhow::Result<String> {
    yaml(&[manifests::namespace_binding(namespace)])
}

fn yaml(objects: &[serde_json::Value]) -> anyhow::Result<String> {
    let texts = objects.iter().map(serde_saphyr::to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("---\n"))
}

fn write_crds(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for (name, text) in api::crd_files()? {
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    if !text.ends_with('\n') {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}
