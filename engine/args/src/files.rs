//! Names of files and keys that the operator writes and a part reads.

/// In the querier's endpoint directory: the cluster's own parts.
pub const ENDPOINTS: &str = "endpoints.yaml";
/// In the querier's endpoint directory: the links to other clusters.
pub const LINKS: &str = "links.yaml";
/// Number of Secrets that the endpoint directory is projected from.
pub const ENDPOINT_SLOTS: usize = 8;
/// In the configuration directory of Prometheus: what Prometheus is known to have loaded.
pub const LAST_GOOD: &str = "last-good.yaml";
/// In the configuration directory of Prometheus: what it should load.
pub const NEXT: &str = "next.yaml";
/// Number of Secrets that Prometheus's configuration directory is projected from; slot n > 0 holds the further parts
/// of a large configuration, each file with the suffix `.n`.
pub const CONFIG_SLOTS: usize = 8;
/// Number of ConfigMaps that the rules directory is projected from.
pub const RULE_SLOTS: usize = 8;
/// Key of the object store's configuration in the `<cr>-objstore` Secret.
pub const OBJSTORE: &str = "objstore.yml";

/// Feeds one rule file into the hash over all of them (sorted by path), as Thanos does: no path or text contains the
/// byte 0xff. `path` is absolute, as Prometheus sees it.
pub fn hash_rule_file(path: &[u8], text: &[u8], mut update: impl FnMut(&[u8])) {
    update(&[0xff]);
    update(path);
    update(&[0xff]);
    update(text);
}

/// Content hash as the state document and the operator write it: lower-case hex of SHA-256.
pub fn hex(digest: &[u8]) -> String {
    use std::fmt::Write;
    digest.iter().fold(String::with_capacity(digest.len() * 2), |mut s, b| {
        // Writing to a String can't fail.
        let _ = write!(s, "{b:02x}");
        s
    })
}
