//! Stores that lie, places that lag, stores that vanish: the answer is right, or says what it lacks.

use super::common::until;
use super::fake_store::{Data, Fake, Manner, set};
use super::querier::{Names, Querier, args};
use ::args::links::{Link, Links, Probe};
use ::args::{Millis, QueryArgs};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

fn data(series: usize) -> Data {
    (0..series)
        .map(|i| {
            let samples = (0..100).map(|n| (1_000_000 + n * 15_000, n as f64)).collect();
            (set(&[("__name__", "m"), ("n", &format!("{i:03}"))]), samples)
        })
        .collect()
}

fn missing(answer: &Value) -> Vec<(String, String)> {
    let all = answer["missing"].as_array().into_iter().flatten();
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    all.map(|m| (text(&m["store"]), text(&m["reason"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_gets_wrong_is_made_right_or_told_and_never_answered() {
    let good = Fake::new(&[("cluster", "good")], data(5)).start().await;
    for (manner, says) in [
        (Manner::Twice, None),
        (Manner::AllTimes, None),
        (Manner::Backwards, Some("before it begins")),
        (Manner::Lacks, Some("block 01KA can't be read")),
        (Manner::Unsorted, Some("series out of order")),
        (Manner::Garbage, Some("not valid UTF-8")),
    ] {
        let bad = Fake::new(&[("cluster", "bad")], data(5)).manner(manner).start().await;
        let querier = Querier::start(args(&[good.address.clone(), bad.address.clone()])).await;
        // Five samples of each in the window, whatever else is sent.
        let (status, answer) = querier.query("sum by (cluster) (count_over_time(m[75s]))", "&time=1300").await;
        assert_eq!(status, 200, "{manner:?}: {answer}");
        // What of a store arrives before it is found out may be in the answer: a part that is told as such.
        let whole = |r: &&Value| says.is_none() || r["metric"]["cluster"] == "good";
        for result in answer["data"]["result"].as_array().unwrap().iter().filter(whole) {
            assert_eq!(result["value"][1], "25", "{manner:?}: {answer}");
        }
        let found = answer["data"]["result"].as_array().unwrap().len();
        match says {
            None => assert!(found == 2 && missing(&answer).is_empty(), "{manner:?}: {answer}"),
            Some(says) => {
                let told = missing(&answer);
                assert!(
                    told.len() == 1 && told[0].0 == bad.address && told[0].1.contains(says),
                    "{manner:?}: {answer}"
                );
                let first = &answer["missing"][0];
                assert_eq!((&first["minTime"], &first["maxTime"]), (&json!(1_225_001), &json!(1_300_000)), "{answer}");
                let (status, answer) = querier.query("count(m)", "&time=1300&partial_response=false").await;
                assert!(status == 422 && answer["error"].as_str().unwrap().contains(says), "{manner:?}: {answer}");
            }
        }
    }
    // What can't be decoded is found only when it is read: the query fails and says where.
    let bad = Fake::new(&[("cluster", "bad")], data(1)).manner(Manner::Noise).start().await;
    let querier = Querier::start(args(&[good.address.clone(), bad.address.clone()])).await;
    let (status, answer) = querier.query("sum(m)", "&time=1300").await;
    let right = status == 422 && answer["error"].as_str().unwrap().contains("series {");
    assert!(right || answer["data"]["result"][0]["value"][1] == "95", "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn labels_that_a_store_did_not_advertise_are_answered_as_they_are() {
    // It says that it is cluster a, and has series of b: those are found where it is asked at all, and never as a's.
    let liar = Fake::live(&[&[("cluster", "a")]])
        .and([(set(&[("__name__", "up"), ("cluster", "b")]), super::fake_store::Samples::Live)]);
    let liar = liar.start().await;
    let querier = Querier::start(args(std::slice::from_ref(&liar.address))).await;
    let (_, answer) = querier.query("count(up{cluster=\"a\"})", "").await;
    assert_eq!(answer["data"]["result"][0]["value"][1], "1", "{answer}");
    let (_, answer) = querier.query("count by (cluster) (up)", "").await;
    assert_eq!(answer["data"]["result"].as_array().unwrap().len(), 2, "{answer}");
}

/// Samples of 1000 s to 2485 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lies_about_its_times_is_right_or_named() {
    let whole = Fake::new(&[("cluster", "whole")], data(5)).start().await;
    let query = |t: i64| format!("/api/v1/query?query=count%20by%20(cluster)%20(count_over_time(m[75s]))&time={t}");
    let counts = |answer: &Value| {
        let all = answer["data"]["result"].as_array().unwrap().iter();
        all.map(|r| (r["metric"]["cluster"].as_str().unwrap().to_owned(), r["value"][1].as_str().unwrap().to_owned()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let five = |clusters: &[&str]| clusters.iter().map(|c| ((*c).to_owned(), "5".to_owned())).collect();
    // It says that it has more than it has: what is there is answered, and nothing is missing.
    let more = Fake::new(&[("cluster", "more")], data(5)).says_times(0, i64::MAX).start().await;
    let querier = Querier::start(args(&[whole.address.clone(), more.address.clone()])).await;
    for (t, want) in [(1300, &["more", "whole"][..]), (500, &[]), (9000, &[])] {
        let (_, answer) = querier.json(&query(t)).await;
        assert_eq!((counts(&answer), missing(&answer)), (five(want), vec![]), "{t}: {answer}");
    }
    // It has older and newer samples than it says. At their times alone it is not asked, as with any store.
    let liar = Fake::new(&[("cluster", "liar")], data(5)).says_times(1_900_000, 2_000_000).start().await;
    let querier = Querier::start(args(&[whole.address.clone(), liar.address.clone()])).await;
    let (_, answer) = querier.json(&query(1300)).await;
    assert_eq!((counts(&answer), missing(&answer)), (five(&["whole"]), vec![]), "{answer}");
    // Where it is asked, what it sends is found out: from then on it is asked at all times that it has, and named, since
    // nobody knows what else it has.
    let wide = "/api/v1/query?query=count%20by%20(cluster)%20(count_over_time(m[1h]))&time=2500";
    let (_, answer) = querier.json(wide).await;
    assert_eq!(counts(&answer), five(&["liar", "whole"]), "{answer}");
    until("the lie to be told", async || {
        let (_, answer) = querier.json(&query(1300)).await;
        assert_eq!(counts(&answer), five(&["liar", "whole"]), "it is asked now: {answer}");
        let told = missing(&answer);
        assert!(told.len() <= 1, "{told:?}");
        told.iter().any(|(store, why)| *store == liar.address && why.contains("it says that it has data of 1900000"))
    })
    .await;
    let (status, answer) = querier.json(&format!("{wide}&partial_response=false")).await;
    assert!(status == 422 && answer["error"].as_str().unwrap().contains(&liar.address), "{answer}");
}

/// Two places of one store, behind one name.
async fn group(manners: [Manner; 2], series: usize) -> ([super::fake_store::Running; 2], Querier) {
    let one = Fake::new(&[("s", "1")], data(series)).manner(manners[0]).start().await;
    let port = one.address.rsplit_once(':').unwrap().1.to_owned();
    let two = Fake::new(&[("s", "1")], data(series)).manner(manners[1]).start_at(&format!("127.0.0.2:{port}")).await;
    let names = Names::default();
    names.set("group", &["127.0.0.1", "127.0.0.2"]);
    // Half-way through there is nothing to do but to wait for the deadline; otherwise nobody should.
    let patience = if manners.contains(&Manner::SilentAfterOne) { 3_000 } else { 60_000 };
    let response_timeout = Millis(patience);
    let args = QueryArgs { endpoint_groups: vec![format!("dns+group:{port}")], response_timeout, ..args(&[]) };
    ([one, two], Querier::with_names(args, names).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_data_is_offered_twice_the_other_place_is_asked_when_one_lags_or_breaks() {
    for manner in [
        Manner::Silent,
        Manner::SilentAfterHeaders,
        Manner::Slow(50_000),
        Manner::Fails,
        Manner::Resets,
        Manner::Garbage,
        Manner::SilentAfterOne,
    ] {
        let ([one, two], querier) = group([manner, Manner::Good], 200).await;
        let begin = Instant::now();
        let (status, answer) = querier.query("sum(count_over_time(m[75s]))", "&time=1300&partial_response=false").await;
        let took = begin.elapsed();
        assert_eq!(
            (status, answer["data"]["result"][0]["value"][1].as_str()),
            (200, Some("1000")),
            "{manner:?}: {answer}"
        );
        assert!(answer.get("warnings").is_none() && answer.get("missing").is_none(), "{manner:?}: {answer}");
        assert!(took < Duration::from_secs(20), "{manner:?}: {took:?}");
        assert!(one.take_asked().len() <= 1 && !two.take_asked().is_empty(), "{manner:?}");
        until("the calls to end", async || {
            one.fake.open.load(Ordering::SeqCst) + two.fake.open.load(Ordering::SeqCst) == 0
        })
        .await;
    }
    // If neither answers, one store is missing.
    let (_places, querier) = group([Manner::Fails, Manner::Fails], 2).await;
    let (_, answer) = querier.query("m", "&time=1300").await;
    assert_eq!(missing(&answer).len(), 1, "{answer}");
    assert!(missing(&answer)[0].1.contains("127.0.0.2:"), "both are named: {answer}");
    // Label calls, too.
    let (_places, querier) = group([Manner::Silent, Manner::Good], 3).await;
    let (_, answer) = querier.json("/api/v1/label/n/values?match[]=m&start=1000&end=1300").await;
    assert_eq!((answer["data"].as_array().unwrap().len(), answer.get("warnings")), (3, None), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_should_be_there_and_is_not_is_missing() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data(5)).start_at(&format!("{ip}:{port}")).await
    };
    let stores = [make("127.0.0.2", "a").await, make("127.0.0.3", "b").await];
    let names = Names::default();
    names.set("stores.test", &["127.0.0.2", "127.0.0.3"]);
    let dir = tempfile::tempdir().unwrap();
    let write = |expected: usize| {
        let text = format!("endpoints:\n- address: dns+stores.test:{port}\n  expected: {expected}\n");
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join("endpoints.yaml")).unwrap();
    };
    write(2);
    let a = QueryArgs { endpoints_dir: dir.path().display().to_string(), ..args(&[]) };
    let querier = Querier::with_names(a, names).await;
    let ask = async |query: &str| {
        let (status, answer) = querier.query(query, "&time=1300").await;
        assert_eq!(status, 200, "{answer}");
        missing(&answer)
    };
    assert_eq!(ask("m").await, []);
    // One leaves: it is missed by name, where it would have been asked.
    querier.names.set("stores.test", &["127.0.0.3"]);
    until("the loss to be told", async || ask("m").await.len() == 1).await;
    let told = ask("m").await;
    assert_eq!(told[0].0, stores[0].address);
    assert!(told[0].1.contains("behind which 2 stores should be; 1 are"), "{told:?}");
    assert_eq!(ask("m{cluster=\"b\"}").await, [], "what is there is whole");
    assert_eq!(ask("m{cluster=\"a\"}").await.len(), 1);
    assert_eq!(querier.query("m", "&time=1300&partial_response=false").await.0, 422);
    let state = querier.state().await.endpoints.unwrap();
    assert!(
        state.stores.iter().any(|s| s.address == stores[0].address && !s.healthy && s.error.is_some()),
        "{state:?}"
    );
    // It comes back at another address, as pods do.
    let back = make("127.0.0.4", "a").await;
    querier.names.set("stores.test", &["127.0.0.3", "127.0.0.4"]);
    until("it to be back", async || ask("m").await.is_empty()).await;
    // One more is expected that was never seen.
    write(3);
    until("the third to be missed", async || ask("m").await.len() == 1).await;
    assert!(ask("m").await[0].1.contains("3 stores should be behind it, and 2 are"));
    // On purpose, fewer are expected.
    querier.names.set("stores.test", &["127.0.0.4"]);
    write(1);
    until("nothing to be missed", async || ask("m").await.is_empty()).await;
    drop(back);
}

/// The same behind a link: the far side is two stores behind one name.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_a_link_expects_and_that_is_not_there_is_missing() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, replica: &str| {
        Fake::new(&[("cluster", "far"), ("replica", replica)], data(5)).start_at(&format!("{ip}:{port}")).await
    };
    let stores = [make("127.0.0.2", "0").await, make("127.0.0.3", "1").await];
    let names = Names::default();
    names.set("far.test", &["127.0.0.2", "127.0.0.3"]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(::args::files::ENDPOINTS), "endpoints: []\n").unwrap();
    let write = |expected: u32| {
        let probe = Probe { interval_ms: 200, timeout_ms: 2000, ..Probe::default() };
        let link = Link {
            namespace: "monitoring".into(),
            name: "far".into(),
            cluster: "far".into(),
            address: format!("dns+far.test:{port}"),
            expected,
            probe,
            ..Link::default()
        };
        let links = Links {
            format: ::args::links::FORMAT,
            revision: format!("r{expected}"),
            cluster_label: "cluster".into(),
            cluster_name: "here".into(),
            files: vec![],
            links: vec![link],
        };
        std::fs::write(dir.path().join("new"), serde_json::to_string(&links).unwrap()).unwrap();
        std::fs::rename(dir.path().join("new"), dir.path().join(::args::files::LINKS)).unwrap();
    };
    write(2);
    let a = QueryArgs { endpoints_dir: dir.path().display().to_string(), ..args(&[]) };
    let querier = Querier::with_names(a, names).await;
    let ask = async |query: &str| {
        let (status, answer) = querier.query(query, "&time=1300").await;
        assert_eq!(status, 200, "{answer}");
        missing(&answer)
    };
    until("both to be asked", async || {
        let (_, answer) = querier.query("count(m)", "&time=1300&dedup=false").await;
        answer["data"]["result"][0]["value"][1] == "10" && missing(&answer).is_empty()
    })
    .await;
    querier.names.set("far.test", &["127.0.0.3"]);
    until("the loss to be told", async || ask("m").await.len() == 1).await;
    let told = ask("m").await;
    assert_eq!(told[0].0, format!("{} (link far, cluster far)", stores[0].address));
    assert!(told[0].1.contains("behind which 2 stores should be; 1 are"), "{told:?}");
    assert_eq!(ask("m{cluster=\"here\"}").await, [], "it has nothing of that");
    let (status, answer) = querier.query("m", "&time=1300&partial_response=false").await;
    assert!(status == 422 && answer["error"].as_str().unwrap().contains(&stores[0].address), "{answer}");
    // Of one that was never seen its number is told.
    write(3);
    until("the third to be missed", async || ask("m").await.len() == 2).await;
    assert!(ask("m").await.iter().any(|(_, why)| why.contains("3 stores should be behind it, and 1 are")));
    // On purpose, fewer are expected.
    write(1);
    until("nothing to be missed", async || ask("m").await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_entries_with_the_same_store_the_one_that_sees_it_counts() {
    let store = Fake::new(&[("cluster", "a")], data(5)).start().await;
    let dir = tempfile::tempdir().unwrap();
    // The first entry wants TLS, which the store does not have.
    let wrong = "client_config: {tls_config: {enabled: true, insecure_skip_verify: true}}";
    let text = format!("endpoints:\n- address: {0}\n  {wrong}\n- address: {0}\n", store.address);
    std::fs::write(dir.path().join("endpoints.yaml"), text).unwrap();
    let querier = Querier::start(QueryArgs { endpoints_dir: dir.path().display().to_string(), ..args(&[]) }).await;
    let (status, answer) = querier.query("count(m)", "&time=1300&partial_response=false").await;
    assert_eq!((status, answer["data"]["result"][0]["value"][1].as_str()), (200, Some("5")), "{answer}");
    assert_eq!(querier.info().await.label_sets.len(), 1, "it is offered on, too");
    assert_eq!(store.take_asked().len(), 1);
}

/// A store behind a name that expects two leaves it, and its address becomes another store's.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_was_left_may_be_another_stores() {
    let port = testkit::ports::free().unwrap();
    let make = async |ip: &str, cluster: &str| {
        Fake::new(&[("cluster", cluster)], data(5)).start_at(&format!("{ip}:{port}")).await
    };
    let (old, _other) = (make("127.0.0.2", "a").await, make("127.0.0.3", "a2").await);
    let names = Names::default();
    names.set("a.test", &["127.0.0.2", "127.0.0.3"]);
    names.set("b.test", &["127.0.0.4"]);
    let dir = tempfile::tempdir().unwrap();
    let text = format!("endpoints:\n- address: dns+a.test:{port}\n  expected: 2\n- address: dns+b.test:{port}\n");
    std::fs::write(dir.path().join("endpoints.yaml"), text).unwrap();
    let querier =
        Querier::with_names(QueryArgs { endpoints_dir: dir.path().display().to_string(), ..args(&[]) }, names).await;
    until("both", async || querier.query("count(m)", "&time=1300").await.1["data"]["result"][0]["value"][1] == "10")
        .await;
    querier.names.set("a.test", &["127.0.0.3"]);
    until("one to be missed", async || {
        missing(&querier.query("m{cluster=\"a\"}", "&time=1300").await.1).iter().any(|(s, _)| s.contains("127.0.0.2"))
    })
    .await;
    drop(old);
    let begin = Instant::now();
    let new = loop {
        if tokio::net::TcpListener::bind(format!("127.0.0.2:{port}")).await.is_ok() {
            break make("127.0.0.2", "b").await;
        }
        assert!(begin.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    querier.names.set("b.test", &["127.0.0.2"]);
    until("the new one to be asked", async || {
        let (_, answer) = querier.query("count(m{cluster=\"b\"})", "&time=1300").await;
        answer["data"]["result"][0]["value"][1] == "5" && missing(&answer).is_empty()
    })
    .await;
    drop(new);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_was_only_slower_is_asked_again_when_the_quicker_breaks() {
    let ([one, two], querier) = group([Manner::Slow(50_000), Manner::Resets], 20).await;
    let ask = async { querier.query("sum(count_over_time(m[75s]))", "&time=1300&partial_response=false").await };
    // Its first call stays slow; when it is asked again it is quick.
    let quick = async {
        until("the first to be asked", async || !one.take_asked().is_empty()).await;
        one.fake.set_manner(Manner::Good);
    };
    let ((status, answer), ()) = tokio::join!(ask, quick);
    assert_eq!((status, answer["data"]["result"][0]["value"][1].as_str()), (200, Some("100")), "{answer}");
    assert_eq!(two.take_asked().len(), 1, "it was hedged");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_place_lacks_is_told_under_its_address() {
    let ([one, two], querier) = group([Manner::Fails, Manner::Lacks], 2).await;
    let (_, answer) = querier.query("m", "&time=1300").await;
    let told = missing(&answer);
    assert!(told.len() == 1 && told[0].1.contains("block 01KA") && told[0].0 == two.address, "{answer}");
    assert_ne!(told[0].0, one.address);
}

/// Other places than the first read on when the merge needs it, however little memory there is to read ahead.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_place_does_not_starve_when_others_hold_the_memory() {
    let big = |cluster: &str| {
        let data = (0..600).map(|i| {
            let value = format!("{i:05}{}", "x".repeat(4_000));
            (set(&[("__name__", "big"), ("n", &value)]), vec![(1_000_000, 1.0)])
        });
        Fake::new(&[("cluster", cluster)], data.collect())
    };
    // Its series come first: the others hold what they have read while they wait for them.
    let one = big("0").manner(Manner::Fails).start().await;
    let port = one.address.rsplit_once(':').unwrap().1.to_owned();
    let two = big("0").start_at(&format!("127.0.0.2:{port}")).await;
    let others = [big("a").start().await, big("b").start().await, big("c").start().await];
    let names = Names::default();
    names.set("group", &["127.0.0.1", "127.0.0.2"]);
    let args = QueryArgs {
        endpoint_groups: vec![format!("dns+group:{port}")],
        response_timeout: Millis(20_000),
        buffer_bytes: 8 << 20,
        // Not more than one message.
        buffer_bytes_per_request: 300_000,
        ..args(&others.each_ref().map(|o| o.address.clone()))
    };
    let querier = Querier::with_names(args, names).await;
    let begin = Instant::now();
    let (status, answer) = querier.query("count(big)", "&time=1000&partial_response=false&timeout=60").await;
    assert_eq!((status, answer["data"]["result"][0]["value"][1].as_str()), (200, Some("2400")), "{answer}");
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    assert_eq!(two.fake.sent.load(Ordering::SeqCst), 600);
}
