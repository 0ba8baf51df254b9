//! What lies in the buckets, and who may do what.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An object at one generation.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) generation: u64,
    pub(super) updated: SystemTime,
    pub(super) content_type: String,
}

/// Rights on objects, as Google names them: `storage.objects.<right>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Right {
    /// To list names.
    List,
    /// To read an object or its metadata.
    Get,
    /// To write an object.
    Create,
    /// To delete an object, or to write over one.
    Delete,
}

impl Right {
    pub(super) fn permission(self) -> &'static str {
        match self {
            Self::List => "storage.objects.list",
            Self::Get => "storage.objects.get",
            Self::Create => "storage.objects.create",
            Self::Delete => "storage.objects.delete",
        }
    }
}

/// Who may do what.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Ids of the keys that are accepted; absent: every key, and none at all.
    pub keys: Option<BTreeSet<String>>,
    /// Rights that nobody has.
    pub deny: BTreeSet<Right>,
    /// How far the server's clock is ahead, in seconds.
    pub ahead: i64,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// Unknown credentials.
    Unauthenticated,
    /// Known ones that lack this right.
    Forbidden(Right),
    NoBucket,
    NoObject,
    /// The generation is another one.
    Precondition,
    Bad(&'static str),
}

/// An upload in several requests.
#[derive(Debug, Default)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) name: String,
    pub(super) content_type: String,
    pub(super) generation: Option<u64>,
    pub(super) parts: BTreeMap<u32, Bytes>,
    /// What came so far of one that is sent in order.
    pub(super) whole: Vec<u8>,
}

/// All state of a server.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) buckets: BTreeMap<String, BTreeMap<String, Object>>,
    /// For buckets without their own.
    pub(super) settings: Settings,
    pub(super) settings_of: BTreeMap<String, Settings>,
    pub(super) uploads: BTreeMap<String, Upload>,
    /// Requests so far by operation.
    pub(super) requests: BTreeMap<&'static str, u64>,
    generation: u64,
    begun: u64,
}

/// One page of a listing.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) objects: Vec<(String, Object)>,
    pub(super) prefixes: Vec<String>,
    /// Where the next page goes on.
    pub(super) next: Option<String>,
}

impl Store {
    /// The number of a new upload.
    pub(super) fn next_upload(&mut self) -> u64 {
        self.begun += 1;
        self.begun
    }

    /// Who may do what with a bucket.
    pub(super) fn settings(&self, bucket: &str) -> &Settings {
        self.settings_of.get(bucket).unwrap_or(&self.settings)
    }

    pub(super) fn allow(&self, bucket: &str, right: Right) -> Result<(), Refused> {
        if self.settings(bucket).deny.contains(&right) { Err(Refused::Forbidden(right)) } else { Ok(()) }
    }

    pub(super) fn bucket(&self, name: &str) -> Result<&BTreeMap<String, Object>, Refused> {
        self.buckets.get(name).ok_or(Refused::NoBucket)
    }

    pub(super) fn get(&self, bucket: &str, name: &str) -> Result<&Object, Refused> {
        self.allow(bucket, Right::Get)?;
        self.bucket(bucket)?.get(name).ok_or(Refused::NoObject)
    }

    /// Writes; `generation` is the one that must be there (0: none).
    pub(super) fn put(
        &mut self,
        bucket: &str,
        name: &str,
        bytes: Bytes,
        content_type: &str,
        generation: Option<u64>,
    ) -> Result<Object, Refused> {
        self.allow(bucket, Right::Create)?;
        let there = self.bucket(bucket)?.get(name).map(|object| object.generation);
        if generation.is_some_and(|wanted| wanted != there.unwrap_or(0)) {
            return Err(Refused::Precondition);
        }
        if there.is_some() {
            self.allow(bucket, Right::Delete)?;
        }
        self.generation = self.new_generation();
        let object = Object {
            bytes,
            generation: self.generation,
            updated: SystemTime::now(),
            content_type: content_type.to_owned(),
        };
        let objects = self.buckets.get_mut(bucket).ok_or(Refused::NoBucket)?;
        objects.insert(name.to_owned(), object.clone());
        Ok(object)
    }

    /// Writes, whatever is there and whoever asks.
    pub(super) fn force(&mut self, bucket: &str, name: &str, bytes: Bytes) -> Result<(), Refused> {
        self.generation = self.new_generation();
        let object = Object {
            bytes,
            generation: self.generation,
            updated: SystemTime::now(),
            content_type: "application/octet-stream".to_owned(),
        };
        self.buckets.get_mut(bucket).ok_or(Refused::NoBucket)?.insert(name.to_owned(), object);
        Ok(())
    }

