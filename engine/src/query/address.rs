//! Addresses of stores as users write them.

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::proto::rr::{RData, Record};
use hickory_resolver::{ResolverBuilder, TokioResolver, net::runtime::TokioRuntimeProvider};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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

/// Records of a name, at least one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Records<T> {
    /// What they say.
    pub all: Vec<T>,
    /// How long they may be believed: the shortest TTL of them, where it is known.
    pub ttl: Option<Duration>,
}

/// Looks names up.
#[async_trait::async_trait]
pub trait Dns: Send + Sync + 'static {
    /// Addresses of a host.
    async fn ips(&self, host: &str) -> Result<Records<IpAddr>, String>;
    /// Targets of a SRV name: host without trailing dot, and port.
    async fn srv(&self, name: &str) -> Result<Records<(String, u16)>, String>;
}

/// What a look-up has given.
#[derive(Debug, Default)]
pub struct Found {
    /// The places, sorted.
    pub places: Vec<Place>,
    /// Targets of a SRV name that could not be looked up, `host:port`, and why: there are stores behind them, too.
    pub lost: Vec<(String, String)>,
    /// The shortest TTL of the records that led to them, where one is known.
    pub ttl: Option<Duration>,
}

/// All places behind an address.
pub async fn resolve(address: &Address, dns: &dyn Dns) -> Result<Found, String> {
    let mut found = Found::default();
    match address.scheme {
        Scheme::Static | Scheme::Dns | Scheme::DualStack => {
            let port = address.port.unwrap_or_default();
            found.add(hosts(&address.host, port, dns).await?, usize::MAX);
        }
        Scheme::Srv | Scheme::SrvNoA => {
            let targets = dns.srv(&address.host).await?;
            found.believe(targets.ttl);
            let most = if address.scheme == Scheme::SrvNoA { 1 } else { usize::MAX };
            for (host, port) in targets.all {
                let port = address.port.unwrap_or(port);
                // One dead target must not hide the others.
                match hosts(&host, port, dns).await {
                    Ok(behind) => found.add(behind, most),
                    Err(e) => found.lost.push((join(&host, port), e)),
                }
            }
            if found.places.is_empty() {
                let none = || format!("{} has no SRV targets", address.host);
                return Err(found.lost.pop().map_or_else(none, |(_, error)| error));
            }
        }
    }
    found.places.sort();
    found.places.dedup_by(|a, b| a.address == b.address);
    Ok(found)
}

impl Found {
    /// Adds the first of these places, `most` of them.
    fn add(&mut self, mut places: Records<Place>, most: usize) {
        self.believe(places.ttl);
        places.all.sort();
        places.all.truncate(most);
        self.places.append(&mut places.all);
    }

    fn believe(&mut self, ttl: Option<Duration>) {
        self.ttl = self.ttl.into_iter().chain(ttl).min();
    }
}

async fn hosts(host: &str, port: u16, dns: &dyn Dns) -> Result<Records<Place>, String> {
    let authority = join(host, port);
    let Records { all, ttl } = match host.parse::<IpAddr>() {
        Ok(ip) => Records { all: vec![ip], ttl: None },
        Err(_) => dns.ips(host).await?,
    };
    let place = |ip| Place { address: join(ip, port), authority: authority.clone() };
    Ok(Records { all: all.into_iter().map(place).collect(), ttl })
}

/// A resolver of real names.
pub struct SystemDns(TokioResolver);

impl SystemDns {
    /// The machine's, as `/etc/resolv.conf` and `/etc/hosts` have it.
    pub fn new() -> anyhow::Result<Self> {
        Self::of(TokioResolver::builder_tokio()?)
    }

    /// Of this server alone, over UDP.
    pub fn at(server: SocketAddr) -> anyhow::Result<Self> {
        let mut at = NameServerConfig::udp(server.ip());
        at.connections.iter_mut().for_each(|c| c.port = server.port());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![at]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().use_hosts_file = ResolveHosts::Never;
        Self::of(builder)
    }

    fn of(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> anyhow::Result<Self> {
        let options = builder.options_mut();
        options.timeout = Duration::from_secs(2);
        options.attempts = 2;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // Whoever asks keeps what he was told as long as it may be kept; if he asks earlier, he has a reason.
        options.cache_size = 0;
        Ok(Self(builder.build()?))
    }
}

/// What `each` makes of the records that it knows, with their TTL (seconds on the wire).
fn read<T>(
    answers: &[Record],
    none: impl Fn() -> String,
    each: impl Fn(&RData) -> Option<T>,
) -> Result<Records<T>, String> {
    let all: Vec<T> = answers.iter().filter_map(|r| each(&r.data)).collect();
    if all.is_empty() {
        return Err(none());
    }
    // Of an alias, too.
    let ttl = answers.iter().map(|r| Duration::from_secs(r.ttl.into())).min();
    Ok(Records { all, ttl })
}

#[async_trait::async_trait]
impl Dns for SystemDns {
    async fn ips(&self, host: &str) -> Result<Records<IpAddr>, String> {
        let found = self.0.lookup_ip(host).await.map_err(|e| format!("look-up of {host}: {e}"))?;
        read(found.as_lookup().answers(), || format!("{host} has no addresses"), RData::ip_addr)
    }

    async fn srv(&self, name: &str) -> Result<Records<(String, u16)>, String> {
        let found = self.0.srv_lookup(name).await.map_err(|e| format!("SRV look-up of {name}: {e}"))?;
        read(
            found.answers(),
            || format!("{name} has no SRV records"),
            |data| match data {
                RData::SRV(srv) => Some((srv.target.to_utf8().trim_end_matches('.').to_owned(), srv.port)),
                _ => None,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake;
    #[async_trait::async_trait]
    impl Dns for Fake {
        async fn ips(&self, host: &str) -> Result<Records<IpAddr>, String> {
            let of =
                |ips: &[&str], s| Records { all: ips.iter().map(|ip| ip.parse().unwrap()).collect(), ttl: Some(s) };
            match host {
                "a.example" => Ok(of(&["10.0.0.2", "10.0.0.1", "::1"], Duration::from_secs(20))),
                _ => Err(format!("{host}: no such name")),
            }
        }
        async fn srv(&self, _name: &str) -> Result<Records<(String, u16)>, String> {
            let all = vec![("dead.example".into(), 1), ("a.example".into(), 7)];
            Ok(Records { all, ttl: Some(Duration::from_secs(5)) })
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
        let ttl = async |text: &str| resolve(&Address::parse(text).unwrap(), &Fake).await.unwrap().ttl;
        assert_eq!(ttl("dns+a.example:5").await, Some(Duration::from_secs(20)));
        assert_eq!(ttl("dnssrv+x").await, Some(Duration::from_secs(5)), "the shortest on the way");
        assert_eq!(ttl("1.2.3.4:5").await, None);
    }
}
