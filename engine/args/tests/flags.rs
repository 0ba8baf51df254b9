//! Every flag both parses and renders.

use args::{
    CompactArgs, HashFunc, HeaderStrategy, LogLevel, Millis, QueryArgs, SidecarArgs, Size, StoreArgs, Switch, normalize,
};
use clap::{CommandFactory, Parser};

#[derive(Parser)]
struct Sidecar {
    #[command(flatten)]
    args: SidecarArgs,
}

#[derive(Parser)]
struct Query {
    #[command(flatten)]
    args: QueryArgs,
}

#[derive(Parser)]
struct Store {
    #[command(flatten)]
    args: StoreArgs,
}

fn parse_store(argv: &[&str]) -> Result<StoreArgs, String> {
    let argv = normalize(argv.iter().map(|s| (*s).to_owned()), &Store::command())?;
    Store::try_parse_from(std::iter::once("store".to_owned()).chain(argv)).map(|s| s.args).map_err(|e| e.to_string())
}

fn parse_sidecar(argv: &[&str]) -> Result<SidecarArgs, String> {
    let argv = normalize(argv.iter().map(|s| (*s).to_owned()), &Sidecar::command())?;
    Sidecar::try_parse_from(std::iter::once("sidecar".to_owned()).chain(argv))
        .map(|s| s.args)
        .map_err(|e| e.to_string())
}

fn parse_query(argv: &[&str]) -> Result<QueryArgs, String> {
    let argv = normalize(argv.iter().map(|s| (*s).to_owned()), &Query::command())?;
    Query::try_parse_from(std::iter::once("query".to_owned()).chain(argv)).map(|q| q.args).map_err(|e| e.to_string())
}

#[test]
fn defaults_render_to_nothing() {
    Sidecar::command().debug_assert();
    Query::command().debug_assert();
    Store::command().debug_assert();
    assert_eq!(StoreArgs::default().render(), Vec::<String>::new());
    assert_eq!(CompactArgs::default().render(), Vec::<String>::new());
    assert_eq!(
        (CompactArgs::default().max_index_size, CompactArgs::default().delete_delay),
        (Size(64 << 30), Millis(172_800_000))
    );
    assert_eq!(SidecarArgs::default().render(), Vec::<String>::new());
    assert_eq!(QueryArgs::default().render(), Vec::<String>::new());
    assert_eq!(QueryArgs::default().server.http_address, "0.0.0.0:10902");
    assert_eq!(QueryArgs::default().timeout, Millis(120_000));
}

#[test]
fn what_is_rendered_parses_back() {
    let mut a = QueryArgs::default();
    a.server.log_level = LogLevel::Debug;
    a.replica_labels = vec!["prometheus_replica".into(), "rule_replica".into()];
    a.partial_response = Switch(false);
    a.client_tls_secure = Switch(true);
    a.timeout = Millis(90_000);
    a.max_concurrent = 7;
    let argv = a.render();
    assert_eq!(
        argv,
        [
            "--log.level=debug",
            "--grpc-client-tls-secure",
            "--query.replica-label=prometheus_replica",
            "--query.replica-label=rule_replica",
            "--query.timeout=1m30s",
            "--query.max-concurrent=7",
            "--no-query.partial-response",
        ]
    );
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    assert_eq!(parse_query(&argv), Ok(a));
}

#[test]
fn thanos_manifests_parse() {
    let a = parse_query(&[
        "--enable-auto-gomemlimit",
        "--auto-gomemlimit.ratio=0.8",
        "--endpoint",
        "dnssrv+_grpc._tcp.x",
        "--query.partial-response",
    ])
    .unwrap();
    assert_eq!(a.endpoints, ["dnssrv+_grpc._tcp.x"]);
    assert_eq!(a.partial_response, Switch(true));
}

#[test]
fn what_cannot_be_honoured_is_refused_with_advice() {
    let e = parse_query(&["--query.promql-engine=thanos"]).unwrap_err();
    assert!(e.contains("there is one engine"), "{e}");
    let e = parse_query(&["--query.timeout=5"]).unwrap_err();
    assert!(e.contains("write it as 30s"), "{e}");
    assert!(parse_query(&["--no-such-flag"]).is_err());
}

#[test]
fn the_upload_flags_are_those_of_thanos() {
    let a = parse_sidecar(&[
        "--objstore.config-file=/etc/objstore.yml",
        "--shipper.upload-compacted",
        "--shipper.skip-corrupted-blocks",
        "--hash-func",
        "SHA256",
        "--shipper.upload-concurrency=8",
    ])
    .unwrap();
    assert_eq!(a.objstore_config_file, "/etc/objstore.yml");
    assert_eq!(a.shipper_upload_compacted, Switch(true));
    assert_eq!((a.hash_func, a.shipper_upload_concurrency), (HashFunc::Sha256, 8));
    assert_eq!(parse_sidecar(&a.render().iter().map(String::as_str).collect::<Vec<_>>()), Ok(a));
    let none = SidecarArgs::default();
    assert_eq!((none.hash_func, none.shipper_meta_file_name.as_str()), (HashFunc::None, "thanos.shipper.json"));
    assert!(parse_sidecar(&["--hash-func=MD5"]).unwrap_err().contains("SHA256"));
}

#[test]
fn words_of_a_newer_part_do_not_break_the_state_document() {
    let text = r#"{"format": 1, "component": "sidecar", "version": "9", "ready": true, "later": [],
        "bucket": {"error": {"class": "MoonPhase", "message": "m", "sinceMs": 1}},
        "upload": {"pending": 1, "uploaded": 2, "lagMs": 6, "retentionMs": 10,
                   "skippedBlocks": [{"block": "b", "reason": "Tired", "message": "m"}]}}"#;
    let state = args::state::State::parse(text.as_bytes()).unwrap();
    assert_eq!(state.bucket.unwrap().error.unwrap().class, args::state::BucketErrorClass::Other);
    let upload = state.upload.unwrap();
    assert_eq!(upload.skipped_blocks[0].reason, args::state::SkipReason::Other);
    assert!(upload.at_risk());
}

#[test]
fn a_store_of_thanos() {
    let args = parse_store(&[
        "--data-dir=/data",
        "--index-cache-size=1.5GB",
        "--chunk-pool-size=64KiB",
        "--store.grpc.touched-series-limit=7",
        "--store.enable-index-header-lazy-reader",
        "--store.index-header-lazy-download-strategy=eager",
        "--block-discovery-strategy=recursive",
        "--no-web.disable",
        "--ignore-deletion-marks-delay=48h",
    ])
    .unwrap();
    assert_eq!((args.index_cache_size, args.chunk_pool_size), (Size(3 << 29), Size(64 << 10)));
    assert_eq!((args.series_limit(), args.samples_limit()), (7, 0));
    assert_eq!(
        (args.header_strategy, args.ignore_deletion_marks_delay),
        (HeaderStrategy::Eager, Millis(48 * 3_600_000))
    );
    assert_eq!(parse_store(&args.render().iter().map(String::as_str).collect::<Vec<_>>()).unwrap(), args);
    for (flag, says) in [
        ("--store.caching-bucket.config=x", "--cache.disk-size"),
        ("--objstore-parquet.config-file=x", "Parquet"),
        ("--index-cache-size=many", "250MB"),
        ("--index-cache-size=99999999PB", "250MB"),
    ] {
        assert!(parse_store(&[flag]).unwrap_err().contains(says), "{flag}");
    }
}
