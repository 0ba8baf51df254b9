//! The meta.json that goes to the bucket, and whether one that is there already is of the same block.

use super::stage::File;
use model::Labels;
use std::collections::BTreeMap;
use tsdb::json;
use tsdb::meta::{self, BlockMeta, META_FILE, UploadTime};

/// Hashes of files by path, in lower-case hex.
pub(super) type Hashes = BTreeMap<String, String>;

/// What Thanos's shipper would write: the local meta with external labels, source and files.
pub(super) fn for_bucket(
    local: &BlockMeta,
    labels: &Labels,
    source: &str,
    files: &[File],
    hashes: &Hashes,
    now_ms: i64,
) -> BlockMeta {
    let mut meta = local.clone();
    let mut thanos = meta.thanos.take().unwrap_or_default();
    thanos.labels.extend(labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())));
    thanos.source = source.to_owned();
    thanos.segment_files = files.iter().filter_map(|f| f.rel_path.strip_prefix("chunks/")).map(str::to_owned).collect();
    let file = |rel_path: &str, size_bytes| meta::File {
        rel_path: rel_path.to_owned(),
        size_bytes,
        hash: hashes.get(rel_path).map(|value| meta::Hash {
            function: "SHA256".to_owned(),
            value: value.clone(),
            unknown: json::Unknown::new(),
        }),
        unknown: json::Unknown::new(),
    };
    thanos.files = files.iter().map(|f| file(&f.rel_path, f.size)).chain([file(META_FILE, 0)]).collect();
    thanos.files.sort_by(|a, b| a.rel_path.cmp(&b.rel_path));
    thanos.upload_time = UploadTime::from_ms(now_ms);
    meta.thanos = Some(thanos);
    meta
}

/// What differs between the meta that we would have written and the one that is there; `None` if they are of one block.
/// External labels may differ: they may have been changed since.
pub(super) fn difference(ours: &BlockMeta, there: &BlockMeta) -> Option<String> {
    let sizes = |m: &BlockMeta| -> BTreeMap<String, u64> {
        let files = m.thanos.iter().flat_map(|t| &t.files);
        files.filter(|f| f.size_bytes > 0).map(|f| (f.rel_path.clone(), f.size_bytes)).collect()
    };
    let (our_sizes, their_sizes) = (sizes(ours), sizes(there));
    if ours.id != there.id {
        Some(format!("the id {}", there.id))
    } else if (ours.min_time, ours.max_time) != (there.min_time, there.max_time) {
        Some(format!("the time range {} to {}", there.min_time, there.max_time))
    } else if ours.stats != there.stats {
        Some(format!("{} samples in {} series", there.stats.num_samples, there.stats.num_series))
    } else if ours.compaction.sources != there.compaction.sources {
        Some("other sources".to_owned())
    } else if !their_sizes.is_empty() && our_sizes != their_sizes {
        Some("files of other sizes".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::BlockId;

    fn files() -> Vec<File> {
        let file = |p: &str, size| File { rel_path: p.to_owned(), size };
        vec![file("chunks/000001", 100), file("chunks/000002", 7), file("index", 30)]
    }

    #[test]
    fn it_is_what_thanos_writes() {
        let id: BlockId = "01JDAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let mut local = BlockMeta::new(id, 0, 7_200_000);
        (local.stats.num_samples, local.stats.num_series, local.stats.num_chunks) = (20, 2, 2);
        let labels = Labels::from_pairs([("cluster", "ops"), ("replica", "a")]);
        let hashes = Hashes::from([("index".to_owned(), "00ff".to_owned())]);
        let meta = for_bucket(&local, &labels, "sidecar", &files(), &hashes, 1_700_000_000_000);
        let text = String::from_utf8(meta.write().unwrap()).unwrap();
        let expected = r#"{
	"ulid": "01JDAAAAAAAAAAAAAAAAAAAAAA",
	"minTime": 0,
	"maxTime": 7200000,
	"stats": {
		"numSamples": 20,
		"numSeries": 2,
		"numChunks": 2
	},
	"compaction": {
		"level": 1,
		"sources": [
			"01JDAAAAAAAAAAAAAAAAAAAAAA"
		]
	},
	"version": 1,
	"thanos": {
		"labels": {
			"cluster": "ops",
			"replica": "a"
		},
		"downsample": {
			"resolution": 0
		},
		"source": "sidecar",
		"segment_files": [
			"000001",
			"000002"
		],
		"files": [
			{
				"rel_path": "chunks/000001",
				"size_bytes": 100
			},
			{
				"rel_path": "chunks/000002",
				"size_bytes": 7
			},
			{
				"rel_path": "index",
				"size_bytes": 30,
				"hash": {
					"hashFunc": "SHA256",
					"value": "00ff"
				}
			},
			{
				"rel_path": "meta.json"
			}
		],
		"index_stats": {},
		"upload_time": "2023-11-14T22:13:20Z"
	}
}
"#;
        assert_eq!(text, expected);
    }

    #[test]
    fn the_same_block_under_other_labels_is_the_same_block() {
        let id: BlockId = "01JDAAAAAAAAAAAAAAAAAAAAAA".parse().unwrap();
        let mut local = BlockMeta::new(id, 0, 10);
        local.stats.num_samples = 20;
        let with = |labels: &[(&str, &str)], local: &BlockMeta, files: &[File]| {
            for_bucket(local, &Labels::from_pairs(labels.iter().copied()), "sidecar", files, &Hashes::new(), 1)
        };
        let ours = with(&[("cluster", "ops")], &local, &files());
        assert_eq!(difference(&ours, &with(&[("cluster", "old")], &local, &files())), None);
        assert_eq!(difference(&ours, &local), None, "an old writer tells no files");
        let shorter = [File { rel_path: "index".into(), size: 1 }];
        assert!(difference(&ours, &with(&[], &local, &shorter)).unwrap().contains("sizes"));
        local.stats.num_samples = 21;
        assert!(difference(&ours, &with(&[], &local, &files())).unwrap().contains("21 samples"));
    }
}
