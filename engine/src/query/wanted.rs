//! What is to be asked: from flags, Thanos's endpoint file, and the directory that the operator fills.
//!
//! The files are read again and again and compared by content. What can't be used leaves the last good state in use,
//! with the reason kept for `/-/state`.

use crate::server::snappy;
use args::QueryArgs;
use args::endpoints::{ClientConfig, Endpoint, Endpoints, TlsConfig};
use args::links::{self, Links};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Largest endpoint or link file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// One entry to resolve and ask.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// The address as written.
    pub address: String,
    /// Its absence is an error.
    pub strict: bool,
    /// All places behind its name are replicas of one store: one is asked at a time.
    pub group: bool,
    /// How many stores should be behind its name; 0: as many as there are.
    pub expected: usize,
    /// How to connect; paths are absolute or relative to the process.
    pub client: ClientConfig,
    /// The link that it belongs to; `None` for the cluster's own stores.
    pub link: Option<links::Link>,
}

impl Source {
    /// True if both are reached over the same connection; only what decides about their use may differ.
    pub fn same_connection(&self, other: &Self) -> bool {
        let token = |s: &Self| s.link.as_ref().map(|l| l.bearer_token_file.clone());
        self.address == other.address
            && self.client == other.client
            && self.same_store(other)
            && token(self) == token(other)
    }

    /// True if both are meant to be the same store, however it is reached.
    pub fn same_store(&self, other: &Self) -> bool {
        match (&self.link, &other.link) {
            (None, None) => (&self.address, self.group) == (&other.address, other.group),
            (Some(a), Some(b)) => (&a.namespace, &a.name, &a.cluster) == (&b.namespace, &b.name, &b.cluster),
            _ => false,
        }
    }
}

/// All entries, and what the state document says about the files.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Wanted {
    /// Own stores first, then links in the order of `links.yaml`.
    pub sources: Vec<Source>,
    /// Revision of `links.yaml` in use.
    pub revision: Option<String>,
    /// Name of the cluster label that `links.yaml` gives.
    pub cluster_label: Option<String>,
    /// Why something newer is not in use.
    pub error: Option<String>,
}

/// Reads the files.
pub struct Loader {
    fixed: Vec<Source>,
    default_client: ClientConfig,
    sd_file: Option<PathBuf>,
    dir: Option<PathBuf>,
    good: BTreeMap<&'static str, Vec<Source>>,
    links: Option<Links>,
    parsed_endpoints: Parsed<Endpoints>,
    parsed_links: Parsed<Links>,
}

/// Documents as they were last parsed: files are read every few seconds and rarely change.
struct Parsed<T>(BTreeMap<PathBuf, (String, T)>);

impl<T: serde::de::DeserializeOwned + Clone> Parsed<T> {
    fn get(&mut self, path: &Path, text: String) -> Result<T, String> {
        if let Some((known, value)) = self.0.get(path)
            && *known == text
        {
            return Ok(value.clone());
        }
        let value: T = args::yaml::read(&text).map_err(|e| format!("{}: {e}", path.display()))?;
        self.0.insert(path.to_owned(), (text, value.clone()));
        Ok(value)
    }
}

impl Loader {
    /// From the flags; refuses addresses that can't be any.
    pub fn new(args: &QueryArgs) -> anyhow::Result<Self> {
        let tls = TlsConfig {
            enabled: Some(args.client_tls_secure.0),
            insecure_skip_verify: args.client_tls_skip_verify.0,
            cert_file: args.client_tls_cert.clone(),
            key_file: args.client_tls_key.clone(),
            ca_file: args.client_tls_ca.clone(),
            min_version: String::new(),
        };
        let default_client = ClientConfig {
            tls_config: args.client_tls_secure.0.then_some(tls),
            server_name: args.client_server_name.clone(),
            compression: args.grpc_compression.clone(),
        };
        anyhow::ensure!(
            matches!(args.grpc_compression.as_str(), "none" | "" | snappy::NAME),
            "--grpc-compression={} is neither none nor snappy",
            args.grpc_compression
        );
        let mut fixed = Vec::new();
        for (list, strict, group) in [
            (&args.endpoints, false, false),
            (&args.strict_endpoints, true, false),
            (&args.endpoint_groups, false, true),
            (&args.strict_endpoint_groups, true, true),
        ] {
            for address in list.iter().flat_map(|l| l.split(',')).map(str::trim).filter(|a| !a.is_empty()) {
                let parsed = super::address::Address::parse(address)?;
                anyhow::ensure!(
                    !strict || group || parsed.scheme == super::address::Scheme::Static,
                    "--endpoint-strict={address}: a strict endpoint is one store, so it can't have a DNS prefix"
                );
                let client = default_client.clone();
                fixed.push(Source { address: address.to_owned(), strict, group, expected: 0, client, link: None });
            }
        }
        let path = |s: &str| (!s.is_empty()).then(|| PathBuf::from(s));
        Ok(Self {
            fixed,
            default_client,
            sd_file: path(&args.sd_config_file),
            dir: path(&args.endpoints_dir),
            good: BTreeMap::new(),
            links: None,
            parsed_endpoints: Parsed(BTreeMap::new()),
            parsed_links: Parsed(BTreeMap::new()),
        })
    }

