//! Names as a real resolver gives them: a DNS server of this test is asked over UDP, and what it says is believed for as long as
//! it says.

use super::common::until;
use super::fake_store::Fake;
use super::querier::{Querier, args};
use ::args::{Millis, QueryArgs};
use engine::query::address::{Address, SystemDns, resolve};
use hickory_resolver::proto::op::{Message, OpCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::UdpSocket;

/// What the server says: by name, the time to live in seconds and the records; and how often each name was asked for.
#[derive(Default, Clone)]
struct Zone(Arc<Mutex<Said>>);

#[derive(Default)]
struct Said {
    records: BTreeMap<String, (u32, Vec<RData>)>,
    asked: BTreeMap<String, usize>,
}

impl Zone {
    async fn serve(&self) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (at, me) = (socket.local_addr().unwrap(), self.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((size, from)) = socket.recv_from(&mut buffer).await {
                let question = Message::from_vec(&buffer[..size]).unwrap();
                socket.send_to(&me.answer(&question).to_vec().unwrap(), from).await.unwrap();
            }
        });
        at
    }

    fn answer(&self, question: &Message) -> Message {
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_queries(question.queries.iter().cloned());
        let mut said = self.0.lock().unwrap();
        for query in &question.queries {
            let name = query.name().to_utf8().trim_end_matches('.').to_owned();
            if matches!(query.query_type(), RecordType::A | RecordType::SRV) {
                *said.asked.entry(name.clone()).or_default() += 1;
            }
            let Some((ttl, all)) = said.records.get(&name) else { continue };
            let of_type = all.iter().filter(|r| r.record_type() == query.query_type());
            answer.add_answers(of_type.map(|r| Record::from_rdata(query.name().clone(), *ttl, r.clone())));
        }
        answer
    }

    fn set(&self, name: &str, ttl: u32, ips: &[&str]) {
        let data = |ip: &&str| match ip.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        self.0.lock().unwrap().records.insert(name.to_owned(), (ttl, ips.iter().map(data).collect()));
    }

    fn set_srv(&self, name: &str, ttl: u32, targets: &[(&str, u16)]) {
        let data = |(host, port): &(&str, u16)| RData::SRV(SRV::new(0, 0, *port, Name::from_ascii(host).unwrap()));
        self.0.lock().unwrap().records.insert(name.to_owned(), (ttl, targets.iter().map(data).collect()));
    }

    fn asked(&self, name: &str) -> usize {
        self.0.lock().unwrap().asked.get(name).copied().unwrap_or_default()
    }
}

#[tokio::test]
async fn records_come_with_the_shortest_time_to_live_on_the_way() {
    let zone = Zone::default();
    let dns = SystemDns::at(zone.serve().await).unwrap();
    zone.set("both.test", 30, &["10.0.0.1", "fd00::1"]);
    zone.set("short.test", 7, &["10.0.0.2"]);
    zone.set_srv("_grpc._tcp.srv.test", 60, &[("both.test.", 1), ("short.test.", 2)]);
    let of = async |text: &str| {
        let found = resolve(&Address::parse(text).unwrap(), &dns).await.unwrap();
        (found.places.into_iter().map(|p| p.address).collect::<Vec<_>>(), found.ttl.unwrap().as_secs())
    };
    assert_eq!(of("dns+both.test:5").await, (vec!["10.0.0.1:5".into(), "[fd00::1]:5".into()], 30));
    let all = vec!["10.0.0.1:1".into(), "10.0.0.2:2".into(), "[fd00::1]:1".into()];
    assert_eq!(of("dnssrv+_grpc._tcp.srv.test").await, (all, 7));
    // Nothing is kept here: an answer that is asked for again is a new one.
    zone.set("short.test", 0, &["10.0.0.3"]);
    assert_eq!(of("dns+short.test:5").await, (vec!["10.0.0.3:5".into()], 0));
    let gone = resolve(&Address::parse("dns+gone.test:5").unwrap(), &dns).await.unwrap_err();
    assert!(gone.contains("gone.test"), "{gone}");
}

/// The interval is an hour: what changes within the test is found by its time to live alone.
#[tokio::test(flavor = "multi_thread")]
async fn names_are_looked_up_again_when_their_records_have_run_out() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, store: &str| Fake::live(&[&[("s", store)]]).start_at(&format!("{ip}:{port}")).await;
    let mut stores = Vec::new();
    for n in 2..10 {
        stores.push(make(&format!("127.0.0.{n}"), &n.to_string()).await);
    }
    let zone = Zone::default();
    let dns = SystemDns::at(zone.serve().await).unwrap();
    zone.set("a.test", 1, &["127.0.0.2"]);
    zone.set("aaaa.test", 1, &["::ffff:127.0.0.8"]);
    zone.set_srv("_grpc._tcp.srv.test", 1, &[("target.test.", port)]);
    zone.set("target.test", 3_600, &["127.0.0.3"]);
    // Of this one the SRV record lives long, and its target does not.
    zone.set_srv("_grpc._tcp.still.test", 3_600, &[("moves.test.", port)]);
    zone.set("moves.test", 1, &["127.0.0.4"]);
    zone.set("long.test", 3_600, &["127.0.0.5"]);
    let endpoints = [
        &format!("dns+a.test:{port}"),
        &format!("dns+aaaa.test:{port}"),
        "dnssrv+_grpc._tcp.srv.test",
        "dnssrv+_grpc._tcp.still.test",
        &format!("dns+long.test:{port}"),
    ];
    let a = QueryArgs { dns_interval: Millis(3_600_000), ..args(&endpoints.map(str::to_owned)) };
    let querier = Querier::with_dns(a, Arc::new(dns)).await;
    let seen = async || {
        let (_, answer) = querier.query("count by (s) (up)", "").await;
        let all = answer["data"]["result"].as_array().into_iter().flatten();
        let names = all.map(|r| r["metric"]["s"].as_str().unwrap().to_owned());
        // Those behind IPv6 are listed, whether this machine can reach them or not.
        names.filter(|s| !["8", "9"].contains(&s.as_str())).collect::<BTreeSet<_>>()
    };
    let are = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<BTreeSet<_>>();
    let listed = async |address: &str| {
        let state = querier.state().await.endpoints.unwrap();
        state.stores.iter().any(|s| s.address == address)
    };
    until("all stores", async || seen().await == are(&["2", "3", "4", "5"])).await;
    assert!(listed(&format!("[::ffff:127.0.0.8]:{port}")).await);

    zone.set("a.test", 1, &["127.0.0.6"]);
    until("the A record to be read again", async || seen().await == are(&["3", "4", "5", "6"])).await;
    zone.set("aaaa.test", 1, &["::ffff:127.0.0.9"]);
    until("the AAAA record to be read again", async || listed(&format!("[::ffff:127.0.0.9]:{port}")).await).await;
    zone.set("other.test", 3_600, &["127.0.0.7"]);
    zone.set_srv("_grpc._tcp.srv.test", 1, &[("other.test.", port)]);
    until("the SRV record to be read again", async || seen().await == are(&["4", "5", "6", "7"])).await;
    zone.set("moves.test", 1, &["127.0.0.3"]);
    until("the target to be read again", async || seen().await == are(&["3", "5", "6", "7"])).await;
    // What lives long is believed for long. (A question may have been sent twice, if its answer took long.)
    let before = zone.asked("long.test");
    zone.set("long.test", 3_600, &["127.0.0.2"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(seen().await, are(&["3", "5", "6", "7"]));
    assert_eq!(zone.asked("long.test"), before);
}
