//! Small blocks of several writers under `testdata/blocks` (made again by `testdata/remake.sh`): read by us as Prometheus's
//! own library read them when they were made.

use crate::support::{hash, read};
use std::path::{Path, PathBuf};
use tsdb::block::{Block, health};
use tsdb::disk::{Disk as _, RealDisk};
use tsdb::index::{Version, read_list};
use tsdb::{BlockMeta, header};

/// Name of the writer and folder of its block.
pub(crate) fn blocks() -> Vec<(String, PathBuf)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/blocks");
    let mut found = Vec::new();
    for writer in RealDisk.list(&root).expect("testdata/blocks") {
        for block in RealDisk.list(&root.join(&writer.name)).expect("writer").into_iter().filter(|e| e.is_dir) {
            found.push((writer.name.clone(), root.join(&writer.name).join(block.name)));
        }
    }
    assert_eq!(found.len(), 6, "{found:?}");
    found
}

#[test]
fn every_writer_is_read() {
    for (writer, dir) in blocks() {
        let expected = std::fs::read(dir.with_file_name("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let content = read(&dir);
        assert_eq!(expected["series"], content.len(), "{writer}");
        assert_eq!(expected["chunks"], content.iter().map(|(_, c)| c.len()).sum::<usize>(), "{writer}");
        if let Some(theirs) = expected["hash"].as_str() {
            assert_eq!(theirs, hash(&dir), "{writer}");
        }
        let report = health::check(&RealDisk, &dir, &health::Options::default());
        assert!(report.counts.is_empty(), "{writer}: {:?}", report.problems);
        assert_eq!(expected["samples"], report.stats.total_samples, "{writer}");
        let meta = std::fs::read(dir.join("meta.json")).unwrap();
        assert_eq!(meta.is_empty(), BlockMeta::read("meta.json", &meta).is_err(), "{writer}");
    }
}

#[test]
fn index_headers_tell_what_the_index_does() {
    let dir = tempfile::tempdir().unwrap();
    for (writer, block) in blocks() {
        let block = Block::open(&RealDisk, &block).unwrap();
        let index = block.index();
        assert_eq!(index.version() == Version::V1, writer == "index-v1");
        let bytes = RealDisk.open(Path::new(index.file())).unwrap();
        let path = dir.path().join(&writer);
        header::build(&RealDisk, &path, "index", bytes.len() as u64, |r| {
            Ok(bytes.slice(r.start as usize..r.end as usize))
        })
        .unwrap();
        let header = header::Reader::open(writer.as_str(), RealDisk.open(&path).unwrap()).unwrap();
        let mut pairs = 0;
        for name in index.table().names() {
            let name = name.unwrap();
            for (ours, theirs) in index.table().values(name).zip(header.table().values(name)) {
                let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
                assert_eq!(ours, theirs, "{writer}");
                let list = read_list("index", &bytes[ours.list.start as usize..ours.list.end as usize], 0).unwrap();
                assert!(!list.is_empty() && list.len() == index.postings(name, ours.value).unwrap().len());
                assert_eq!(index.table().find(name, ours.value), Some(ours.list));
                pairs += 1;
            }
        }
        assert_eq!(pairs + 1, index.table().len(), "{writer}");
        for (reference, symbol) in index.symbols().iter() {
            assert_eq!(header.symbols().lookup(reference).unwrap().as_bytes(), symbol, "{writer}");
            assert_eq!(index.symbols().lookup(reference).unwrap().as_bytes(), symbol, "{writer}");
        }
    }
}
