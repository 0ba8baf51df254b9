//! Real Thanos roles on loopback.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::Process;
use crate::prometheus::Prometheus;
use crate::{http, peers, ports, wait};

/// A running Thanos role; it ends when dropped.
#[derive(Debug)]
pub struct Thanos {
    process: Process,
    http: u16,
    grpc: u16,
    _dir: tempfile::TempDir,
}

impl Thanos {
    /// `thanos sidecar` beside a Prometheus that has external labels.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn sidecar(prometheus: &Prometheus) -> anyhow::Result<Self> {
        let args = [
            format!("--prometheus.url={}", prometheus.url()),
            format!("--tsdb.path={}", prometheus.data_path().display()),
        ];
        Self::start("sidecar", &args)
    }

    /// `thanos query` over StoreAPI endpoints (`host:port`), with `replica_labels` taken out by deduplication. Returns when it
    /// sees all of them.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn query(endpoints: &[String], replica_labels: &[&str]) -> anyhow::Result<Self> {
        let mut args: Vec<String> = endpoints.iter().map(|e| format!("--endpoint={e}")).collect();
        args.extend(replica_labels.iter().map(|l| format!("--query.replica-label={l}")));
        args.push("--query.promql-engine=prometheus".to_owned());
        let query = Self::start("query", &args)?;
        wait::until("Thanos to see its stores", Duration::from_secs(30), Duration::from_millis(100), || {
            let stores = query.get("/api/v1/stores")?;
            let seen = stores["data"].as_object().map_or(0, |by_type| {
                by_type.values().filter_map(Value::as_array).flatten().filter(|s| s["lastError"].is_null()).count()
            });
            anyhow::ensure!(seen >= endpoints.len(), "it sees {seen} of {}", endpoints.len());
            Ok(())
        })?;
        Ok(query)
    }

    /// Any role with any arguments; `--http-address` and `--grpc-address` are given already.
    ///
    /// # Errors
    /// When the peer is missing or does not come up; the error holds the end of its log.
    pub fn start(role: &str, args: &[String]) -> anyhow::Result<Self> {
        let program = peers::path("thanos")?;
        let dir = tempfile::Builder::new().prefix("thanos-").tempdir()?;
        let (http, grpc) = (ports::free()?, ports::free()?);
        let mut command = Command::new(program);
        command
            .arg(role)
            .arg(format!("--http-address=127.0.0.1:{http}"))
            .arg(format!("--grpc-address=127.0.0.1:{grpc}"))
            .args(args)
            .current_dir(dir.path());
        let mut process = Process::spawn(&format!("thanos {role}"), &mut command, &dir.path().join("log"))?;
        process.wait_for_url(&format!("http://127.0.0.1:{http}/-/ready"), Duration::from_secs(30))?;
        Ok(Self { process, http, grpc, _dir: dir })
    }

    /// The base address of its HTTP API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Where its gRPC services answer, as in `127.0.0.1:20018`.
    pub fn grpc_address(&self) -> String {
        format!("127.0.0.1:{}", self.grpc)
    }

    /// The process, for signals and its log.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// `GET path` (beginning with `/`) as JSON.
    ///
    /// # Errors
    /// When the answer isn't a success or isn't JSON.
    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        http::get(&format!("{}{path}", self.url()))?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prometheus::{self, Options};

    #[test]
    fn a_querier_answers_through_a_sidecar() {
        if peers::skip(&["prometheus", "thanos"]) {
            return;
        }
        let page = crate::metrics_source::MetricsSource::start().unwrap();
        page.set("demo", 7.0);
        let options = Options::new(&[("cluster", "ops"), ("replica", "0")], &[("demo", &page.address())]);
        let server = Prometheus::start(&options).unwrap();
        let sidecar = Thanos::sidecar(&server).unwrap();
        let query = Thanos::query(&[sidecar.grpc_address()], &["replica"]).unwrap();
        wait::holds("the sample with its external label", Duration::from_secs(20), || {
            prometheus::query(&query.url(), "demo", None).is_ok_and(|r| {
                r[0]["value"][1] == "7" && r[0]["metric"]["cluster"] == "ops" && r[0]["metric"]["replica"].is_null()
            })
        })
        .unwrap();
    }
}
