//! TLS for both sides. The files are compared with what is in use every few seconds, by content: kubelet swaps them through
//! symbolic links, so neither times nor inotify can be trusted. A broken file leaves the old configuration in use.

use super::metrics::Metrics;
use arc_swap::ArcSwap;
use args::ServerArgs;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Largest PEM file that is read, in bytes.
const MAX_PEM: u64 = 4 << 20;
/// Where distributions keep their authorities; `SSL_CERT_FILE` names another file.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("can't read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A file is far too large for what it should be.
    #[error("{path} has more than {MAX_PEM} bytes: is it the right file?")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A file does not hold what it should.
    #[error("{path} holds no {what} in PEM form")]
    Empty {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// The pieces don't fit together.
    #[error("certificate {cert} and key {key} can't be used: {error}")]
    Pair {
        /// The certificate file.
        cert: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What the TLS library says.
        error: rustls::Error,
    },
    /// The authorities can't be used.
    #[error("the authorities in {path} can't be used: {error}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What the TLS library says.
        error: String,
    },
    /// A setting makes no sense.
    #[error("{0}")]
    Setting(String),
}

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

type Versions = &'static [&'static rustls::SupportedProtocolVersion];
static FROM_13: Versions = &[&rustls::version::TLS13];
static FROM_12: Versions = &[&rustls::version::TLS12, &rustls::version::TLS13];

fn versions(min: &str, whose: &str) -> Result<Versions, TlsError> {
    match min {
        "1.3" => Ok(FROM_13),
        "1.2" => Ok(FROM_12),
        other => Err(TlsError::Setting(format!("{whose}: the lowest TLS version is {other:?}, expected 1.2 or 1.3"))),
    }
}

/// The contents of a set of files.
struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    fn read<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<Self, TlsError> {
        let read = |path: &PathBuf| {
            let error = |error| TlsError::Read { path: path.clone(), error };
            if std::fs::metadata(path).map_err(error)?.len() > MAX_PEM {
                return Err(TlsError::TooLarge { path: path.clone() });
            }
            Ok((path.clone(), std::fs::read(path).map_err(error)?))
        };
        paths.into_iter().map(read).collect::<Result<_, _>>().map(Self)
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (_, content) in &self.0 {
            hash.update(content.len().to_le_bytes());
            hash.update(content);
        }
        hash.finalize().into()
    }

    fn content(&self, path: &PathBuf) -> &[u8] {
        self.0.iter().find(|(p, _)| p == path).map_or(&[], |(_, c)| c.as_slice())
    }

    fn certificates(&self, path: &PathBuf) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let empty = || TlsError::Empty { path: path.clone(), what: "certificate" };
        let all: Vec<_> =
            CertificateDer::pem_slice_iter(self.content(path)).collect::<Result<_, _>>().map_err(|_e| empty())?;
        if all.is_empty() { Err(empty()) } else { Ok(all) }
    }

    fn key(&self, path: &PathBuf) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(self.content(path))
            .map_err(|_e| TlsError::Empty { path: path.clone(), what: "private key" })
    }

    fn roots(&self, path: &PathBuf) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(self.certificates(path)?);
        if added == 0 {
            let error = "none of its certificates can be parsed".to_owned();
            return Err(TlsError::Authorities { path: path.clone(), error });
        }
        Ok(roots)
    }
}

/// Makes a configuration from the contents of its files.
type Build<C> = Box<dyn Fn(&Files) -> Result<C, TlsError> + Send + Sync>;

/// A configuration and the files that it came from.
struct Reloading<C> {
    paths: Vec<PathBuf>,
    build: Build<C>,
    current: ArcSwap<C>,
    fingerprint: Mutex<[u8; 32]>,
}

impl<C> Reloading<C> {
    fn new(
        paths: Vec<PathBuf>,
        build: impl Fn(&Files) -> Result<C, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        let files = Files::read(&paths)?;
        let current = ArcSwap::from_pointee(build(&files)?);
        Ok(Self { paths, build: Box::new(build), current, fingerprint: Mutex::new(files.fingerprint()) })
    }

    /// True if the files have changed and the new ones are in use.
    fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.paths)?;
        let fingerprint = files.fingerprint();
        let mut known = self.fingerprint.lock();
        if *known == fingerprint {
            return Ok(false);
        }
        self.current.store(Arc::new((self.build)(&files)?));
        *known = fingerprint;
        Ok(true)
    }
}

/// The TLS side of a server.
pub struct ServerTls(Reloading<ServerConfig>);

impl ServerTls {
    /// From the flags; `None` if they ask for plaintext.
    pub fn from_args(args: &ServerArgs) -> Result<Option<Arc<Self>>, TlsError> {
        let path = |s: &str| (!s.is_empty()).then(|| PathBuf::from(s));
        let ca = path(&args.grpc_tls_client_ca);
        match (path(&args.grpc_tls_cert), path(&args.grpc_tls_key)) {
            (Some(cert), Some(key)) => {
                let versions = versions(&args.grpc_tls_min_version, "--grpc-server-tls-min-version")?;
                Ok(Some(Arc::new(Self::new(cert, key, ca, versions)?)))
            }
            (None, None) if ca.is_none() => Ok(None),
            _ => Err(TlsError::Setting(
                "TLS of the gRPC server is half configured: set both --grpc-server-tls-cert and --grpc-server-tls-key \
                 (--grpc-server-tls-client-ca needs them too), or none"
                    .to_owned(),
            )),
        }
    }

