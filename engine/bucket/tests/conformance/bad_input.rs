//! Stores and networks that misbehave, credentials that are wrong.

use crate::suite;
use bucket::layers::faults::{Faults, Plan};
use bucket::layers::retry::Policy;
use bucket::verify::{self, Right};
use bucket::{Advice, Bucket, Config, Kind, Options, block};
use bytes::Bytes;
use model::world::World;
use std::sync::Arc;
use std::time::Duration;
use testkit::faults::{Fault, Operation, Proxy, Rule};
use testkit::gcs::{self, Gcs};
use testkit::{azure, s3};

fn open(yaml: &str, options: Options) -> Bucket {
    Bucket::open(&Config::parse(yaml).unwrap(), options).unwrap()
}

fn google(url: &str) -> String {
    format!("type: GCS\nconfig:\n  bucket: my-bucket\n  endpoint: {url}\n")
}

/// Patient enough for many faults.
fn stubborn() -> Options {
    let retry =
        Policy { attempts: 30, budget: 1_000_000, longest_pause: Duration::from_millis(20), ..suite::options().retry };
    Options { retry, ..suite::options() }
}

struct Behind {
    server: Gcs,
    proxy: Proxy,
}

impl Behind {
    fn new() -> Self {
        let server = Gcs::start().unwrap();
        server.make_bucket("my-bucket");
        let proxy = Proxy::start(&server.url(), 7).unwrap();
        Self { server, proxy }
    }

    fn bucket(&self) -> Bucket {
        open(&google(&self.proxy.url()), suite::options())
    }
}

