//! A querier in this process, and names that a test sets.

use super::common::until;
use args::QueryArgs;
use engine::query::address::{Dns, Records};
use model::world::World;
use proto::info::{InfoRequest, InfoResponse};
use proto::thanos::store_client::StoreClient;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Names that a test sets.
#[derive(Default, Clone)]
pub struct Names(Zone<IpAddr>, Zone<(String, u16)>);

/// What a name stands for.
type Zone<T> = Arc<Mutex<BTreeMap<String, Vec<T>>>>;

impl Names {
    pub fn set(&self, name: &str, ips: &[&str]) {
        let ips = ips.iter().map(|i| i.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(name.to_owned(), ips);
    }

    /// The targets of a SRV name.
    pub fn set_srv(&self, name: &str, targets: &[(&str, u16)]) {
        let targets = targets.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
        self.1.lock().unwrap().insert(name.to_owned(), targets);
    }

    pub fn ips_of(&self, name: &str) -> Vec<String> {
        self.0.lock().unwrap().get(name).into_iter().flatten().map(ToString::to_string).collect()
    }

    pub fn remove(&self, name: &str) {
        self.0.lock().unwrap().remove(name);
    }
}

fn records<T: Clone>(zone: &Zone<T>, name: &str) -> Result<Records<T>, String> {
    let all = zone.lock().unwrap().get(name).cloned().ok_or_else(|| format!("{name}: no such name"))?;
    Ok(Records { all, ttl: None })
}

#[async_trait::async_trait]
impl Dns for Names {
    async fn ips(&self, host: &str) -> Result<Records<IpAddr>, String> {
        records(&self.0, host)
    }
    async fn srv(&self, name: &str) -> Result<Records<(String, u16)>, String> {
        records(&self.1, name)
    }
}

/// A querier in this process.
pub struct Querier {
    pub http: String,
    pub grpc: String,
    pub names: Names,
    stop: CancellationToken,
}

pub fn args(endpoints: &[String]) -> QueryArgs {
    QueryArgs {
        endpoints: endpoints.to_vec(),
        replica_labels: vec!["replica".to_owned()],
        info_interval: args::Millis(200),
        info_timeout: args::Millis(2000),
        dns_interval: args::Millis(200),
        sd_reload_interval: args::Millis(200),
        ..QueryArgs::default()
    }
}

impl Querier {
    /// Starts one and waits until it is ready; the addresses are filled in.
    pub async fn start(args: QueryArgs) -> Self {
        Self::with_names(args, Names::default()).await
    }

    pub async fn with_names(args: QueryArgs, names: Names) -> Self {
        let mut me = Self::with_dns(args, Arc::new(names.clone())).await;
        me.names = names;
        me
    }

    /// One that asks `dns`.
    pub async fn with_dns(mut args: QueryArgs, dns: Arc<dyn Dns>) -> Self {
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        args.server.http_address = format!("127.0.0.1:{http}");
        args.server.grpc_address = format!("127.0.0.1:{grpc}");
        let stop = CancellationToken::new();
        tokio::spawn(engine::query::run_with(args, World::real(), dns, stop.clone()));
        let names = Names::default();
        let me = Self { http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}"), names, stop };
        until("the querier to be ready", async || me.get("/-/ready").await.is_ok_and(|(code, _)| code == 200)).await;
        me
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let url = format!("{}{path}", self.http);
        tokio::task::spawn_blocking(move || testkit::http::get(&url).map(|a| (a.status, a.body))).await?
    }

    pub async fn json(&self, path: &str) -> (u16, Value) {
        let (status, body) = self.get(path).await.unwrap();
        (status, serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}")))
    }

    /// An instant query; more parameters may follow the expression, as `&time=5`.
    pub async fn query(&self, expression: &str, more: &str) -> (u16, Value) {
        self.json(&format!("/api/v1/query?query={}{more}", testkit::http::encode(expression))).await
    }

    pub fn warnings(answer: &Value) -> Vec<String> {
        answer["warnings"].as_array().into_iter().flatten().map(|w| w.as_str().unwrap().to_owned()).collect()
    }

    pub async fn state(&self) -> args::state::State {
        args::state::State::parse(self.get("/-/state").await.unwrap().1.as_bytes()).unwrap()
    }

    pub async fn store(&self) -> StoreClient<Channel> {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        StoreClient::new(channel).max_decoding_message_size(64 << 20)
    }

    pub async fn info(&self) -> InfoResponse {
        let channel = Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap();
        proto::info::info_client::InfoClient::new(channel).info(InfoRequest {}).await.unwrap().into_inner()
    }
}

impl Drop for Querier {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