    /// Reads everything once. Blocks on files.
    pub fn load(&mut self) -> Wanted {
        let mut errors = Vec::new();
        let mut sources = self.fixed.clone();
        let files = [("sd", self.sd_file.clone()), ("dir", self.dir.as_ref().map(|d| d.join(args::files::ENDPOINTS)))];
        for (slot, path) in files {
            let Some(path) = path else { continue };
            match self.endpoints(&path) {
                Ok(found) => {
                    self.good.insert(slot, found);
                }
                Err(e) => errors.push(e),
            }
            sources.extend(self.good.get(slot).cloned().unwrap_or_default());
        }
        if let Some(dir) = self.dir.clone() {
            match self.read_links(&dir, &mut errors) {
                Ok(links) => self.links = links,
                Err(e) => errors.push(e),
            }
            for link in self.links.iter().flat_map(|l| &l.links) {
                let mut client = link.client.clone();
                absolute(&mut client, &dir);
                let mut link = link.clone();
                if !link.bearer_token_file.is_empty() {
                    link.bearer_token_file = dir.join(&link.bearer_token_file).to_string_lossy().into_owned();
                }
                sources.push(Source {
                    address: link.address.clone(),
                    strict: link.criticality == links::Criticality::Required,
                    group: false,
                    expected: size(link.expected),
                    client,
                    link: Some(link),
                });
            }
        }
        Wanted {
            sources,
            revision: self.links.as_ref().map(|l| l.revision.clone()),
            cluster_label: self.links.as_ref().map(|l| l.cluster_label.clone()).filter(|l| !l.is_empty()),
            error: (!errors.is_empty()).then(|| errors.join("; ")),
        }
    }

    fn endpoints(&mut self, path: &Path) -> Result<Vec<Source>, String> {
        let Some(text) = read(path)? else { return Err(format!("{} does not exist", path.display())) };
        let found = self.parsed_endpoints.get(path, text)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        let default = match found.default_client_config {
            Some(mut c) => {
                absolute(&mut c, dir);
                c
            }
            None => self.default_client.clone(),
        };
        found
            .endpoints
            .into_iter()
            .map(|Endpoint { address, strict, group, expected, client_config, .. }| {
                super::address::Address::parse(&address).map_err(|e| format!("{}: {e}", path.display()))?;
                let client = match client_config {
                    Some(mut c) => {
                        absolute(&mut c, dir);
                        c
                    }
                    None => default.clone(),
                };
                Ok(Source { address, strict, group, expected: size(expected), client, link: None })
            })
            .collect()
    }

    /// `links.yaml`, once all files that it needs are there; a link that lacks files of its own stays as it was.
    fn read_links(&mut self, dir: &Path, waiting: &mut Vec<String>) -> Result<Option<Links>, String> {
        let path = dir.join(args::files::LINKS);
        let Some(text) = read(&path)? else {
            // Before the first one there are no links. Later an empty list ends them; a file that is gone is a mistake.
            return match &self.links {
                None => Ok(None),
                Some(_) => Err(format!("{} has disappeared, the links stay as they were", path.display())),
            };
        };
        let mut new = self.parsed_links.get(&path, text)?;
        if new.format != links::FORMAT {
            return Err(format!(
                "{} has format {}, this version reads {}: the links stay as they were",
                path.display(),
                new.format,
                links::FORMAT
            ));
        }
        let lacks = |f: &&String| !f.is_empty() && !dir.join(f).is_file();
        if let Some(f) = new.files.iter().find(lacks) {
            return Err(format!("revision {} of links.yaml waits for the file {f}", new.revision));
        }
        let mut kept = Vec::with_capacity(new.links.len());
        for link in std::mem::take(&mut new.links) {
            let tls = link.client.tls_config.iter().flat_map(|t| [&t.ca_file, &t.cert_file, &t.key_file]);
            let lacking = tls.chain([&link.bearer_token_file]).find(lacks).cloned();
            match lacking {
                None => kept.push(link),
                Some(f) => {
                    waiting.push(format!("link {}/{} waits for the file {f}", link.namespace, link.name));
                    let old = self.links.iter().flat_map(|l| &l.links);
                    let old = old.clone().find(|o| o.namespace == link.namespace && o.name == link.name).cloned();
                    kept.push(old.unwrap_or(link));
                }
            }
        }
        new.links = kept;
        Ok(Some(new))
    }
}