    /// Microseconds since the epoch, as Google's, and always more than before.
    fn new_generation(&self) -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_micros());
        u64::try_from(now).unwrap_or(0).max(self.generation + 1)
    }

    pub(super) fn delete(&mut self, bucket: &str, name: &str) -> Result<(), Refused> {
        self.allow(bucket, Right::Delete)?;
        let objects = self.buckets.get_mut(bucket).ok_or(Refused::NoBucket)?;
        objects.remove(name).map(|_| ()).ok_or(Refused::NoObject)
    }

    /// Names after `after` that begin with `prefix`; what has `delimiter` behind the prefix is one entry.
    pub(super) fn list(
        &self,
        bucket: &str,
        prefix: &str,
        delimiter: &str,
        after: &str,
        limit: usize,
    ) -> Result<Page, Refused> {
        self.allow(bucket, Right::List)?;
        let mut page = Page::default();
        let mut last = after.to_owned();
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        for (name, object) in self.bucket(bucket)?.range::<str, _>((from, Bound::Unbounded)) {
            let Some(rest) = name.strip_prefix(prefix) else { break };
            let folder = rest.find(delimiter).filter(|_| !delimiter.is_empty());
            let entry = folder.map_or(name.as_str(), |at| &name[..prefix.len() + at + delimiter.len()]);
            // The rest of a folder that is told already, here or on the page before.
            if folder.is_some() && (page.prefixes.last().is_some_and(|told| told == entry) || last.starts_with(entry)) {
                continue;
            }
            if page.objects.len() + page.prefixes.len() >= limit {
                page.next = Some(last);
                break;
            }
            match folder {
                Some(_) => page.prefixes.push(entry.to_owned()),
                None => page.objects.push((name.clone(), object.clone())),
            }
            entry.clone_into(&mut last);
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(names: &[&str]) -> Store {
        let mut store = Store::default();
        store.buckets.insert("b".to_owned(), BTreeMap::new());
        for name in names {
            store.put("b", name, Bytes::from_static(&[1]), "x", None).unwrap();
        }
        store
    }

    #[test]
    fn pages_join_to_the_whole() {
        let store = store(&["a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "d"]);
        for delimiter in ["", "/"] {
            let whole = store.list("b", "", delimiter, "", 100).unwrap();
            let names = |page: &Page| {
                let mut all: Vec<String> = page.objects.iter().map(|(name, _)| name.clone()).collect();
                all.extend(page.prefixes.clone());
                all
            };
            for limit in 1..8 {
                let (mut all, mut after) = (Vec::new(), String::new());
                loop {
                    let page = store.list("b", "", delimiter, &after, limit).unwrap();
                    all.extend(names(&page));
                    match page.next {
                        Some(next) => after = next,
                        None => break,
                    }
                }
                all.sort();
                let mut wanted = names(&whole);
                wanted.sort();
                assert_eq!(all, wanted, "delimiter {delimiter:?}, limit {limit}");
            }
        }
        let some = store.list("b", "a/", "/", "", 100).unwrap();
        assert_eq!((some.objects.len(), some.prefixes), (2, vec!["a/b/".to_owned()]));
    }

    #[test]
    fn generations_and_rights() {
        let mut store = store(&["a"]);
        let first = store.get("b", "a").unwrap().generation;
        assert_eq!(store.put("b", "a", Bytes::new(), "x", Some(0)).unwrap_err(), Refused::Precondition);
        let second = store.put("b", "a", Bytes::from_static(&[2]), "x", Some(first)).unwrap().generation;
        assert!(second > first);
        assert_eq!(store.put("b", "a", Bytes::new(), "x", Some(first)).unwrap_err(), Refused::Precondition);
        assert_eq!(store.put("c", "a", Bytes::new(), "x", None).unwrap_err(), Refused::NoBucket);
        store.settings.deny.insert(Right::Delete);
        assert_eq!(store.put("b", "a", Bytes::new(), "x", None).unwrap_err(), Refused::Forbidden(Right::Delete));
        store.put("b", "new", Bytes::new(), "x", Some(0)).unwrap();
        assert_eq!(store.delete("b", "a").unwrap_err(), Refused::Forbidden(Right::Delete));
        store.settings.deny = BTreeSet::from([Right::Create]);
        assert_eq!(store.put("b", "other", Bytes::new(), "x", None).unwrap_err(), Refused::Forbidden(Right::Create));
        store.delete("b", "a").unwrap();
        assert_eq!(store.delete("b", "a").unwrap_err(), Refused::NoObject);
    }
}
