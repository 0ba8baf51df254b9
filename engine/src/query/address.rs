//! Addresses of stores as users write them.

use std::fmt;
use std::net::IpAddr;

/// How an address is turned into places to dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// One store: an IP address, or a name of which one address is used at a time.
    Static,
    /// `dns+host:port`: every A and AAAA record is a store.
    Dns,
    /// `dnsdualstack+host:port`: the same.
    DualStack,
    /// `dnssrv+name`: every SRV target's A and AAAA records.
    Srv,
    /// `dnssrvnoa+name`: every SRV target, resolved when dialled.
    SrvNoA,
}

/// A parsed address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// See [`Scheme`].
    pub scheme: Scheme,
    /// Host or SRV name, without brackets.
    pub host: String,
    /// Port; of SRV schemes only if it overrides the record's.
    pub port: Option<u16>,
}

/// Why an address was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{address:?} is not an address: {reason} (write host:port, dns+host:port or dnssrv+_service._tcp.name)")]
pub struct AddressError {
    address: String,
    reason: &'static str,
}

impl Address {
    /// Parses an address.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let error = |reason| AddressError { address: text.to_owned(), reason };
        let (scheme, rest) = match text.split_once('+') {
            None => (Scheme::Static, text),
            Some(("dns", rest)) => (Scheme::Dns, rest),
            Some(("dnsdualstack", rest)) => (Scheme::DualStack, rest),
            Some(("dnssrv", rest)) => (Scheme::Srv, rest),
            Some(("dnssrvnoa", rest)) => (Scheme::SrvNoA, rest),
            Some(_) => return Err(error("its prefix is unknown")),
        };
        if rest.contains("://") || rest.contains('/') {
            return Err(error("it is a URL"));
        }
        let (host, port) = match rest.strip_prefix('[').and_then(|r| r.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(error("its port is unclear"))?)),
            None => match rest.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                Some(_) => return Err(error("an IPv6 address needs brackets")),
                None => (rest, None),
            },
        };
        let port = match port {
            None => None,
            Some(p) => {
                Some(p.parse::<u16>().ok().filter(|p| *p > 0).ok_or(error("its port is no number from 1 to 65535"))?)
            }
        };
        if host.is_empty() || host.contains(char::is_whitespace) {
            return Err(error("it has no host"));
        }
        if port.is_none() && !matches!(scheme, Scheme::Srv | Scheme::SrvNoA) {
            return Err(error("it has no port"));
        }
        Ok(Self { scheme, host: host.to_owned(), port })
    }
}

/// `host:port`, with brackets where the host has colons.
pub fn join(host: impl fmt::Display, port: u16) -> String {
    let host = host.to_string();
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// One place to dial.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Place {
    /// `ip:port`.
    pub address: String,
    /// `host:port` by name, for the authority and the server's certificate.
    pub authority: String,
}

/// Looks names up.
#[async_trait::async_trait]
pub trait Dns: Send + Sync + 'static {
    /// Addresses of a host, at least one.
    async fn ips(&self, host: &str) -> Result<Vec<IpAddr>, String>;
    /// Targets of a SRV name: host without trailing dot, and port; at least one.
    async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, String>;
}

/// What a look-up has given.
#[derive(Debug, Default)]
pub struct Found {
    /// The places, sorted.
    pub places: Vec<Place>,
    /// Targets of a SRV name that could not be looked up, `host:port`, and why: there are stores behind them, too.
    pub lost: Vec<(String, String)>,
}

/// All places behind an address.
pub async fn resolve(address: &Address, dns: &dyn Dns) -> Result<Found, String> {
    let (mut places, mut lost) = (Vec::new(), Vec::new());
    match address.scheme {
        Scheme::Static | Scheme::Dns | Scheme::DualStack => {
            let port = address.port.unwrap_or_default();
            places = hosts(&address.host, port, dns).await?;
        }
        Scheme::Srv | Scheme::SrvNoA => {
            for (host, port) in dns.srv(&address.host).await? {
                let port = address.port.unwrap_or(port);
                // One dead target must not hide the others.
                match hosts(&host, port, dns).await {
                    Ok(mut found) => {
                        if address.scheme == Scheme::SrvNoA {
                            found.sort();
                            found.truncate(1);
                        }
                        places.extend(found);
                    }
                    Err(e) => lost.push((join(&host, port), e)),
                }
            }
            if places.is_empty() {
                let none = || format!("{} has no SRV targets", address.host);
                return Err(lost.pop().map_or_else(none, |(_, error)| error));
            }
        }
    }
    places.sort();
    places.dedup_by(|a, b| a.address == b.address);
    Ok(Found { places, lost })
}

