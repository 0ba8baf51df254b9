//! Brings Prometheus's configuration and rules into effect, and keeps a failure visible.
//!
//! Two versions come in: *next*, which should be loaded, and *last good*, which a replica is known to have loaded. Next is
//! expanded, written and loaded; what Prometheus refuses is put back to last good, so that a restart of the pod never starts
//! on it. The desired hash is compared with the loaded one, never with "the last file that I tried": a corrected file is
//! tried at once, a refused one again after a while.

mod files;
mod rules;

use super::prometheus::{PromError, Prometheus};
use super::watch::Watch;
use crate::server::metrics::Metrics;
use crate::server::{Context, expand};
use anyhow::Context as _;
use args::SidecarArgs;
use args::state::Configuration;
use files::{FileError, Input};
use model::world::Clock;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rules::{Folder, RuleSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Deadline of one reload; a large server takes minutes.
const RELOAD: Duration = Duration::from_secs(300);
/// Changed rule files of which each is tried alone, to find the refused one; of more, all are put back.
const MAX_TRIES: usize = 16;
/// Looks in a row that find nothing listening, after which rules that nobody has loaded yet are under suspicion.
const ENDED: u32 = 4;
/// Longest pause between two tries of the same refused configuration.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// What a configuration says once it is unpacked and its variables are replaced; only `HOME` has a value.
pub(super) fn expanded(bytes: &[u8]) -> Result<String, String> {
    let input = files::unpack(Path::new("next.yaml"), bytes.to_vec()).map_err(|e| e.to_string())?;
    expand::expand(&input.text, |name| (name == "HOME").then(|| "/home/prometheus".to_owned()))
        .map_err(|e| e.to_string())
}

/// The files.
#[derive(Clone, Debug)]
struct Paths {
    next: Option<PathBuf>,
    last_good: Option<PathBuf>,
    output: Option<PathBuf>,
    rules: Vec<PathBuf>,
    /// Where Prometheus reads the rules.
    rules_output: Option<Folder>,
}

impl Paths {
    fn from_args(args: &SidecarArgs) -> anyhow::Result<Self> {
        let path = |s: &str| (!s.is_empty()).then(|| PathBuf::from(s));
        let paths = Self {
            next: path(&args.config_file),
            last_good: path(&args.last_good_file),
            output: path(&args.config_envsubst_file),
            rules: args.rule_dirs.iter().map(PathBuf::from).collect(),
            rules_output: path(&args.rule_output_dir).as_deref().map(Folder::new),
        };
        anyhow::ensure!(
            paths.next.is_some() || (paths.output.is_none() && paths.last_good.is_none()),
            "--reloader.config-envsubst-file and --reloader.last-good-file need --reloader.config-file"
        );
        anyhow::ensure!(
            paths.last_good.is_none() || paths.output.is_some(),
            "--reloader.last-good-file needs --reloader.config-envsubst-file: it is put back there"
        );
        anyhow::ensure!(
            paths.rules_output.is_none() || !paths.rules.is_empty(),
            "--reloader.rule-output-dir needs --reloader.rule-dir"
        );
        Ok(paths)
    }
}

/// Works with files off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FileError> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|e| Failure::Passing(e.to_string())),
        Err(e) => Err(Failure::Passing(e.to_string())),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Reads, expands and writes one version; gives what was read.
fn render(from: &Path, to: &Path) -> anyhow::Result<Input> {
    let input = files::read_input(from)?;
    let text = expand::expand(&input.text, environment).with_context(|| from.display().to_string())?;
    files::write(to, &text)?;
    Ok(input)
}

/// What the init container does: writes the last good configuration, or else the next one, for Prometheus to start with.
pub(super) fn once(args: &SidecarArgs) -> anyhow::Result<()> {
    let paths = Paths::from_args(args)?;
    let (Some(next), Some(output)) = (&paths.next, &paths.output) else {
        anyhow::bail!("--reloader.once needs --reloader.config-file and --reloader.config-envsubst-file");
    };
    if let Some(folder) = &paths.rules_output {
        let set = match folder.good()? {
            Some(good) => good,
            None => RuleSet::read(&paths.rules)?,
        };
        folder.offer(&set)?;
    }
    if let Some(last_good) = &paths.last_good {
        match render(last_good, output) {
            Ok(input) => {
                tracing::info!(hash = input.hash, "the last good configuration is in place");
                return Ok(());
            }
            Err(e) if e.downcast_ref::<FileError>().is_some_and(FileError::is_absent) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "the last good configuration can't be used"),
        }
    }
    let input = render(next, output)?;
    tracing::info!(hash = input.hash, "there is no last good configuration yet, the next one is in place");
    Ok(())
}

