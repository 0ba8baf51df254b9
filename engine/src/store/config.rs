//! The index cache's configuration.

use crate::server::expand::option;
use anyhow::{Context as _, bail};
use args::{Size, StoreArgs};
use serde::Deserialize;

/// Most bytes of one item of the index cache, as in Thanos; never more than half of the cache.
const MAX_ITEM: u64 = 125 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cache {
    r#type: String,
    #[serde(default)]
    config: InMemory,
    #[serde(default)]
    #[allow(dead_code, reason = "Thanos has it for remote caches; in memory it has no effect there either")]
    ttl: Option<String>,
    #[serde(default)]
    enabled_items: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct InMemory {
    max_size: Option<String>,
    max_item_size: Option<String>,
}

/// Bytes of the index cache and of its largest item.
///
/// # Errors
/// For a cache that is not in memory.
pub(super) fn index_cache(args: &StoreArgs) -> anyhow::Result<(u64, u64)> {
    let flag = "index-cache.config";
    let yaml = option(flag, &args.index_cache_config, &args.index_cache_config_file)?;
    let (mut size, mut item) = (args.index_cache_size.0, MAX_ITEM);
    if !yaml.trim().is_empty() {
        let cache: Cache = args::yaml::read(&yaml).with_context(|| format!("--{flag}"))?;
        if !cache.r#type.eq_ignore_ascii_case("in-memory") {
            bail!(
                "--{flag}: a cache of type {} is not used here: take IN-MEMORY, and --cache.disk-size for a large one",
                cache.r#type
            );
        }
        if !cache.enabled_items.is_empty() {
            bail!("--{flag}: enabled_items can't be chosen here: leave it out");
        }
        let bytes = |text: Option<String>, default: u64| match text {
            None => Ok(default),
            Some(text) => text.parse::<Size>().map(|s| s.0).map_err(|e| anyhow::anyhow!("--{flag}: {e}")),
        };
        size = bytes(cache.config.max_size, 250 << 20)?;
        item = bytes(cache.config.max_item_size, MAX_ITEM)?;
    }
    Ok((size, item.min(size / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_cache_by_flag_or_yaml() {
        let with = |yaml: &str| StoreArgs { index_cache_config: yaml.to_owned(), ..StoreArgs::default() };
        assert_eq!(index_cache(&StoreArgs::default()).unwrap(), (250 << 20, 125 << 20));
        let yaml = "type: IN-MEMORY\nconfig: {max_size: 1GiB, max_item_size: 1MiB}\n";
        assert_eq!(index_cache(&with(yaml)).unwrap(), (1 << 30, 1 << 20));
        for (yaml, says) in [
            ("type: REDIS\nconfig: {}\n", "--cache.disk-size"),
            ("type: IN-MEMORY\nconfig: {addr: x}\n", "addr"),
            ("type: IN-MEMORY\nenabled_items: [Postings]\n", "enabled_items"),
            ("type: IN-MEMORY\nconfig: {max_size: much}\n", "250MB"),
        ] {
            let error = format!("{:#}", index_cache(&with(yaml)).unwrap_err());
            assert!(error.contains(says), "{error}");
        }
        assert!(option("a", "x", "y").is_err() && option("a", "", "/none").is_err());
    }
}