async fn hosts(host: &str, port: u16, dns: &dyn Dns) -> Result<Vec<Place>, String> {
    let authority = join(host, port);
    let ips = match host.parse::<IpAddr>() {
        Ok(ip) => vec![ip],
        Err(_) => dns.ips(host).await?,
    };
    Ok(ips.into_iter().map(|ip| Place { address: join(ip, port), authority: authority.clone() }).collect())
}

/// The machine's resolver, as `/etc/resolv.conf` and `/etc/hosts` have it.
pub struct SystemDns(hickory_resolver::TokioResolver);

impl SystemDns {
    /// Reads the machine's settings.
    pub fn new() -> anyhow::Result<Self> {
        let mut builder = hickory_resolver::TokioResolver::builder_tokio()?;
        let options = builder.options_mut();
        options.timeout = std::time::Duration::from_secs(2);
        options.attempts = 2;
        options.ip_strategy = hickory_resolver::config::LookupIpStrategy::Ipv4AndIpv6;
        // Pods come and go, and whoever asks does so at an interval of his own.
        options.positive_max_ttl = Some(std::time::Duration::from_secs(1));
        options.negative_max_ttl = Some(std::time::Duration::from_secs(1));
        Ok(Self(builder.build()?))
    }
}

#[async_trait::async_trait]
impl Dns for SystemDns {
    async fn ips(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let found = self.0.lookup_ip(host).await.map_err(|e| format!("look-up of {host}: {e}"))?;
        let ips: Vec<IpAddr> = found.iter().collect();
        if ips.is_empty() { Err(format!("{host} has no addresses")) } else { Ok(ips) }
    }

    async fn srv(&self, name: &str) -> Result<Vec<(String, u16)>, String> {
        let found = self.0.srv_lookup(name).await.map_err(|e| format!("SRV look-up of {name}: {e}"))?;
        let targets: Vec<(String, u16)> = found
            .answers()
            .iter()
            .filter_map(|r| match &r.data {
                hickory_resolver::proto::rr::RData::SRV(srv) => {
                    Some((srv.target.to_utf8().trim_end_matches('.').to_owned(), srv.port))
                }
                _ => None,
            })
            .collect();
        if targets.is_empty() { Err(format!("{name} has no SRV records")) } else { Ok(targets) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;
    #[async_trait::async_trait]
    impl Dns for Fake {
        async fn ips(&self, host: &str) -> Result<Vec<IpAddr>, String> {
            match host {
                "a.example" => {
                    Ok(vec!["10.0.0.2".parse().unwrap(), "10.0.0.1".parse().unwrap(), "::1".parse().unwrap()])
                }
                _ => Err(format!("{host}: no such name")),
            }
        }
        async fn srv(&self, _name: &str) -> Result<Vec<(String, u16)>, String> {
            Ok(vec![("dead.example".into(), 1), ("a.example".into(), 7)])
        }
    }

    #[test]
    fn parses_and_refuses() {
        let a = Address::parse("dns+thanos-store-gateway.monitoring.svc:10901").unwrap();
        assert_eq!((a.scheme, a.port), (Scheme::Dns, Some(10901)));
        assert_eq!(Address::parse("[::1]:10901").unwrap().host, "::1");
        assert_eq!(Address::parse("dnssrv+_grpc._tcp.x").unwrap().port, None);
        for bad in ["", "a", "a:0", "a:99999", "::1:5", "http://a:1", "foo+a:1", "dns+a", "[::1]x:5"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn resolves_all_forms() {
        let of = async |text: &str| {
            let found = resolve(&Address::parse(text).unwrap(), &Fake).await?;
            let dead: Vec<&str> = found.lost.iter().map(|(target, _)| target.as_str()).collect();
            assert_eq!(dead.is_empty(), !text.starts_with("dnssrv"), "{dead:?}");
            Ok::<_, String>(found.places.into_iter().map(|p| p.address).collect::<Vec<_>>())
        };
        assert_eq!(of("1.2.3.4:5").await.unwrap(), ["1.2.3.4:5"]);
        assert_eq!(of("a.example:5").await.unwrap().len(), 3);
        assert_eq!(of("dns+a.example:5").await.unwrap(), ["10.0.0.1:5", "10.0.0.2:5", "[::1]:5"]);
        assert_eq!(
            of("dnssrv+x").await.unwrap(),
            ["10.0.0.1:7", "10.0.0.2:7", "[::1]:7"],
            "a dead target hides no other"
        );
        assert_eq!(of("dnssrvnoa+x:9").await.unwrap(), ["10.0.0.1:9"]);
        assert!(of("dns+b.example:5").await.unwrap_err().contains("no such name"));
    }
}