fn read(path: &Path) -> Result<Option<String>, String> {
    use std::io::Read;
    let file = match std::fs::File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(format!("can't open {}: {e}", path.display())),
    };
    let mut text = String::new();
    match file.take(MAX_FILE + 1).read_to_string(&mut text) {
        Ok(n) if n as u64 > MAX_FILE => Err(format!("{} has more than {MAX_FILE} bytes", path.display())),
        Ok(_) => Ok(Some(text)),
        Err(e) => Err(format!("can't read {}: {e}", path.display())),
    }
}

fn size(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn absolute(client: &mut ClientConfig, dir: &Path) {
    if let Some(tls) = &mut client.tls_config {
        for file in [&mut tls.cert_file, &mut tls.key_file, &mut tls.ca_file] {
            if !file.is_empty() {
                *file = dir.join(&*file).to_string_lossy().into_owned();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loader(dir: &Path) -> Loader {
        let args = QueryArgs { endpoints_dir: dir.to_string_lossy().into_owned(), ..QueryArgs::default() };
        Loader::new(&args).unwrap()
    }

    fn links(revision: &str, tls: &str) -> String {
        format!(
            "format: 1\nrevision: {revision}\nclusterLabel: cluster\nclusterName: ops\nlinks:\n- namespace: m\n  name: prod\n  cluster: prod\n  address: 10.0.0.1:10901\n{tls}"
        )
    }

    #[test]
    fn what_cannot_be_used_leaves_the_last_good_state() {
        let dir = tempfile::tempdir().unwrap();
        let mut l = loader(dir.path());
        let endpoints = dir.path().join("endpoints.yaml");
        assert!(l.load().error.unwrap().contains("endpoints.yaml does not exist"));
        std::fs::write(&endpoints, "endpoints:\n- address: dns+x.y:10901\n").unwrap();
        let w = l.load();
        assert_eq!((w.sources.len(), w.error), (1, None));
        std::fs::write(&endpoints, "endpoints:\n- adress: x\n").unwrap();
        let w = l.load();
        assert_eq!(w.sources.len(), 1);
        assert!(w.error.unwrap().contains("adress"));
        std::fs::write(&endpoints, "endpoints:\n- address: nonsense\n").unwrap();
        assert!(l.load().error.unwrap().contains("nonsense"));
    }

    #[test]
    fn links_wait_for_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut l = loader(dir.path());
        std::fs::write(dir.path().join("endpoints.yaml"), "endpoints: []\n").unwrap();
        std::fs::write(dir.path().join("links.yaml"), links("r1", "")).unwrap();
        let w = l.load();
        assert_eq!((w.revision.as_deref(), w.error.as_deref()), (Some("r1"), None));
        // A later revision names a file that has not come yet: the old one stays.
        std::fs::write(dir.path().join("links.yaml"), links("r2", "files: [ca-1.pem]\n")).unwrap();
        let w = l.load();
        assert_eq!(w.revision.as_deref(), Some("r1"));
        assert!(w.error.unwrap().contains("waits for the file ca-1.pem"));
        std::fs::write(dir.path().join("ca-1.pem"), "x").unwrap();
        assert_eq!(l.load().revision.as_deref(), Some("r2"));
        // A link's own file is missing: this link stays as it was.
        let tls = "  client:\n    tls_config: {ca_file: ca-2.pem}\n";
        std::fs::write(dir.path().join("links.yaml"), links("r3", tls)).unwrap();
        let w = l.load();
        assert_eq!(w.revision.as_deref(), Some("r3"));
        assert!(w.sources[0].client.tls_config.is_none());
        assert_eq!(w.error.as_deref(), Some("link m/prod waits for the file ca-2.pem"));
        std::fs::write(dir.path().join("ca-2.pem"), "x").unwrap();
        let w = l.load();
        assert!(w.sources[0].client.tls_config.as_ref().unwrap().ca_file.ends_with("/ca-2.pem"));
        // The file vanishes: the links stay, and it is told.
        std::fs::remove_file(dir.path().join("links.yaml")).unwrap();
        let w = l.load();
        assert!(w.sources.len() == 1 && w.revision.as_deref() == Some("r3"), "{w:?}");
        assert!(w.error.unwrap().contains("has disappeared"));
        // Another format is refused.
        std::fs::write(dir.path().join("links.yaml"), "format: 9\nrevision: x\nclusterLabel: c\nclusterName: o\n")
            .unwrap();
        assert!(l.load().error.unwrap().contains("format 9"));
    }
}
