//! One call of Thanos's Info service, as any other cluster's querier makes it.

use std::time::Duration;

use anyhow::Context as _;
use proto::info::InfoRequest;
use proto::info::info_client::InfoClient;
use testkit::certs::Pair;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How to encrypt.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Who may sign the server's certificate, PEM.
    pub ca: String,
    /// The name in it.
    pub name: String,
    /// The certificate that we show.
    pub client: Option<Pair>,
}

/// What the far side says about itself.
#[derive(Debug, Clone)]
pub struct Info {
    /// `query`, `sidecar`, …
    pub component: String,
    /// All labels of all label sets.
    pub labels: Vec<(String, String)>,
}

/// Asks `host:port` who it is, within 5 s.
///
/// # Errors
/// When it can't be reached or refuses.
pub fn info(address: &str, tls: Option<Tls>) -> anyhow::Result<Info> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint =
            Endpoint::from_shared(format!("{scheme}://{address}"))?.connect_timeout(Duration::from_secs(5));
        if let Some(tls) = tls {
            let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(tls.ca)).domain_name(tls.name);
            if let Some(client) = tls.client {
                config = config.identity(Identity::from_pem(client.cert, client.key));
            }
            endpoint = endpoint.tls_config(config)?;
        }
        let call = async {
            let mut client = InfoClient::new(endpoint.connect().await?);
            Ok::<_, anyhow::Error>(client.info(InfoRequest {}).await?.into_inner())
        };
        let answer = tokio::time::timeout(Duration::from_secs(5), call).await.context("no answer within 5 s")??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let labels = answer.label_sets.iter().flat_map(|set| &set.labels);
        Ok(Info {
            component: answer.component_type,
            labels: labels.map(|l| (text(l.name.as_ref()), text(l.value.as_ref()))).collect(),
        })
    })
}
