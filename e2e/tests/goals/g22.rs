//! G22: one flipped bit anywhere in index, chunks, meta.json, catalogue or index-header is detected, or changes nothing.

use crate::made::{self, Samples};
use bucket::catalogue::{Commit, Producer};
use bucket::fetch::Fetcher;
use bucket::{Bucket, Options};
use bytes::Bytes;
use model::Labels;
use model::world::World;
use std::path::Path;
use testkit::goal::{Goal, Rng};
use tsdb::chunk::Encoding;
use tsdb::disk::{Disk as _, RealDisk};
use tsdb::index::ChunkMeta;
use tsdb::meta::BlockMeta;
use tsdb::{header, index, segment};

/// What a reader makes of a file's bytes: all of it as text.
type Read = dyn Fn(&[u8]) -> Result<String, String>;

/// A file, and its reader.
struct Part {
    name: String,
    bytes: Vec<u8>,
    read: Box<Read>,
}

#[test]
fn goal_g22_bit_flips() {
    let goal = Goal::start("G22");
    let dir = tempfile::tempdir().unwrap();
    let parts = parts(dir.path(), &mut goal.rng("block"));
    let mut rng = goal.rng("flips");
    let flips = goal.pick(1_000, 10_000, 1_000_000);
    let (mut detected, mut same, mut silent) = (0, 0, Vec::new());
    let honest: Vec<String> = parts.iter().map(|p| (p.read)(&p.bytes).unwrap()).collect();
    let mut done = 0;
    while done < flips && silent.len() < 5 {
        // Each part as often as each other: the small ones are not less important.
        let n = done % parts.len();
        let (part, honest) = (&parts[n], &honest[n]);
        let mut bytes = part.bytes.clone();
        let bit = rng.below(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        done += 1;
        match (part.read)(&bytes) {
            Err(why) => {
                assert!(!why.trim().is_empty(), "{}: an error without words", part.name);
                detected += 1;
            }
            Ok(now) if now == *honest => same += 1,
            Ok(_) => silent.push(format!("bit {} of byte {} in {}", bit % 8, bit / 8, part.name)),
        }
    }
    assert!(silent.is_empty(), "{} flips changed the result silently: {}", silent.len(), silent.join("; "));
    goal.figure(&format!(
        "{done} flips in {} files, {detected} detected, {same} without effect, 0 silent",
        parts.len()
    ));
}

fn parts(dir: &Path, rng: &mut Rng) -> Vec<Part> {
    let folder = made::block(dir, made::id(1), 10, 130, rng);
    let file = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let mut all = vec![
        Part { name: "index".to_owned(), bytes: file("index"), read: Box::new(index_of) },
        Part { name: "index-header".to_owned(), bytes: header_of(&folder), read: Box::new(header_text) },
    ];
    let places = places(&file("index"));
    let mut segments = 0;
    for entry in RealDisk.list(&folder.join("chunks")).unwrap() {
        let here: Vec<u64> =
            places.iter().filter(|c| segment::split(c.reference).0 == segments).map(|c| c.reference).collect();
        segments += 1;
        let name = format!("chunks/{}", entry.name);
        all.push(Part { bytes: file(&name), name, read: Box::new(move |bytes| segment_text(bytes, &here)) });
    }
    assert!(segments > 1, "several segments are wanted");
    let meta = BlockMeta::read("meta.json", &file("meta.json")).unwrap();
    let (runtime, bucket, commit) = catalogued(&meta);
    let path = format!("{}/meta.json", meta.id);
    all.push(Part {
        name: "meta.json".to_owned(),
        bytes: file("meta.json"),
        read: fetched(runtime, bucket, path, meta),
    });
    let read = |bytes: &[u8]| {
        let commit = bucket::document::read::<Commit>("commit", bytes).map_err(|e| e.to_string())?;
        Ok(format!("{commit:?}"))
    };
    all.push(Part { name: "catalogue".to_owned(), bytes: commit, read: Box::new(read) });
    all
}

/// A bucket whose catalogue knows the block; the bytes of its commit.
fn catalogued(meta: &BlockMeta) -> (tokio::runtime::Runtime, Bucket, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bucket = Bucket::memory(Options::new(World::real()));
    let commit = runtime.block_on(async {
        use futures::TryStreamExt as _;
        Producer::new(bucket.clone(), "p").unwrap().commit(meta).await.unwrap();
        let all: Vec<_> = bucket.list("panoptes/v1/catalogue/").try_collect().await.unwrap();
        bucket.get(&all.first().unwrap().path, 1 << 20).await.unwrap().bytes.to_vec()
    });
    (runtime, bucket, commit)
}

/// Puts the bytes in their place and reads the whole bucket's blocks.
fn fetched(runtime: tokio::runtime::Runtime, bucket: Bucket, path: String, committed: BlockMeta) -> Box<Read> {
    Box::new(move |bytes| {
        runtime.block_on(async {
            bucket.put(&path, Bytes::copy_from_slice(bytes)).await.unwrap();
            let view = Fetcher::new(bucket.clone()).sync().await.map_err(|e| e.to_string())?;
            if let Some(why) = view.catalogue_problem {
                return Err(why);
            }
            if let Some(e) = view.errors.first() {
                return Err(e.to_string());
            }
            if let Some(partial) = view.partial.values().next() {
                return Err(format!("{:?}", partial.reason));
            }
            // The files of the block are not in this bucket; only what is said about meta.json counts.
            let block = view.blocks.values().next().ok_or("no block")?;
            match block.problems.first() {
                Some(problem) => Err(problem.clone()),
                // What tools may write into it later (extensions, the time of the upload) is not told by the catalogue.
                None if block.meta.tells_the_same(&committed) => {
                    Ok(format!("as committed {}", view.catalogue_complete))
                }
                None => Ok(format!("{:?} {}", block.meta, view.catalogue_complete)),
            }
        })
    })
}

fn places(index: &[u8]) -> Vec<ChunkMeta> {
    let reader = index::Reader::open("index", Bytes::copy_from_slice(index)).unwrap();
    let mut series = index::Series::default();
    let mut all = Vec::new();
    for reference in reader.all().unwrap().iter() {
        reader.series(reference, &mut series).unwrap();
        all.extend(series.chunks.iter().cloned());
    }
    all
}

/// Everything that an index tells: series with labels and chunks, and every list.
fn index_of(bytes: &[u8]) -> Result<String, String> {
    let reader = index::Reader::open("index", Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
    let mut out = String::new();
    let mut series = index::Series::default();
    let mut symbols = reader.symbols().cached();
    for reference in reader.all().map_err(|e| e.to_string())?.iter() {
        reader.series(reference, &mut series).map_err(|e| e.to_string())?;
        let labels: Labels = series.labels("index", 0, &mut symbols).map_err(|e| e.to_string())?;
        out.push_str(&format!("{reference} {labels} {:?}\n", series.chunks));
    }
    for name in reader.table().names() {
        let name = name.map_err(|e| e.to_string())?;
        for value in reader.table().values(name) {
            let value = value.map_err(|e| e.to_string())?;
            let list = reader.list(&value.list).map_err(|e| e.to_string())?;
            out.push_str(&format!("{name}={} {:?}\n", value.value, list.iter().collect::<Vec<_>>()));
        }
    }
    Ok(out)
}

fn header_of(folder: &Path) -> Vec<u8> {
    let path = folder.join(header::HEADER_FILE);
    let index = Bytes::from(std::fs::read(folder.join("index")).unwrap());
    let fetch = |r: std::ops::Range<u64>| Ok(index.slice(r.start as usize..r.end as usize));
    header::build(&RealDisk, &path, "index", index.len() as u64, fetch).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    bytes
}

fn header_text(bytes: &[u8]) -> Result<String, String> {
    let reader = header::Reader::open("index-header", Bytes::copy_from_slice(bytes)).map_err(|e| e.to_string())?;
    let mut out = format!("{:?} {:?}\n", reader.index_version(), reader.symbols().iter().collect::<Vec<_>>());
    for name in reader.table().names() {
        let name = name.map_err(|e| e.to_string())?;
        for value in reader.table().values(name) {
            let value = value.map_err(|e| e.to_string())?;
            out.push_str(&format!("{name}={} {:?}\n", value.value, value.list));
        }
    }
    out.push_str(&format!("{:?}", reader.table().all()));
    Ok(out)
}

fn segment_text(bytes: &[u8], places: &[u64]) -> Result<String, String> {
    let reader = segment::Reader::new([(0, "chunks/x".into(), Bytes::copy_from_slice(bytes))]);
    let mut all: Vec<Samples> = Vec::new();
    for place in places {
        let (encoding, data): (Encoding, Bytes) =
            reader.chunk_bytes(segment::reference(0, segment::split(*place).1)).map_err(|e| e.to_string())?;
        all.push(made::samples(encoding, data)?);
    }
    Ok(format!("{all:?}"))
}
