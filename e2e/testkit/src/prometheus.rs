//! A real Prometheus on loopback.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;

use crate::http;
use crate::process::Process;
use crate::{peers, ports, wait};

/// How the Prometheus is to be set up.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The whole configuration. Without it, one is made from the fields below.
    pub config: Option<String>,
    /// The external labels, as in `("cluster", "ops")`.
    pub external_labels: Vec<(String, String)>,
    /// What to scrape: job name and `host:port`.
    pub targets: Vec<(String, String)>,
    /// The scrape and evaluation interval; empty means `1s`.
    pub interval: String,
    /// More arguments for the command line.
    pub args: Vec<String>,
    /// The data folder, as when blocks were made before. Empty means a new temporary one.
    pub data: Option<PathBuf>,
}

impl Options {
    /// External labels and targets, all else as usual.
    pub fn new(external_labels: &[(&str, &str)], targets: &[(&str, &str)]) -> Self {
        let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        Self { external_labels: owned(external_labels), targets: owned(targets), ..Self::default() }
    }

    /// The configuration file's text.
    pub fn config_text(&self) -> String {
        if let Some(config) = &self.config {
            return config.clone();
        }
        let interval = if self.interval.is_empty() { "1s" } else { &self.interval };
        // JSON is YAML.
        let labels: serde_json::Map<String, Value> =
            self.external_labels.iter().map(|(n, v)| (n.clone(), Value::from(v.as_str()))).collect();
        let jobs: Vec<Value> = self
            .targets
            .iter()
            .map(|(job, target)| serde_json::json!({"job_name": job, "static_configs": [{"targets": [target]}]}))
            .collect();
        serde_json::json!({
            "global": {"scrape_interval": interval, "evaluation_interval": interval, "external_labels": labels},
            "scrape_configs": jobs,
        })
        .to_string()
    }
}

/// A running Prometheus; it ends when dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: u16,
    config: PathBuf,
    data: PathBuf,
    args: Vec<String>,
    dir: tempfile::TempDir,
}

impl Prometheus {
    /// Starts one and waits until it is ready (about half a second).
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let program = peers::path("prometheus")?;
        let dir = tempfile::Builder::new().prefix("prometheus-").tempdir()?;
        let config = dir.path().join("prometheus.yml");
        let data = options.data.clone().unwrap_or_else(|| dir.path().join("data"));
        std::fs::create_dir_all(&data)?;
        std::fs::write(&config, options.config_text())?;
        let port = ports::free()?;
        let mut args = vec![
            format!("--config.file={}", config.display()),
            format!("--storage.tsdb.path={}", data.display()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--web.enable-lifecycle".to_owned(),
            "--web.enable-admin-api".to_owned(),
            "--storage.tsdb.retention.time=50y".to_owned(),
        ];
        args.extend_from_slice(&options.args);
        let process = Process::spawn("prometheus", Command::new(program).args(&args), &dir.path().join("log"))?;
        let mut me = Self { process, port, config, data, args, dir };
        me.wait_ready()?;
        Ok(me)
    }

    /// Waits until it serves; fails at once when it has ended.
    ///
    /// # Errors
    /// With the end of its log.
    pub fn wait_ready(&mut self) -> anyhow::Result<()> {
        let url = format!("{}/-/ready", self.url());
        self.process.wait_for_url(&url, Duration::from_secs(30))
    }

    /// Ends it at once, as a crash does.
    ///
    /// # Errors
    /// When it does not end.
    pub fn crash(&mut self) -> anyhow::Result<()> {
        let _ = self.process.signal("KILL"); // it may have ended by itself
        wait::until("the end", Duration::from_secs(10), Duration::from_millis(20), || {
            anyhow::ensure!(!self.process.is_running(), "it still runs");
            Ok(())
        })
    }

    /// Starts it again with the same data, configuration and port, as the kubelet does with a container; does not wait.
    ///
    /// # Errors
    /// When the program can't be started.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let program = peers::path("prometheus")?;
        let mut command = Command::new(program);
        self.process = Process::spawn("prometheus", command.args(&self.args), &self.dir.path().join("log"))?;
        Ok(())
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// The base address, as in `http://127.0.0.1:20017`.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The HTTP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The configuration file that it reads.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Its data folder.
    pub fn data_path(&self) -> &Path {
        &self.data
    }

    /// The process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Writes a new configuration (without a reload).
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write_config(&self, text: &str) -> anyhow::Result<()> {
        std::fs::write(&self.config, text).with_context(|| format!("write {}", self.config.display()))
    }

    /// Asks it to read its configuration again.
    ///
    /// # Errors
    /// With its message, when it refuses the configuration.
    pub fn reload(&self) -> anyhow::Result<()> {
        let answer = http::post(&format!("{}/-/reload", self.url()), "text/plain", "")?;
        anyhow::ensure!(answer.status == 200, "reload: {} {}", answer.status, answer.body);
        Ok(())
    }

    /// `GET path` (beginning with `/`) as JSON.
    ///
    /// # Errors
    /// When the answer isn't a success or isn't JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        http::get(&format!("{}{path}", self.url()))?.json()
    }

    /// The `data.result` of an instant query, at the given time (seconds) or now.
    ///
    /// # Errors
    /// When the query is refused.
    pub fn query(&self, expression: &str, time: Option<f64>) -> anyhow::Result<Value> {
        query(&self.url(), expression, time)
    }
}

/// The `data.result` of an instant query to any server with Prometheus's API.
///
/// # Errors
/// When the query is refused.
pub fn query(base: &str, expression: &str, time: Option<f64>) -> anyhow::Result<Value> {
    let at = time.map_or_else(String::new, |t| format!("&time={t}"));
    let mut answer = http::get(&format!("{base}/api/v1/query?query={}{at}", http::encode(expression)))?.json()?;
    Ok(answer["data"]["result"].take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics_source::MetricsSource;

    #[test]
    fn scrapes_a_page_and_reloads() {
        if peers::skip(&["prometheus"]) {
            return;
        }
        let page = MetricsSource::start().unwrap();
        page.set("demo_total{a=\"b\"}", 41.0);
        let options = Options::new(&[("cluster", "ops")], &[("demo", &page.address())]);
        let prometheus = Prometheus::start(&options).unwrap();
        wait::holds("a sample", Duration::from_secs(15), || {
            prometheus.query("demo_total", None).is_ok_and(|r| r[0]["value"][1] == "41")
        })
        .unwrap();
        prometheus.write_config("scrape_configs: 7").unwrap();
        assert!(prometheus.reload().is_err());
        prometheus.write_config(&options.config_text()).unwrap();
        prometheus.reload().unwrap();
        let info = prometheus.get("/api/v1/status/buildinfo").unwrap();
        assert_eq!(info["data"]["version"], "3.14.0");
    }
}
