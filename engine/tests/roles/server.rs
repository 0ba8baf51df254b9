//! The common server and the channels to it: TLS and client certificates, reload, kinds of failure, an orderly end.

use args::ServerArgs;
use args::state::ErrorClass;
use engine::server::client::{self, Link, Target};
use engine::server::tls::{ClientTls, ClientTlsOptions};
use engine::server::{self, Context, Service};
use model::world::World;
use proto::thanos::info::info_client::InfoClient;
use proto::thanos::info::info_server::{Info, InfoServer};
use proto::thanos::info::{InfoRequest, InfoResponse};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use testkit::certs::{Authority, Pair, Request};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic::{Response, Status};

/// Answers Info after a pause.
struct Slow(Duration);

#[tonic::async_trait]
impl Info for Slow {
    async fn info(&self, _: tonic::Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        tokio::time::sleep(self.0).await;
        Ok(Response::new(InfoResponse { component_type: "test".into(), ..InfoResponse::default() }))
    }
}

struct Running {
    grpc: String,
    http: String,
    context: Context,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

async fn start(mut args: ServerArgs, pause: Duration) -> Running {
    args.http_address = "127.0.0.1:0".into();
    args.grpc_address = "127.0.0.1:0".into();
    let context = Context::new("test", World::real());
    let bound = server::bind(&args).await.unwrap();
    let (grpc, http) = (bound.grpc_address().unwrap().to_string(), format!("http://{}", bound.http_address().unwrap()));
    let service = Service {
        component: "test",
        http: axum::Router::new(),
        grpc: tonic::service::Routes::new(InfoServer::new(Slow(pause))),
        state: Arc::new(args::state::State::default),
    };
    let stop = CancellationToken::new();
    let task = tokio::spawn(bound.serve(context.clone(), service, stop.clone()));
    context.ready.ready();
    Running { grpc, http, context, stop, task }
}

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
    fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
    fn pair(&self, name: &str, pair: &Pair) -> (PathBuf, PathBuf) {
        (self.put(&format!("{name}.crt"), &pair.cert), self.put(&format!("{name}.key"), &pair.key))
    }
}

fn text(p: &Path) -> String {
    p.display().to_string()
}

fn tls_args(files: &Files, server: &Pair, client_ca: Option<&str>) -> ServerArgs {
    let (cert, key) = files.pair("server", server);
    ServerArgs {
        grpc_tls_cert: text(&cert),
        grpc_tls_key: text(&key),
        grpc_tls_client_ca: client_ca.map(|ca| text(&files.put("clients.crt", ca))).unwrap_or_default(),
        ..ServerArgs::default()
    }
}

fn connect(address: &str, tls: Option<ClientTlsOptions>, server_name: &str) -> (InfoClient<Channel>, Link) {
    let target = Target {
        address: address.into(),
        authority: "store.example:443".into(),
        tls: tls.map(|o| ClientTls::new(o).unwrap()),
        server_name: server_name.into(),
        connect_timeout: Duration::from_millis(800),
        window: 1 << 20,
    };
    let (channel, link) = client::channel(target).unwrap();
    (InfoClient::new(channel), link)
}

async fn call(mut client: InfoClient<Channel>) -> Result<String, Status> {
    let call =
        tokio::time::timeout(Duration::from_secs(10), client.info(InfoRequest {})).await.expect("no call may hang");
    call.map(|r| r.into_inner().component_type)
}

async fn class(address: &str, tls: Option<ClientTlsOptions>, server_name: &str) -> (ErrorClass, String) {
    let (client, link) = connect(address, tls, server_name);
    let seen = link.diagnose(&call(client.clone()).await.unwrap_err());
    (seen.class, seen.message)
}

