//! A small certificate authority for tests and demos.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate with its key, both PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The certificate, PEM.
    pub cert: String,
    /// The private key, PKCS #8 PEM.
    pub key: String,
}

/// What a certificate is to say.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The common name.
    pub name: String,
    /// Organisations: Kubernetes reads them as groups.
    pub groups: Vec<String>,
    /// DNS names and IP addresses (told apart by their form), and URIs (`spiffe://…`).
    pub hosts: Vec<String>,
    /// Makes a certificate that ended in the year 2001.
    pub expired: bool,
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    name: String,
    pair: Pair,
}

impl Authority {
    /// A new authority with a key of its own.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let cert = ca_params(name)?.self_signed(&key)?.pem();
        Ok(Self { name: name.to_owned(), pair: Pair { cert, key: key.serialize_pem() } })
    }

    /// The authority that [`Self::new`] made earlier under this name, from its stored certificate and key.
    pub fn load(name: &str, pair: Pair) -> Self {
        Self { name: name.to_owned(), pair }
    }

    /// The authority's own certificate and key.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }

    /// The authority's certificate, PEM: what clients and servers trust.
    pub fn cert(&self) -> &str {
        &self.pair.cert
    }

    /// A certificate for servers and clients alike.
    ///
    /// # Errors
    /// When a host is not a name, address or URI that fits in a certificate.
    pub fn issue(&self, request: &Request) -> anyhow::Result<Pair> {
        let issuer = Issuer::new(ca_params(&self.name)?, KeyPair::from_pem(&self.pair.key)?);
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, request.name.as_str());
        for group in &request.groups {
            params.distinguished_name.push(DnType::OrganizationName, group.as_str());
        }
        for host in &request.hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) if host.contains("://") => SanType::URI(host.as_str().try_into()?),
                Err(_) => SanType::DnsName(host.as_str().try_into()?),
            });
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if request.expired {
            params.not_before = rcgen::date_time_ymd(2000, 1, 1);
            params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        } else {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2120, 1, 1);
        }
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &issuer)?;
        Ok(Pair { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// A certificate for a server that answers under `hosts`; the first is its name.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn server(&self, hosts: &[&str]) -> anyhow::Result<Pair> {
        self.issue(&Request {
            name: hosts.first().copied().unwrap_or("server").to_owned(),
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
            ..Request::default()
        })
    }

    /// A certificate for a client called `name`, in `groups`.
    ///
    /// # Errors
    /// As [`Self::issue`].
    pub fn client(&self, name: &str, groups: &[&str]) -> anyhow::Result<Pair> {
        self.issue(&Request {
            name: name.to_owned(),
            groups: groups.iter().map(|&g| g.to_owned()).collect(),
            ..Request::default()
        })
    }
}

/// A bare key pair: `cert` holds the public key, PEM. Kubernetes signs service account tokens with one.
///
/// # Errors
/// When no key can be made.
pub fn bare_key() -> anyhow::Result<Pair> {
    let key = KeyPair::generate()?;
    Ok(Pair { cert: key.public_key_pem(), key: key.serialize_pem() })
}

fn ca_params(name: &str) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2120, 1, 1);
    Ok(params)
}
