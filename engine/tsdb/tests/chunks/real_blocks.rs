//! The chunks of the blocks in `testdata/`, written by several versions of Prometheus and by Thanos: all can be read, and our
//! encoders make the same bytes of their samples again.

use crate::prometheus::encode;
use std::collections::BTreeMap;
use std::path::Path;
use tsdb::block::Block;
use tsdb::chunk::aggregate::{Aggregate, Container};
use tsdb::chunk::{Encoding, exact};
use tsdb::disk::RealDisk;
use tsdb::series::Blocks;

fn again(encoding: Encoding, data: &bytes::Bytes, what: &str) {
    let samples: Vec<_> = exact(encoding, data.clone()).unwrap().map(Result::unwrap).collect();
    let ours = encode(encoding, &samples, u16::MAX, false);
    assert_eq!(ours.len(), 1, "{what}");
    // The reset header tells of a chunk before, which we don't know here.
    let head = if encoding.is_float() { 0 } else { 3 };
    // The oldest writers began a byte that they did not need.
    let theirs = data.strip_suffix(&[0]).filter(|shorter| shorter.len() == ours[0].data.len()).unwrap_or(data);
    assert_eq!(ours[0].data[head..], theirs[head..], "{what}");
}

#[test]
fn real_chunks_are_read_and_written_again() {
    let mut seen = BTreeMap::<String, usize>::new();
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/blocks");
    for writer in std::fs::read_dir(testdata).unwrap().map(|e| e.unwrap().path()) {
        for dir in std::fs::read_dir(&writer).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
            let block = Block::open(&RealDisk, &dir).unwrap();
            for series in Blocks::all(&block).unwrap() {
                let series = series.unwrap();
                for chunk in &series.chunks {
                    let what = format!("{} {}: {} of {}", writer.display(), series.labels, chunk.encoding, chunk.min_t);
                    *seen.entry(chunk.encoding.to_string()).or_default() += 1;
                    if chunk.encoding != Encoding::Aggregate {
                        again(chunk.encoding, &chunk.data, &what);
                        continue;
                    }
                    let container = Container::parse(&chunk.data).unwrap();
                    assert_eq!(container.bytes(), chunk.data, "{what}");
                    assert!(container.get(Aggregate::Count).is_some() && container.get(Aggregate::Counter).is_some());
                    for (aggregate, encoding, data) in container.iter() {
                        *seen.entry(format!("{encoding} in aggregate")).or_default() += 1;
                        again(encoding, data, &format!("{what}, {}", aggregate.name()));
                    }
                }
            }
        }
    }
    for kind in ["XOR", "histogram", "aggregate", "XOR in aggregate", "float histogram in aggregate"] {
        assert!(seen.contains_key(kind), "no {kind} among {seen:?}");
    }
}