#[tokio::test(flavor = "multi_thread")]
async fn mutual_tls_and_every_kind_of_failure() {
    let (ca, other, files) = (Authority::new("ca").unwrap(), Authority::new("other").unwrap(), Files::new());
    let server = ca.server(&["store.example", "127.0.0.1"]).unwrap();
    let running = start(tls_args(&files, &server, Some(ca.cert())), Duration::ZERO).await;
    let ca_file = files.put("ca.crt", ca.cert());
    let identity = |who: &Authority, name: &str| Some(files.pair(name, &who.client(name, &[]).unwrap()));
    let options = ClientTlsOptions { ca: Some(ca_file.clone()), identity: identity(&ca, "good"), ..Default::default() };

    let (client, link) = connect(&running.grpc, Some(options.clone()), "");
    assert_eq!(call(client.clone()).await.unwrap(), "test");
    let seen = link.tls().unwrap();
    assert_eq!(seen.protocol, "1.3");
    assert!(
        seen.server_not_after_ms.is_some() && seen.client_not_after_ms.is_some() && link.error().is_none(),
        "{seen:?}"
    );

    let is = |got: (ErrorClass, String), want: ErrorClass| assert!(got.0 == want, "{want:?}: {got:?}");
    let bare = ClientTlsOptions { identity: None, ..options.clone() };
    is(class(&running.grpc, Some(bare), "").await, ErrorClass::ClientCertificate);
    let stranger = ClientTlsOptions { identity: identity(&other, "stranger"), ..options.clone() };
    is(class(&running.grpc, Some(stranger), "").await, ErrorClass::ClientCertificate);
    is(class(&running.grpc, Some(options.clone()), "elsewhere.example").await, ErrorClass::WrongServerName);
    let other_ca = ClientTlsOptions { ca: Some(files.put("other.crt", other.cert())), ..options.clone() };
    is(class(&running.grpc, Some(other_ca.clone()), "").await, ErrorClass::UnknownCa);
    let blind = ClientTlsOptions { insecure_skip_verify: true, ca: None, ..options.clone() };
    let (client, _) = connect(&running.grpc, Some(blind), "elsewhere.example");
    assert_eq!(call(client.clone()).await.unwrap(), "test");

    let free = testkit::ports::free().unwrap();
    is(class(&format!("127.0.0.1:{free}"), Some(options.clone()), "").await, ErrorClass::Connect);
    is(class(&format!("127.0.0.1:{free}"), None, "").await, ErrorClass::Connect);
    // HTTP/1 only, and TLS spoken to a plaintext port.
    let web = testkit::metrics_source::MetricsSource::start().unwrap();
    is(class(&web.address(), None, "").await, ErrorClass::NotHttp2);
    is(class(&web.address(), Some(options.clone()), "").await, ErrorClass::TlsHandshake);
    // Accepts, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    is(class(&silent.local_addr().unwrap().to_string(), Some(options.clone()), "").await, ErrorClass::Timeout);

    let expired =
        Request { name: "old".into(), hosts: vec!["store.example".into()], expired: true, ..Default::default() };
    let old = start(tls_args(&Files::new(), &ca.issue(&expired).unwrap(), None), Duration::ZERO).await;
    is(class(&old.grpc, Some(options.clone()), "").await, ErrorClass::CertificateExpired);

    // Plaintext to a TLS port.
    let (got, why) = class(&running.grpc, None, "").await;
    assert!(matches!(got, ErrorClass::NotHttp2 | ErrorClass::Connect | ErrorClass::Protocol), "{got:?} {why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_taken_and_broken_ones_are_not() {
    let (ca, files) = (Authority::new("ca").unwrap(), Files::new());
    let named = |cn: &str| {
        ca.issue(&Request { name: cn.into(), hosts: vec!["store.example".into()], ..Default::default() }).unwrap()
    };
    let running = start(tls_args(&files, &named("first"), None), Duration::ZERO).await;
    let options = ClientTlsOptions { ca: Some(files.put("ca.crt", ca.cert())), ..Default::default() };
    let subject = async || {
        let (client, link) = connect(&running.grpc, Some(options.clone()), "");
        call(client.clone()).await.unwrap();
        link.tls().unwrap().peer_subject
    };
    assert!(subject().await.contains("first"));
    files.put("server.crt", "garbage");
    super::common::until("the failure to be counted", async || {
        running.context.metrics.render().unwrap().contains("panoptes_tls_reload_failures_total 1")
    })
    .await;
    assert!(subject().await.contains("first"), "the old certificate stays");
    files.pair("server", &named("second"));
    super::common::until("the new certificate", async || {
        running.context.metrics.render().unwrap().contains("panoptes_tls_reloads_total 1")
    })
    .await;
    assert!(subject().await.contains("second"));

    // The client's side: files are read again on demand.
    let tls = ClientTls::new(options.clone()).unwrap();
    assert!(!tls.reload().unwrap());
    files.put("ca.crt", Authority::new("x").unwrap().cert());
    assert!(tls.reload().unwrap());
    files.put("ca.crt", "");
    assert!(tls.reload().unwrap_err().to_string().contains("ca.crt holds no certificate"));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_configuration_is_refused() {
    let args = ServerArgs { grpc_tls_cert: "x".into(), ..ServerArgs::default() };
    let error = server::bind(&args).await.err().unwrap().to_string();
    assert!(error.contains("--grpc-server-tls-key"), "{error}");
    let missing =
        ServerArgs { grpc_tls_key: "/no/such".into(), grpc_tls_cert: "/no/such".into(), ..ServerArgs::default() };
    assert!(server::bind(&missing).await.err().unwrap().to_string().contains("/no/such"));
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let taken_again = tokio::net::TcpListener::bind(&taken).await.unwrap();
    let args = ServerArgs { http_address: taken.clone(), ..ServerArgs::default() };
    assert!(server::bind(&args).await.err().unwrap().to_string().contains("--http-address"));
    drop(taken_again);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wildcard_means_both_families() {
    for text in [":0", "0.0.0.0:0"] {
        let args = ServerArgs { http_address: text.into(), grpc_address: text.into(), ..ServerArgs::default() };
        let bound = server::bind(&args).await.unwrap();
        let port = bound.http_address().unwrap().port();
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // A machine without IPv6 has no ::1 either.
        if tokio::net::TcpListener::bind("[::1]:0").await.is_ok() {
            tokio::net::TcpStream::connect(("::1", port)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_lets_open_calls_finish_and_refuses_new_ones() {
    let running = start(ServerArgs::default(), Duration::from_millis(700)).await;
    assert_eq!(super::common::get(format!("{}/-/ready", running.http)).unwrap().0, 200);
    let (client, _) = connect(&running.grpc, None, "");
    let open = tokio::spawn(async move { call(client).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.stop.cancel();
    assert_eq!(open.await.unwrap().unwrap(), "test", "the open call ends well");
    assert!(!running.context.ready.is_ready());
    tokio::time::timeout(Duration::from_secs(5), running.task).await.expect("the server ends").unwrap().unwrap();
    let (late, _) = connect(&running.grpc, None, "");
    assert_eq!(client::classify_status(&call(late.clone()).await.unwrap_err()), ErrorClass::Connect);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_ever_and_old_connections_are_renewed() {
    let mut args = ServerArgs { grpc_grace_period: args::Millis(300), ..ServerArgs::default() };
    let running = start(args.clone(), Duration::from_secs(60)).await;
    let (client, _) = connect(&running.grpc, None, "");
    let open = tokio::spawn(async move { call(client).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    running.stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.task).await.expect("the grace period ends").unwrap().unwrap();
    assert!(open.await.unwrap().is_err());

    // Connections are closed at their age, between calls; the client comes back by itself.
    args.grpc_max_connection_age = args::Millis(200);
    let running = start(args, Duration::ZERO).await;
    let (client, _) = connect(&running.grpc, None, "");
    for _ in 0..30 {
        assert_eq!(client::retrying(|| call(client.clone())).await.unwrap(), "test");
        tokio::time::sleep(Duration::from_millis(37)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness() {
    use tonic_health::pb::health_client::HealthClient;
    let running = start(ServerArgs::default(), Duration::ZERO).await;
    let (channel, _) = client::channel(Target {
        address: running.grpc.clone(),
        authority: String::new(),
        tls: None,
        server_name: String::new(),
        connect_timeout: Duration::from_secs(1),
        window: 1 << 20,
    })
    .unwrap();
    let mut health = HealthClient::new(channel);
    let mut check = async || {
        let r = health.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await;
        r.unwrap().into_inner().status
    };
    assert_eq!(check().await, 1);
    running.context.ready.not_ready("a test");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(check().await, 2);
    let (code, body) = super::common::get(format!("{}/-/ready", running.http)).unwrap();
    assert!(code == 503 && body.contains("a test"), "{code} {body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed() {
    use tokio::io::AsyncReadExt as _;
    let running = start(ServerArgs::default(), Duration::ZERO).await;
    let (grpc, http) = (running.grpc.as_str(), running.http.trim_start_matches("http://"));
    let one = async |address: &str| {
        let mut silent = tokio::net::TcpStream::connect(address).await.unwrap();
        let end = tokio::time::timeout(Duration::from_secs(13), silent.read(&mut [0; 1])).await;
        assert_eq!(end.expect("it is closed after 10 s").unwrap_or(0), 0, "{address}");
    };
    tokio::join!(one(grpc), one(http));
}