#[derive(Clone, Debug)]
struct ReloadMetrics {
    reloads: Counter,
    failed: Counter,
    successful: Gauge<i64>,
    success_time: Gauge<f64, AtomicU64>,
    applies: Counter,
    apply_failures: Counter,
    unset: Gauge<i64>,
}

impl ReloadMetrics {
    fn register(m: &Metrics) -> Self {
        let counter = |name: &str, help: &str| -> Counter {
            m.register(&format!("thanos_sidecar_reloader_{name}"), help, Counter::default())
        };
        let gauge = |name: &str, help: &str| -> Gauge<i64> {
            m.register(&format!("thanos_sidecar_reloader_{name}"), help, Gauge::default())
        };
        Self {
            reloads: counter("reloads", "Reload requests to Prometheus"),
            failed: counter("reloads_failed", "Reload requests that failed"),
            successful: gauge("last_reload_successful", "Whether the last reload succeeded"),
            success_time: m.register(
                "thanos_sidecar_reloader_last_reload_success_timestamp_seconds",
                "When the last reload succeeded",
                Gauge::default(),
            ),
            applies: counter("config_apply_operations", "Times a configuration was written for Prometheus"),
            apply_failures: counter("config_apply_operations_failed", "Times that failed"),
            unset: gauge(
                "config_environment_variable_expansion_errors",
                "Unset environment variables in the configuration",
            ),
        }
    }
}

/// What the reloader has done so far; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<Mutex<Configuration>>);

impl Progress {
    /// For the state document.
    pub(super) fn get(&self) -> Configuration {
        self.0.lock().clone()
    }
}

/// The versions that a try was about.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    config: String,
    rules: String,
}

pub(super) struct Reloader {
    paths: Paths,
    prometheus: Prometheus,
    watch: Watch,
    clock: Arc<dyn Clock>,
    metrics: ReloadMetrics,
    progress: Progress,
    interval: Duration,
    retry: Duration,
    /// How often in a row nothing has listened where Prometheus should.
    away: AtomicU32,
}

/// Why a try failed.
#[derive(Debug)]
enum Failure {
    /// Prometheus refuses rule files; the configuration and all other rules are in effect.
    Rules {
        /// What it refuses.
        text: String,
        /// Hash of the rules in effect.
        in_effect: String,
    },
    /// Prometheus refuses: trying again at once would only refuse again.
    Refused(String),
    /// Something that may pass.
    Passing(String),
    /// Prometheus does not serve (it starts, or is gone): nothing was tried. The state document says so of Prometheus itself.
    NotServing(String),
}