fn hostile() -> Vec<Rule> {
    vec![
        Rule::always(Fault::Refuse(503, "InternalError")).share(0.05),
        Rule::always(Fault::Refuse(429, "SlowDown")).share(0.05),
        Rule::always(Fault::Refuse(409, "OperationAborted")).to(&[Operation::ConditionalPut]).share(0.1),
        Rule::always(Fault::Drop).share(0.05),
        Rule::always(Fault::LoseAnswer).share(0.05),
        Rule::always(Fault::CutBody).share(0.05),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_on_a_hostile_google() {
    let behind = Behind::new();
    let bucket = open(&google(&behind.proxy.url()), stubborn());
    behind.proxy.set(hostile());
    for _ in 0..3 {
        suite::one_writer(&bucket).await;
    }
    assert!(behind.proxy.faults() > 50, "{}", behind.proxy.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_on_a_hostile_amazon() {
    if testkit::peers::skip(&["versitygw"]) {
        return;
    }
    let server = s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    let proxy = Proxy::start(&server.address(), 8).unwrap();
    let bucket = open(&s3::objstore(&proxy.address(), "my-bucket"), stubborn());
    proxy.set(hostile());
    for _ in 0..2 {
        suite::one_writer(&bucket).await;
    }
    assert!(proxy.faults() > 30, "{}", proxy.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_on_a_hostile_microsoft() {
    if testkit::peers::skip(&["azurite"]) {
        return;
    }
    let server = azure::Azurite::start().unwrap();
    server.make_container("my-bucket").unwrap();
    let proxy = Proxy::start(&server.address(), 9).unwrap();
    let bucket = open(&azure::objstore(&proxy.address(), "my-bucket"), stubborn());
    proxy.set(hostile());
    for _ in 0..2 {
        suite::one_writer(&bucket).await;
    }
    assert!(proxy.faults() > 30, "{}", proxy.faults());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_recognised_by_its_bytes() {
    let behind = Behind::new();
    let bucket = behind.bucket();
    let lose_one = || behind.proxy.set(vec![Rule::always(Fault::LoseAnswer).to(&[Operation::ConditionalPut]).times(1)]);
    lose_one();
    let version = bucket.create("lease", "holder a").await.unwrap();
    lose_one();
    let version = bucket.update("lease", "holder a, renewed", &version).await.unwrap();
    assert_eq!(bucket.head("lease").await.unwrap().version, version);
    // Somebody else was first: no lost answer makes us the winner.
    lose_one();
    let error = bucket.create("lease", "holder b").await.unwrap_err();
    assert_eq!(error.kind, Kind::Exists);
    lose_one();
    assert_eq!(
        bucket
            .update("lease", "holder b", &bucket::Version { generation: Some("1".into()), ..version })
            .await
            .unwrap_err()
            .kind,
        Kind::Changed
    );
    assert_eq!(bucket.get("lease", 99).await.unwrap().bytes, "holder a, renewed");
}

#[tokio::test(flavor = "multi_thread")]
async fn try_again_is_not_exists() {
    let behind = Behind::new();
    behind.proxy.set(vec![Rule::always(Fault::Refuse(409, "ConditionalRequestConflict")).times(2)]);
    behind.bucket().create("a", "x").await.unwrap();
    behind.proxy.set(vec![Rule::always(Fault::Refuse(409, "ConditionalRequestConflict"))]);
    let error = behind.bucket().create("b", "x").await.unwrap_err();
    assert_eq!((error.kind, error.advice()), (Kind::Unavailable, Advice::Retry));
    assert_eq!(behind.server.names("my-bucket"), ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_end() {
    let behind = Behind::new();
    behind.proxy.set(vec![Rule::always(Fault::Refuse(500, "InternalError"))]);
    let bucket = behind.bucket();
    for _ in 0..30 {
        assert_eq!(bucket.get("a", 9).await.unwrap_err().kind, Kind::Unavailable);
    }
    // 30 calls and the 20 retries of the budget.
    assert_eq!(bucket.meter().total(), 50);
    assert_eq!(bucket.meter().requests()["GET 500"], 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_goes_on_in_parts() {
    let behind = Behind::new();
    behind.proxy.set(vec![Rule::always(Fault::Drop).to(&[Operation::Put]).times(1)]);
    let bucket = behind.bucket();
    suite::parts(&bucket).await;
    let requests = behind.server.requests();
    assert_eq!((requests["multipart-part"], requests["multipart-complete"]), (3, 1), "{requests:?}");
    // A part whose answer is lost is sent again, a lost answer to the last request is recognised.
    for operation in 0..5 {
        behind.proxy.set(vec![
            Rule::always(Fault::Drop).to(&[Operation::Put]).times(1),
            Rule::always(Fault::LoseAnswer)
                .to(&[Operation::Parts])
                .path(["uploads", "partNumber=1", "partNumber=2", "partNumber=3", "/big?uploadId"][operation])
                .times(1),
        ]);
        suite::parts(&bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_changed_on_the_way_is_sent_again() {
    // Google tells what it stored, Amazon compares with what was signed.
    let google_behind = Behind::new();
    let mut all = vec![(google_behind.bucket(), &google_behind.proxy)];
    let (server, proxy);
    if !testkit::peers::skip(&["versitygw"]) {
        server = s3::S3::start().unwrap();
        server.make_bucket("my-bucket").unwrap();
        proxy = Proxy::start(&server.address(), 8).unwrap();
        all.push((open(&s3::objstore(&proxy.address(), "my-bucket"), suite::options()), &proxy));
    }
    for (bucket, proxy) in all {
        proxy.set(vec![
            Rule::always(Fault::Drop).to(&[Operation::Put]).times(1),
            Rule::always(Fault::Flip).to(&[Operation::Parts]).path("partNumber=2").times(1),
        ]);
        suite::parts(&bucket).await;
        assert_eq!(proxy.faults(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_attempt_left_is_not_taken_for_the_joined_parts() {
    let behind = Behind::new();
    let bucket = behind.bucket();
    let body: Bytes = vec![7; 33 << 20].into();
    // The first attempt stores something else of the same length; the parts are swept before they are joined.
    behind.proxy.set(vec![
        Rule::always(Fault::Flip).to(&[Operation::Put]).times(1),
        Rule::always(Fault::Refuse(404, "NoSuchUpload")).to(&[Operation::Parts]).path("/big?uploadId").times(1),
    ]);
    let error = bucket.upload("big", Arc::new(body.clone())).await.unwrap_err();
    assert!(error.kind == Kind::Corrupt && error.what.contains("CRC-32C"), "{error}");
    assert_eq!(behind.proxy.faults(), 2);
    bucket.upload("big", Arc::new(body.clone())).await.unwrap();
    assert!(bucket.get("big", 1 << 30).await.unwrap().bytes == body);
}

#[tokio::test]
async fn a_short_body_is_never_a_success() {
    let memory = bucket::Memory::new(World::real().clock);
    let faults = Faults::new(memory, World::real().entropy, Plan::default());
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", suite::options());
    bucket.put("a", "0123456789").await.unwrap();
    faults.set(Plan { cuts: 1.0, ..Plan::default() });
    for read in [bucket.get("a", 10).await.map(|o| o.bytes), bucket.get_range("a", 2..8).await] {
        let error = read.unwrap_err();
        assert_eq!(error.kind, Kind::Corrupt);
        assert!(error.what.contains("bytes were announced"), "{error}");
    }
    let mut came = suite::Came::default();
    assert_eq!(bucket.get_range_into("a", 2..8, &mut came).await.unwrap_err().kind, Kind::Corrupt);
    // Now and then: read again until it is whole.
    faults.set(Plan { cuts: 0.3, ..Plan::default() });
    let bucket = Bucket::over(Arc::new(faults), "b", stubborn());
    for _ in 0..20 {
        assert_eq!(bucket.get("a", 10).await.unwrap().bytes, "0123456789");
        let mut came = suite::Came::default();
        bucket.get_range_into("a", 2..8, &mut came).await.unwrap();
        assert_eq!(came.0, b"234567");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_larger_than_part_size() {
    if testkit::peers::skip(&["versitygw"]) {
        return;
    }
    let server = s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    let body: Bytes = (0..(12usize << 20)).map(|n| (n / 3 + n / 70_001) as u8).collect::<Vec<u8>>().into();
    // So many requests of an upload in parts: begin, parts, complete; or one request alone.
    for (extra, parts, puts) in [("part_size: 5242880", 1 + 3 + 1, 0), ("part_size: 67108864", 0, 1)] {
        let proxy = Proxy::start(&server.address(), 8).unwrap();
        let yaml = format!("{}  {extra}\n", s3::objstore(&proxy.address(), "my-bucket"));
        let bucket = open(&yaml, suite::options());
        bucket.upload("a", Arc::new(body.clone())).await.unwrap();
        assert!(bucket.get("a", 1 << 30).await.unwrap().bytes == body, "{extra}");
        let sent = proxy.requests();
        let count = |operation| sent.get(&operation).copied().unwrap_or_default();
        assert_eq!((count(Operation::Parts), count(Operation::Put)), (parts, puts), "{extra}: {sent:?}");
    }
    // Without parts a large upload that breaks is sent again as a whole.
    let proxy = Proxy::start(&server.address(), 8).unwrap();
    proxy.set(vec![Rule::always(Fault::Drop).to(&[Operation::Put]).times(1)]);
    let yaml = format!("{}  disable_multipart: true\n", s3::objstore(&proxy.address(), "my-bucket"));
    suite::parts(&open(&yaml, suite::options())).await;
    assert!(!proxy.requests().contains_key(&Operation::Parts));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_is_noticed() {
    let behind = Behind::new();
    let bucket = behind.bucket();
    let body: Bytes = vec![7; 1000].into();
    // Once: sent again. Always: told by the checksum.
    behind.proxy.set(vec![Rule::always(Fault::Truncate).times(1)]);
    bucket.upload("a", Arc::new(body.clone())).await.unwrap();
    assert_eq!(bucket.get("a", 1000).await.unwrap().bytes, body);
    behind.proxy.set(vec![Rule::always(Fault::Truncate)]);
    assert_eq!(bucket.upload("a", Arc::new(body)).await.unwrap_err().kind, Kind::Corrupt);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_was_cut_is_noticed_without_a_checksum() {
    if testkit::peers::skip(&["versitygw"]) {
        return;
    }
    let server = s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    let proxy = Proxy::start(&server.address(), 8).unwrap();
    let bucket = open(&s3::objstore(&proxy.address(), "my-bucket"), suite::options());
    let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap();
    let files = [("index".to_owned(), 1000)];
    for (fault, fits) in [(None, true), (Some(Fault::Truncate), false)] {
        proxy.set(fault.into_iter().map(Rule::always).collect());
        bucket.upload(&block::object(id, "index"), Arc::new(Bytes::from(vec![7; 1000]))).await.unwrap();
        proxy.set(Vec::new());
        let checked = block::check_uploaded(&bucket, id, &files).await;
        assert_eq!(checked.is_ok(), fits, "{checked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_missing_right_has_its_name() {
    let server = Gcs::start().unwrap();
    server.make_bucket("my-bucket");
    let bucket = open(&google(&server.url()), suite::options());
    for (deny, rights, permission) in [
        (gcs::Right::List, Right::PRODUCER, "storage.objects.list"),
        (gcs::Right::Get, Right::PRODUCER, "storage.objects.get"),
        (gcs::Right::Create, Right::PRODUCER, "storage.objects.create"),
        (gcs::Right::Delete, Right::COMPACTOR, "storage.objects.delete"),
    ] {
        server.deny(&[deny]);
        let failure = verify::check(&bucket, "sidecar", rights).await.unwrap_err();
        assert_eq!(failure.permission, Some(permission));
        let text = failure.to_string();
        assert!(
            text.starts_with(&format!("sidecar lacks {permission}: "))
                && text.ends_with("grant the right on the bucket"),
            "{text}"
        );
        assert_eq!(failure.error.advice(), Advice::Stop);
    }
    // A producer needs no delete; its marker stays then, one for all its checks.
    server.deny(&[gcs::Right::Delete]);
    let before = server.names("my-bucket").len();
    let mut check = verify::Check::new("sidecar", Right::PRODUCER);
    for _ in 0..3 {
        check.run(&bucket).await.unwrap();
    }
    assert_eq!(server.names("my-bucket").len(), before + 1);
    server.deny(&[]);
    let before = server.names("my-bucket").len();
    verify::check(&bucket, "compact", Right::COMPACTOR).await.unwrap();
    assert_eq!(server.names("my-bucket").len(), before, "it cleans up");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_bucket_clock_and_network_are_told_apart() {
    let server = Gcs::start().unwrap();
    server.make_bucket("my-bucket");
    let key = |id: &str| {
        let key = gcs::key(id, "sidecar@panoptes-test.iam.gserviceaccount.com", &server.url()).unwrap();
        format!("{}  service_account: '{key}'\n", google(&server.url()))
    };
    let old = open(&key("old"), suite::options());
    let new = open(&key("new"), suite::options());
    let run = |bucket: Bucket| async move { verify::check(&bucket, "sidecar", Right::PRODUCER).await };
    server.accept_keys(&["old"]);
    run(old.clone()).await.unwrap();
    let kind = |result: Result<(), verify::Failure>| {
        let failure = result.unwrap_err();
        assert!(failure.permission.is_none(), "{failure}");
        failure.error.kind
    };
    assert_eq!(kind(run(new.clone()).await), Kind::Credentials);
    server.accept_keys(&["new"]);
    assert_eq!(kind(run(old.clone()).await), Kind::Credentials);
    run(new).await.unwrap();
    // The same refusal from a server whose clock is another.
    server.set(gcs::Settings { keys: Some([String::from("new")].into()), ahead: 900, ..gcs::Settings::default() });
    let failure = run(old).await.unwrap_err();
    assert_eq!(failure.error.kind, Kind::ClockSkew);
    assert!(failure.to_string().contains("behind"), "{failure}");
    server.set(gcs::Settings::default());
    let other = open(&google(&server.url()).replace("my-bucket", "other"), suite::options());
    assert_eq!(kind(run(other).await), Kind::MissingBucket);
    let nobody = open(&google("http://127.0.0.1:1"), suite::options());
    let failure = run(nobody).await.unwrap_err();
    assert_eq!(failure.error.kind, Kind::Unavailable);
    assert!(failure.to_string().contains("refused"), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_and_bucket_of_amazon() {
    if testkit::peers::skip(&["versitygw"]) {
        return;
    }
    let server = s3::S3::start().unwrap();
    server.make_bucket("my-bucket").unwrap();
    let run = |yaml: String| async move {
        verify::check(&open(&yaml, suite::options()), "sidecar", Right::COMPACTOR).await.map_err(|f| f.error.kind)
    };
    run(server.objstore("my-bucket")).await.unwrap();
    assert_eq!(run(server.objstore("other")).await, Err(Kind::MissingBucket));
    assert_eq!(run(server.objstore("my-bucket").replace(s3::SECRET_KEY, "wrong")).await, Err(Kind::Credentials));
    assert_eq!(run(server.objstore("my-bucket").replace(s3::ACCESS_KEY, "nobody")).await, Err(Kind::Credentials));
}

#[tokio::test]
async fn who_may_write_and_not_read_is_told_so_and_leaves_one_marker() {
    let memory = bucket::Memory::new(World::real().clock);
    let plan = Plan { denied: vec![bucket::Operation::Get], ..Plan::default() };
    let faults = Faults::new(memory.clone(), World::real().entropy, plan);
    let bucket = Bucket::over(Arc::new(faults.clone()), "b", suite::options());
    let mut check = verify::Check::new("sidecar", &[Right::List, Right::Create]);
    for _ in 0..3 {
        let failure = check.run(&bucket).await.unwrap_err();
        assert_eq!((failure.right, memory.snapshot().len()), (Some(Right::Get), 1), "{failure}");
    }
    faults.set(Plan::default());
    check.run(&bucket).await.unwrap();
    assert_eq!(memory.snapshot().len(), 0, "without a right to keep it");
}
