//! What the tests of the roles share: waiting, reading, a sidecar in this process.

use args::SidecarArgs;
use model::world::World;
use proto::thanos::info::info_client::InfoClient;
use proto::thanos::store_client::StoreClient;
use proto::thanos::{Series, SeriesRequest, SeriesResponse, series_response};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub struct Sidecar {
    pub http: String,
    pub grpc: String,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

impl Sidecar {
    /// Starts one with these flags; the addresses are filled in.
    pub fn start(mut args: SidecarArgs) -> Self {
        let (http, grpc) = (testkit::ports::free().unwrap(), testkit::ports::free().unwrap());
        args.server.http_address = format!("127.0.0.1:{http}");
        args.server.grpc_address = format!("127.0.0.1:{grpc}");
        let stop = CancellationToken::new();
        let task = tokio::spawn(engine::sidecar::run(args, World::real(), stop.clone()));
        Self { http: format!("http://127.0.0.1:{http}"), grpc: format!("127.0.0.1:{grpc}"), stop, task }
    }

    pub async fn ready(&self) {
        until("the sidecar to be ready", async || {
            get(format!("{}/-/ready", self.http)).is_ok_and(|(code, _)| code == 200)
        })
        .await;
    }

    pub async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.grpc)).unwrap();
        let begin = Instant::now();
        loop {
            match endpoint.connect().await {
                Ok(channel) => return channel,
                Err(e) => assert!(begin.elapsed() < Duration::from_secs(10), "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn store(&self) -> StoreClient<Channel> {
        StoreClient::new(self.channel().await).max_decoding_message_size(64 << 20)
    }

    pub async fn info(&self) -> InfoClient<Channel> {
        InfoClient::new(self.channel().await)
    }

    pub fn state(&self) -> args::state::State {
        args::state::State::parse(get(format!("{}/-/state", self.http)).unwrap().1.as_bytes()).unwrap()
    }

    pub fn metrics(&self) -> String {
        get(format!("{}/metrics", self.http)).unwrap().1
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// `GET`, on a thread of its own so that the runtime goes on: status and body.
pub fn get(url: String) -> anyhow::Result<(u16, String)> {
    tokio::task::block_in_place(|| testkit::http::get(&url).map(|a| (a.status, a.body)))
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !condition().await {
        assert!(begin.elapsed() < Duration::from_secs(30), "waited 30 s for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// All series of a Series call, in order, and the warnings.
pub async fn series(
    store: &mut StoreClient<Channel>,
    r: SeriesRequest,
) -> Result<(Vec<Series>, Vec<String>), tonic::Status> {
    let mut stream = store.series(r).await?.into_inner();
    let (mut all, mut warnings) = (Vec::new(), Vec::new());
    while let Some(SeriesResponse { result }) = stream.message().await? {
        match result {
            Some(series_response::Result::Series(s)) => all.push(s),
            Some(series_response::Result::Batch(b)) => all.extend(b.series),
            Some(series_response::Result::Warning(w)) => warnings.push(w),
            other => panic!("{other:?}"),
        }
    }
    Ok((all, warnings))
}

pub fn labels(s: &Series) -> model::Labels {
    proto::labels::decode(&s.labels).unwrap()
}

pub fn matcher(kind: i32, name: &str, value: &str) -> proto::thanos::LabelMatcher {
    proto::thanos::LabelMatcher { r#type: kind, name: name.into(), value: value.into() }
}
