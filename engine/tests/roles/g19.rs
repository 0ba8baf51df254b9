//! Goal G19: clients go away. What was begun for them ends within a second, nothing is left of it; and asking twice where data is
//! offered twice costs at most a tenth more.

use super::common::until;
use super::fake_store::{Fake, Manner, Running};
use super::querier::{Names, Querier, args};
use ::args::QueryArgs;
use proto::thanos::{LabelMatcher, SeriesRequest};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use testkit::goal::{Goal, Rng, Size};
use testkit::thanos::Thanos;

/// How soon everything must have ended.
const SOON: Duration = Duration::from_secs(1);

async fn stores() -> Vec<Running> {
    let manners = [Manner::Good, Manner::Silent, Manner::SilentAfterHeaders, Manner::SilentAfterOne, Manner::Drips];
    let mut stores = Vec::new();
    for (n, manner) in manners.into_iter().enumerate() {
        let name = n.to_string();
        stores.push(Fake::live(&[&[("s", name.as_str())]]).manner(manner).start().await);
    }
    stores
}

fn open(stores: &[Running]) -> usize {
    stores.iter().map(|s| s.fake.open.load(Ordering::SeqCst)).sum()
}

fn handles() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

/// A client that goes away after a while.
async fn leave(
    base: String,
    grpc: Option<proto::thanos::store_client::StoreClient<tonic::transport::Channel>>,
    mut rng: Rng,
) {
    let after = Duration::from_millis(rng.below(150) as u64);
    match (rng.below(3), grpc) {
        (0, Some(mut client)) => {
            let request = SeriesRequest {
                max_time: i64::MAX,
                matchers: vec![LabelMatcher { r#type: 0, name: "__name__".into(), value: "up".into() }],
                response_batch_size: 64,
                ..SeriesRequest::default()
            };
            let call = async {
                if let Ok(stream) = client.series(request).await {
                    let mut stream = stream.into_inner();
                    while let Ok(Some(_)) = stream.message().await {}
                }
            };
            let _ = tokio::time::timeout(after, call).await;
        }
        (kind, _) => {
            let path = if kind == 1 { "/api/v1/query?query=count(up)" } else { "/api/v1/series?match[]=up" };
            let _ = tokio::time::timeout(after, reqwest::get(format!("{base}{path}"))).await;
        }
    }
}

/// Clients that leave, twenty at a time; after each twenty, how long it took until nothing was open.
async fn clients(querier: &str, grpc: Option<&Querier>, stores: &[Running], rng: &mut Rng, count: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    let client = match grpc {
        Some(querier) => Some(querier.store().await),
        None => None,
    };
    for _ in 0..count / 20 {
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            all.spawn(leave(querier.to_owned(), client.clone(), Rng(rng.next_u64())));
        }
        while all.join_next().await.is_some() {}
        let begin = Instant::now();
        while open(stores) > 0 && begin.elapsed() < SOON * 5 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        slowest = slowest.max(begin.elapsed());
        if slowest >= SOON * 5 {
            break;
        }
    }
    slowest
}

#[test]
fn goal_g19_clients_that_leave() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run());
}

async fn run() {
    let goal = Goal::start("G19");
    let mut rng = goal.rng("clients");
    let stores = stores().await;
    let endpoints: Vec<String> = stores.iter().map(|s| s.address.clone()).collect();
    let querier = Querier::start(args(&endpoints)).await;
    clients(&querier.http, Some(&querier), &stores, &mut rng, 20).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = (tasks(), handles());
    let count = goal.pick(200, 1_000, 100_000);
    let slowest = clients(&querier.http, Some(&querier), &stores, &mut rng, count).await;
    // On a machine that others use, too, the stores' own deadline of 30 s is what it must differ from.
    let most = goal.pick(SOON * 5, SOON, SOON);
    assert!(slowest < most, "calls to stores are still open {slowest:?} after their clients have left");
    // A connection that the test's own client keeps is none of the querier's.
    let mut now = (0, 0);
    until("nothing to be left", async || {
        now = (tasks(), handles());
        now.0 <= before.0 + 8 && now.1 <= before.1 + 8
    })
    .await;

    // Two places of one store, of which the first lags now and then.
    let slow = Fake::live(&[&[("s", "1")]]).start().await;
    let port = slow.address.rsplit_once(':').unwrap().1.to_owned();
    let quick = Fake::live(&[&[("s", "1")]]).start_at(&format!("127.0.0.2:{port}")).await;
    let names = Names::default();
    names.set("group", &["127.0.0.1", "127.0.0.2"]);
    let twice =
        Querier::with_names(QueryArgs { endpoint_groups: vec![format!("dns+group:{port}")], ..args(&[]) }, names).await;
    let calls = goal.pick(100, 1_000, 10_000);
    for round in 0..calls / 20 {
        slow.fake.set_manner(if round % 4 == 3 { Manner::Slow(600) } else { Manner::Good });
        let all = (0..20).map(|_| twice.query("up", "&partial_response=false"));
        for (status, answer) in futures::future::join_all(all).await {
            assert_eq!((status, answer["data"]["result"].as_array().unwrap().len()), (200, 1), "{answer}");
        }
    }
    let asked = slow.take_asked().len() + quick.take_asked().len();
    let extra = asked.saturating_sub(calls);
    assert!(extra > 0, "the second place was never asked");
    assert!(extra * 10 <= calls + 10, "{extra} extra reads for {calls} queries are more than a tenth");
    let mut figure = format!(
        "{count} clients left: the last call to a store ended after {slowest:?} at most; tasks and handles before {before:?}, after \
         {now:?}; {extra} extra reads for {calls} queries of a store whose first place lags in a quarter of the time"
    );
    if goal.size() != Size::Ci && std::env::var_os("PANOPTES_BREAK").is_none() && !testkit::peers::skip(&["thanos"]) {
        let thanos = tokio::task::block_in_place(|| Thanos::query(&endpoints, &["replica"]).unwrap());
        let slowest = clients(&thanos.url(), None, &stores, &mut rng, count / 5).await;
        figure.push_str(&format!("; Thanos's querier, {} clients: {slowest:?}", count / 5));
    }
    goal.figure(&figure);
}