    fn new(cert: PathBuf, key: PathBuf, client_ca: Option<PathBuf>, versions: Versions) -> Result<Self, TlsError> {
        let paths = [&cert, &key].into_iter().chain(&client_ca).cloned().collect();
        let build = move |files: &Files| {
            let pair = |error| TlsError::Pair { cert: cert.clone(), key: key.clone(), error };
            let builder =
                ServerConfig::builder_with_provider(provider()).with_protocol_versions(versions).map_err(pair)?;
            let builder = match &client_ca {
                None => builder.with_no_client_auth(),
                Some(ca) => {
                    let roots = Arc::new(files.roots(ca)?);
                    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
                        .build()
                        .map_err(|e| TlsError::Authorities { path: ca.clone(), error: e.to_string() })?;
                    builder.with_client_cert_verifier(verifier)
                }
            };
            let mut config = builder.with_single_cert(files.certificates(&cert)?, files.key(&key)?).map_err(pair)?;
            config.alpn_protocols = vec![b"h2".to_vec()];
            Ok(config)
        };
        Reloading::new(paths, build).map(Self)
    }

    /// An acceptor with the files now in use.
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.0.current.load_full().into()
    }

    /// Reloads whenever the files change, until `stop`.
    pub(super) async fn watch(self: Arc<Self>, every: Duration, metrics: Metrics, stop: CancellationToken) {
        let reloads: Counter =
            metrics.register("panoptes_tls_reloads", "Changed TLS files brought into use", Counter::default());
        let failures: Counter = metrics.register(
            "panoptes_tls_reload_failures",
            "Times when changed TLS files could not be used and the old ones stayed",
            Counter::default(),
        );
        let mut told = None;
        while !wait(every, &stop).await {
            match self.0.reload() {
                Ok(changed) => {
                    told = None;
                    if changed {
                        reloads.inc();
                        tracing::info!("the gRPC server's TLS files have changed and are in use");
                    }
                }
                Err(error) => {
                    failures.inc();
                    let text = error.to_string();
                    if told.as_ref() != Some(&text) {
                        tracing::error!(%error, "the gRPC server's new TLS files can't be used, the old ones stay");
                    }
                    told = Some(text);
                }
            }
        }
    }
}

/// Sleeps; true if it is time to stop.
async fn wait(time: Duration, stop: &CancellationToken) -> bool {
    tokio::select! {
        () = stop.cancelled() => true,
        () = tokio::time::sleep(time) => false,
    }
}

/// How a client does TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientTlsOptions {
    /// PEM file with the authorities that sign servers; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM files with our certificate and its key, where the server asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Accept any server certificate: encrypted, but to whom is unknown.
    pub insecure_skip_verify: bool,
    /// Lowest version: `1.2` or `1.3`; empty: 1.2, as servers of others may have no more.
    pub min_version: String,
}

/// The TLS side of a client.
pub struct ClientTls {
    config: Reloading<ClientConfig>,
    identity: Option<PathBuf>,
}

impl ClientTls {
    /// Reads the files.
    pub fn new(options: ClientTlsOptions) -> Result<Arc<Self>, TlsError> {
        let system = || std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM_ROOTS.into(), PathBuf::from);
        let ca = if options.insecure_skip_verify { None } else { Some(options.ca.unwrap_or_else(system)) };
        let min = if options.min_version.is_empty() { "1.2" } else { &options.min_version };
        let versions = versions(min, "client TLS")?;
        let identity = options.identity;
        let own = identity.as_ref().map(|(cert, _)| cert.clone());
        let paths = ca.iter().chain(identity.iter().flat_map(|(c, k)| [c, k])).cloned().collect();
        let build = move |files: &Files| {
            let setting = |error: rustls::Error| TlsError::Setting(error.to_string());
            let builder =
                ClientConfig::builder_with_provider(provider()).with_protocol_versions(versions).map_err(setting)?;
            let builder = match &ca {
                None => builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider()))),
                Some(ca) => {
                    let roots = Arc::new(files.roots(ca)?);
                    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
                        .build()
                        .map_err(|e| TlsError::Authorities { path: ca.clone(), error: e.to_string() })?;
                    builder.with_webpki_verifier(verifier)
                }
            };
            let mut config = match &identity {
                None => builder.with_no_client_auth(),
                Some((cert, key)) => builder
                    .with_client_auth_cert(files.certificates(cert)?, files.key(key)?)
                    .map_err(|error| TlsError::Pair { cert: cert.clone(), key: key.clone(), error })?,
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            Ok(config)
        };
        Ok(Arc::new(Self { config: Reloading::new(paths, build)?, identity: own }))
    }

    /// The configuration now in use.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.current.load_full()
    }

    /// Reads changed files: true if there were any. On an error the old ones stay in use. New connections use the new files.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.config.reload()
    }

    /// When our own certificate ends, milliseconds since the epoch; `None` without one.
    pub fn own_not_after_ms(&self) -> Option<i64> {
        let path = self.identity.as_ref()?;
        let files = Files::read([path]).ok()?;
        not_after_ms(files.certificates(path).ok()?.first()?)
    }
}

/// When a certificate ends, milliseconds since the epoch.
pub fn not_after_ms(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    parsed.validity().not_after.timestamp().checked_mul(1000)
}

/// A certificate's subject, as `CN=…, O=…`; of a certificate without one, its first DNS name.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    use x509_parser::extensions::GeneralName;
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject().to_string();
    if !subject.is_empty() {
        return Some(subject);
    }
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|n| match n {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

/// Accepts every certificate, for `insecure_skip_verify`; signatures are still checked, so the peer holds the key it shows.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