impl Reloader {
    /// From the flags; `None` if there is nothing to reload.
    pub(super) fn new(
        args: &SidecarArgs,
        prometheus: Prometheus,
        watch: Watch,
        context: &Context,
    ) -> anyhow::Result<Option<(Self, Progress)>> {
        let paths = Paths::from_args(args)?;
        if paths.next.is_none() && paths.rules.is_empty() {
            return Ok(None);
        }
        let progress = Progress::default();
        let reloader = Self {
            paths,
            prometheus,
            watch,
            clock: Arc::clone(&context.world.clock),
            metrics: ReloadMetrics::register(&context.metrics),
            progress: progress.clone(),
            interval: args.watch_interval.duration(),
            retry: args.retry_interval.duration(),
            away: AtomicU32::new(0),
        };
        Ok(Some((reloader, progress)))
    }

    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        // The versions in effect, and the ones that were tried last without success.
        let (mut loaded, mut failed) = (None::<Wanted>, None::<(Wanted, Duration, u32)>);
        let mut first = true;
        'watch: loop {
            if !std::mem::take(&mut first) {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(self.interval.max(Duration::from_millis(100))) => {}
                }
            }
            match self.inputs().await {
                Err(error) => self.fail(&error),
                Ok((input, rules)) => {
                    let wanted = Wanted { config: input.as_ref().map(|i| i.hash.clone()).unwrap_or_default(), rules };
                    self.progress.0.lock().wanted.clone_from(&wanted.config);
                    let waits = failed.as_ref().is_some_and(|(tried, at, tries)| {
                        *tried == wanted && self.clock.elapsed().saturating_sub(*at) < self.pause(*tries)
                    });
                    if loaded.as_ref() == Some(&wanted) {
                        // Back to what is in effect: the last failure is about something that nobody wants any more.
                        failed = None;
                        self.progress.0.lock().error = None;
                    } else if !waits {
                        match self.attempt(input.as_ref(), &wanted).await {
                            Ok(()) => (loaded, failed) = (Some(wanted), None),
                            Err(failure) => {
                                let before =
                                    failed.take().filter(|(tried, ..)| *tried == wanted).map_or(0, |(.., n)| n);
                                let (tries, refused) = match failure {
                                    Failure::Refused(text) => {
                                        self.fail(&text);
                                        (before + 1, true)
                                    }
                                    Failure::Rules { text, in_effect } => {
                                        self.loaded(&wanted.config, Some(&in_effect), None);
                                        self.fail(&text);
                                        loaded = Some(Wanted { config: wanted.config.clone(), rules: in_effect });
                                        failed = Some((wanted, self.clock.elapsed(), before + 1));
                                        continue 'watch;
                                    }
                                    Failure::Passing(text) => {
                                        self.fail(&text);
                                        (0, false)
                                    }
                                    Failure::NotServing(text) => {
                                        tracing::info!(error = text, "waiting for Prometheus to serve");
                                        (0, false)
                                    }
                                };
                                if refused {
                                    // Also where this sidecar has loaded nothing itself: Prometheus may have been
                                    // restarted meanwhile, and must not find the refused text.
                                    loaded = self.put_back(&wanted).await;
                                } else {
                                    // It may have ended over the new text, and must not find it at its next start:
                                    // asked again, this puts the last good one there. The failure itself is told already.
                                    let _ = self.serves().await;
                                }
                                failed = Some((wanted, self.clock.elapsed(), tries));
                            }
                        }
                    }
                }
            }
        }
    }

    /// The pause after so many refusals in a row of the same versions.
    fn pause(&self, tries: u32) -> Duration {
        let factor = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        self.retry.saturating_mul(factor).min(MAX_PAUSE.max(self.retry))
    }

    /// Reads what should be in effect.
    async fn inputs(&self) -> Result<(Option<Input>, String), String> {
        let (next, rules) = (self.paths.next.clone(), self.paths.rules.clone());
        let read = tokio::task::spawn_blocking(move || -> Result<_, FileError> {
            let input = next.as_deref().map(files::read_input).transpose()?;
            let rules = if rules.is_empty() { String::new() } else { files::hash_rules(&rules)? };
            Ok((input, rules))
        });
        read.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }

    /// Writes and loads; on success the progress says so.
    async fn attempt(&self, input: Option<&Input>, wanted: &Wanted) -> Result<(), Failure> {
        let serving = self.serves().await?;
        if let (Some(input), Some(output)) = (input, &self.paths.output) {
            self.metrics.applies.inc();
            self.write(input, output).await.inspect_err(|_| {
                self.metrics.apply_failures.inc();
            })?;
        }
        match &self.paths.rules_output {
            Some(folder) if serving => self.load_with_rules(folder).await?,
            // Where it does not serve, it may be rules that keep it from starting.
            _ => self.reload().await?,
        }
        tracing::info!(config = wanted.config, rules = wanted.rules, "Prometheus has loaded configuration and rules");
        self.loaded(&wanted.config, Some(&wanted.rules), None);
        Ok(())
    }

    /// Prometheus reads the shared file whenever it starts. While it does not serve, only what it is known to take may
    /// lie there: else a refused version, tried at the wrong moment, would keep it from ever starting.
    async fn serves(&self) -> Result<bool, Failure> {
        let has_last_good = self.paths.last_good.as_deref().is_some_and(Path::exists);
        if !has_last_good && self.paths.rules_output.is_none() {
            return Ok(true);
        }
        let error = match self.prometheus.ready(RELOAD).await {
            Ok(()) => {
                self.away.store(0, Ordering::Relaxed);
                return Ok(true);
            }
            Err(error) => error,
        };
        self.place_safe_rules(matches!(error, PromError::Unreachable { .. })).await;
        if has_last_good {
            self.place_last_good().await;
            return Err(Failure::NotServing(error.to_string()));
        }
        // Without a last good one, a corrected configuration is what it may be waiting for.
        Ok(false)
    }

    /// Lets a Prometheus that does not serve find only rules that it is known to take. Where nothing is known, it gets the
    /// rules as they are, unless it has ended over and over: then none.
    async fn place_safe_rules(&self, ended: bool) {
        let Some(folder) = self.paths.rules_output.clone() else { return };
        let away = if ended { self.away.fetch_add(1, Ordering::Relaxed) + 1 } else { 0 };
        let placed = tokio::task::spawn_blocking(move || match folder.good()? {
            Some(good) => folder.offer(&good),
            None if away == ENDED => {
                tracing::warn!("Prometheus does not come up: it gets no rules until it does");
                folder.offer(&RuleSet::default())
            }
            None => Ok(()),
        });
        if let Ok(Err(error)) = placed.await {
            tracing::warn!(%error, "rules can't be put back");
        }
    }

    /// Loads the configuration that is in place with the rules as they are now; where Prometheus refuses, finds the rule files
    /// that it refuses and loads the rest.
    async fn load_with_rules(&self, folder: &Folder) -> Result<(), Failure> {
        let (dirs, of) = (self.paths.rules.clone(), folder.clone());
        let read = move || Ok::<_, FileError>((RuleSet::read(&dirs)?, of.good()?.unwrap_or_default()));
        let (next, good) = blocking(read).await?;
        let refusal = match self.try_rules(folder, &next).await {
            Ok(()) => return self.keep_rules(folder, next).await,
            Err(Failure::Refused(text)) => text,
            Err(other) => return Err(other),
        };
        let suspects = next.suspects(&good);
        let mut in_effect = next.with(&suspects, &good);
        if let Err(failure) = self.try_rules(folder, &in_effect).await {
            // Not the rules, or not only: back with all of them.
            let of = folder.clone();
            blocking(move || of.offer(&good)).await?;
            return Err(if matches!(failure, Failure::Refused(_)) { Failure::Refused(refusal) } else { failure });
        }
        let mut refused = Vec::new();
        let groups: Vec<&[String]> =
            if suspects.len() > MAX_TRIES { vec![&suspects] } else { suspects.chunks(1).collect() };
        let mut whole = true;
        for names in groups {
            let trial = in_effect.with(names, &next);
            match self.try_rules(folder, &trial).await {
                Ok(()) => (in_effect, whole) = (trial, true),
                Err(Failure::Refused(_)) => {
                    refused.extend(names.iter().cloned());
                    whole = false;
                }
                Err(other) => return Err(other),
            }
        }
        if !whole {
            self.try_rules(folder, &in_effect).await?;
        }
        let hash = in_effect.hash();
        self.keep_rules(folder, in_effect).await?;
        refused.truncate(5);
        let text = format!(
            "Prometheus refuses the rule file {}; what it took before stays, all else is in effect. Its log, and `promtool check \
             rules`, say why ({refusal})",
            refused.join(", ")
        );
        Err(Failure::Rules { text, in_effect: hash })
    }

    async fn try_rules(&self, folder: &Folder, set: &RuleSet) -> Result<(), Failure> {
        let (of, set) = (folder.clone(), set.clone());
        blocking(move || of.offer(&set)).await?;
        self.reload().await
    }

    async fn keep_rules(&self, folder: &Folder, set: RuleSet) -> Result<(), Failure> {
        let of = folder.clone();
        blocking(move || of.keep(&set)).await
    }

    /// Writes the last good version for Prometheus, if there is one; gives what was written.
    async fn place_last_good(&self) -> Option<Input> {
        let (last_good, output) = (self.paths.last_good.clone()?, self.paths.output.clone()?);
        match tokio::task::spawn_blocking(move || render(&last_good, &output)).await.ok()? {
            Ok(input) => Some(input),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "there is no last good configuration to put back");
                None
            }
        }
    }

    async fn write(&self, input: &Input, output: &Path) -> Result<(), Failure> {
        let expanded = expand::expand(&input.text, environment);
        self.metrics.unset.set(i64::from(expanded.is_err()));
        // Without the variable the text can't become right by itself: that is as good as refused, and nothing was written.
        let text = expanded.map_err(|e| Failure::Passing(e.to_string()))?;
        let output = output.to_owned();
        let written = tokio::task::spawn_blocking(move || files::write(&output, &text)).await;
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Failure::Passing(e.to_string())),
            Err(e) => Err(Failure::Passing(e.to_string())),
        }
    }

    async fn reload(&self) -> Result<(), Failure> {
        self.metrics.reloads.inc();
        let outcome = self.prometheus.reload(RELOAD).await;
        self.metrics.successful.set(i64::from(outcome.is_ok()));
        match outcome {
            Ok(()) => {
                self.metrics.success_time.set(self.clock.now_ms() as f64 / 1000.0);
                self.watch.refresh();
                Ok(())
            }
            Err(e) => {
                self.metrics.failed.inc();
                Err(match e {
                    PromError::Refused { code: 403, .. } => Failure::Passing(
                        "Prometheus does not allow reloads: start it with --web.enable-lifecycle".into(),
                    ),
                    // Starting up, or behind something that answers for it.
                    PromError::Refused { code: 502..=504, .. } => Failure::Passing(e.to_string()),
                    PromError::Refused { message, .. } => Failure::Refused(message),
                    e => Failure::Passing(e.to_string()),
                })
            }
        }
    }

    /// Puts the last good version back in place of a refused one; gives what is in effect then, if it can be told.
    async fn put_back(&self, refused: &Wanted) -> Option<Wanted> {
        let input = self.place_last_good().await?;
        if input.hash == refused.config {
            // The configuration is the good one: what is refused are the rules, and those can't be put back from here.
            return None;
        }
        // A refused configuration may have been applied in parts: loading the good one makes it whole again.
        match self.reload().await {
            Ok(()) => {
                tracing::warn!(hash = input.hash, "the last good configuration is back in effect");
                let error = self.progress.get().error;
                // With a folder of its own Prometheus has the last good rules now.
                let good = self.paths.rules_output.as_ref().and_then(|folder| folder.good().ok().flatten());
                let rules = good.map_or_else(|| refused.rules.clone(), |set| set.hash());
                self.loaded(&input.hash, Some(&rules), error);
                Some(Wanted { config: input.hash, rules })
            }
            Err(
                Failure::Refused(e) | Failure::Passing(e) | Failure::NotServing(e) | Failure::Rules { text: e, .. },
            ) => {
                tracing::error!(error = e, "the last good configuration is in place, but Prometheus does not load it");
                None
            }
        }
    }

    fn loaded(&self, config: &str, rules: Option<&str>, error: Option<String>) {
        let mut p = self.progress.0.lock();
        p.loaded = Some(config.to_owned());
        p.rules = rules.map(str::to_owned);
        p.loaded_at_ms = Some(self.clock.now_ms());
        p.error = error;
    }

    fn fail(&self, error: &str) {
        let mut p = self.progress.0.lock();
        if p.error.as_deref() != Some(error) {
            tracing::error!(error, "the wanted configuration or rules are not in effect");
            p.error = Some(error.to_owned());
        }
    }
}
