//! Damaged blocks: what is wrong is told, with its place, and nothing is read wrongly in silence.

use crate::support::{Content, fleet, floats, id, meta, read, write, write_meta};
use crate::versions::blocks;
use model::{Labels, Matcher};
use proptest::prelude::*;
use std::path::{Path, PathBuf};
use tsdb::block::health::{ChunkCheck, Kind, Options, Report, Severity, check};
use tsdb::block::{Block, read_meta, write_meta as replace_meta};
use tsdb::disk::{Disk as _, RealDisk, replace};
use tsdb::header;
use tsdb::index::{self, TOC_LEN, Toc};
use tsdb::meta::{File, Thanos};
use tsdb::series::Blocks;

fn health(dir: &Path) -> Report {
    check(&RealDisk, dir, &Options::default())
}

fn small(dir: &Path) -> PathBuf {
    write(dir, id(1), &fleet(4, 1000), None).dir
}

fn edit(path: &Path, f: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    f(&mut bytes);
    replace(&RealDisk, path, &bytes).unwrap();
}

/// The problem of this kind.
fn told(report: &Report, kind: Kind) -> String {
    let found = report.problems.iter().find(|p| p.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind}: {:?}", report.problems)).to_string()
}

#[test]
fn a_healthy_block_has_no_problems() {
    let dir = tempfile::tempdir().unwrap();
    let report = health(&small(dir.path()));
    assert!(report.is_healthy() && report.counts.is_empty(), "{:?}", report.problems);
    assert_eq!((report.stats.total_series, report.stats.total_chunks, report.stats.total_samples), (4, 8, 720));
    assert!(report.stats.series_max_size > 20 && report.stats.chunk_max_size > 20);
}

#[test]
fn files_that_are_missing_or_cut_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let block = small(dir.path());
    std::fs::remove_file(block.join("chunks/000001")).unwrap();
    let report = health(&block);
    assert_eq!(report.worst(), Some(Severity::Damage));
    assert!(told(&report, Kind::ChunkReference).contains("index, series at byte"), "{:?}", report.problems);
    std::fs::remove_file(block.join("index")).unwrap();
    assert_eq!(told(&health(&block), Kind::MissingFile), "missing-file: index: the file is not there");
    std::fs::remove_file(block.join("meta.json")).unwrap();
    assert!(health(&block).problems.iter().any(|p| p.file == "meta.json" && p.kind == Kind::MissingFile));
    assert!(!health(&dir.path().join("nowhere")).is_healthy());

    let other = tempfile::tempdir().unwrap();
    let block = small(other.path());
    edit(&block.join("chunks/000001"), |b| b.truncate(b.len() - 3));
    let text = told(&health(&block), Kind::Chunk);
    assert!(
        text.contains("chunks/000001, chunk at byte") && text.contains("it ends early") && text.contains("pod-0003"),
        "{text}"
    );
    edit(&block.join("index"), |b| b.truncate(b.len() - 1));
    assert!(told(&health(&block), Kind::Index).contains("index, table of contents at byte"));
    edit(&block.join("tombstones"), |b| b[8] ^= 1);
    assert!(told(&health(&block), Kind::Tombstones).contains("tombstones, stones at byte 5: the checksum is"));
    edit(&block.join("meta.json"), |b| b.truncate(40));
    assert!(told(&health(&block), Kind::Meta).contains("meta.json, meta at byte"));
}

/// A segment that is gone or has a damaged head costs its own chunks: none of another is read in its place.
#[test]
fn a_lost_segment_costs_its_own_chunks() {
    let content = fleet(6, 1000);
    let whole = tempfile::tempdir().unwrap();
    let block = write(whole.path(), id(1), &content, Some(600)).dir;
    let second = block.join("chunks/000002");
    let bytes = std::fs::read(&second).unwrap();
    assert!(block.join("chunks/000003").is_file());
    let lost = |why: &str| {
        let open = Block::open(&RealDisk, &block).unwrap();
        let (mut scan, mut served, mut errors) = (open.scan().unwrap(), 0, Vec::new());
        while let Some(series) = scan.next() {
            let series = series.unwrap();
            let expected = content.iter().find(|(l, _)| *l == series.labels).unwrap();
            for (c, want) in series.chunks.iter().zip(&expected.1) {
                match open.chunk(c) {
                    Ok(chunk) => {
                        assert!(chunk.data == want.data, "{why}");
                        served += 1;
                    }
                    Err(e) => errors.push(e.to_string()),
                }
            }
        }
        assert!(served + errors.len() == 12 && served >= 6, "{why}: {errors:?}");
        assert!(!errors.is_empty() && errors.iter().all(|e| e.contains("000002")), "{why}: {errors:?}");
        health(&block)
    };
    std::fs::remove_file(&second).unwrap();
    let report = lost("gone");
    assert!(told(&report, Kind::MissingFile).contains("chunks/000002: chunks/000003 follows"), "{:?}", report.problems);
    assert!(told(&report, Kind::ChunkReference).contains("segment 000002, which is not there"));
    std::fs::write(&second, &bytes).unwrap();
    edit(&second, |b| b[0] ^= 1);
    assert!(told(&lost("head"), Kind::Segment).contains("chunks/000002, header at byte 0"));
    std::fs::write(&second, b"").unwrap();
    assert!(told(&lost("empty"), Kind::ChunkReference).contains("which has 0 bytes"));
    std::fs::write(&second, &bytes).unwrap();
    assert!(health(&block).counts.is_empty());
}

#[test]
fn meta_is_compared_with_the_block() {
    let dir = tempfile::tempdir().unwrap();
    let block = small(dir.path());
    let mut meta = read_meta(&RealDisk, &block).unwrap();
    meta.stats.num_samples += 1;
    meta.id = id(7);
    meta.thanos = Some(Thanos {
        files: vec![File::new("chunks/000002", 9), File::new("index", 17), File::new("meta.json", 0)],
        ..Thanos::default()
    });
    replace_meta(&RealDisk, &block, &meta).unwrap();
    let report = health(&block);
    assert!(told(&report, Kind::MetaMismatch).contains(&format!("it is of block {}", id(7))));
    assert!(told(&report, Kind::MissingFile).contains("chunks/000002: meta.json lists it"));
    assert!(told(&report, Kind::FileSize).contains("meta.json says 17"));
    assert!(told(&report, Kind::UnlistedFile).contains("chunks/000001"));
    meta.id = id(1);
    meta.thanos = None;
    replace_meta(&RealDisk, &block, &meta).unwrap();
    assert!(told(&health(&block), Kind::MetaMismatch).contains("721 samples, there are 720"));
}

#[test]
fn chunks_outside_of_the_blocks_time_are_told_as_thanos_does() {
    let dir = tempfile::tempdir().unwrap();
    let content: Content = [("before", -10_000), ("at-end", 50_000), ("across", 40_000), ("after", 90_000), ("in", 0)]
        .map(|(name, from)| (Labels::from_pairs([("a", name)]), vec![floats(from, &[1.0, 2.0])]))
        .into();
    let mut content = content;
    content.sort_by(|a, b| a.0.cmp(&b.0));
    let mut meta = meta(id(1), &content);
    (meta.min_time, meta.max_time) = (0, 50_000);
    content.iter_mut().filter(|(l, _)| l.value("a") == "before").for_each(|(_, c)| c[0] = floats(-30_000, &[1.0, 2.0]));
    let block = write_meta(dir.path(), meta, &content, None).dir;
    let report = health(&block);
    let s = &report.stats;
    assert_eq!((s.outside_chunks, s.complete_outside_chunks, s.issue347_outside_chunks), (4, 2, 1), "{report:?}");
    assert_eq!(report.counts[&Kind::ChunkOutside], 1);
    assert_eq!(report.worst(), Some(Severity::Disorder));
}

#[test]
fn samples_are_compared_with_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let mut content = fleet(3, 1000);
    content[1].1[1].max_time += 5;
    content[2].1[0].encoding = 77;
    content[0].1[0].data.truncate(60);
    let block = write(dir.path(), id(1), &content, None).dir;
    let report = health(&block);
    assert!(told(&report, Kind::ChunkTime).contains("the index says"), "{:?}", report.problems);
    assert!(told(&report, Kind::ChunkEncoding).contains("encoding unknown (77)"));
    assert!(told(&report, Kind::Chunk).contains("chunks/000001, chunk at byte 8, series"));
    let options = Options { chunks: ChunkCheck::Checksums, ..Options::default() };
    assert!(check(&RealDisk, &block, &options).is_healthy());
    let few = check(&RealDisk, &block, &Options { max_problems: 0, ..Options::default() });
    assert_eq!(few.problems.len(), few.counts.len(), "the first of each kind is told");
}

/// Every byte of index, segment and tombstones, each with one bit flipped: it is told, or all is read as before.
#[test]
fn flipped_bits_are_told_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let content: Content = [("a", "1"), ("a", "2")]
        .map(|(n, v)| (Labels::from_pairs([(n, v), ("b", "x")]), vec![floats(0, &[1.0, 2.0]), floats(60_000, &[3.0])]))
        .into();
    let block = write(dir.path(), id(1), &content, None).dir;
    let mut harmless = 0;
    for file in ["index", "chunks/000001", "tombstones"] {
        let path = block.join(file);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            std::fs::write(&path, &bad).unwrap();
            let report = health(&block);
            if report.counts.is_empty() {
                harmless += 1;
                assert_eq!(read(&block), content, "byte {at} of {file} is read wrongly in silence");
            } else {
                let named =
                    report.problems.iter().any(|p| p.file == file || (file == "index" && p.file.contains("chunks")));
                assert!(named, "byte {at} of {file}: {:?}", report.problems);
            }
        }
        std::fs::write(&path, &good).unwrap();
    }
    // Padding, and nothing else, is not covered by a checksum.
    assert!(harmless < 40, "{harmless}");
}

/// The same for an index-header.
#[test]
fn flipped_bits_of_an_index_header_are_told_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index-header");
    for (writer, block) in blocks() {
        let index = RealDisk.open(&block.join("index")).unwrap();
        let fetch = |r: std::ops::Range<u64>| Ok(index.slice(r.start as usize..r.end as usize));
        header::build(&RealDisk, &path, "index", index.len() as u64, fetch).unwrap();
        let good = std::fs::read(&path).unwrap();
        let content = |bytes: Vec<u8>| -> tsdb::Result<Vec<String>> {
            let header = header::Reader::open("index-header", bytes.into())?;
            let mut all: Vec<String> = header.symbols().iter().map(|s| format!("{s:?}")).collect();
            for name in header.table().names() {
                let name = name?;
                for value in header.table().values(name) {
                    all.push(format!("{name} {:?}", value?));
                }
            }
            Ok(all)
        };
        let want = content(good.clone()).unwrap();
        for at in (0..good.len()).filter(|at| at % 7 == 0 || *at < 200 || at + 100 > good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            match content(bad) {
                Ok(found) => assert_eq!(found, want, "{writer}: byte {at} is read wrongly in silence"),
                Err(e) => assert!(e.to_string().starts_with("index-header: "), "{e}"),
            }
        }
    }
}

/// Puts all checksums of an index right, whatever its content is now; places are those of the sound index.
fn reseal(bytes: &mut [u8], toc: &Toc, series: &[(usize, usize)]) {
    let mut seal = |from: usize, to: usize| {
        let crc = crc32c::crc32c(&bytes[from..to]);
        bytes[to..to + 4].copy_from_slice(&crc.to_be_bytes());
    };
    for (from, to) in series {
        seal(*from, *to);
    }
    let end = bytes.len() - TOC_LEN;
    let crc = crc32c::crc32c(&bytes[toc.postings_table as usize + 4..end - 4]);
    bytes[end - 4..end].copy_from_slice(&crc.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[end..end + TOC_LEN - 4]);
    bytes[end + TOC_LEN - 4..].copy_from_slice(&crc.to_be_bytes());
}

/// Reads everything that can be read of a block, whatever it says. Must return.
fn use_all(dir: &Path) {
    let report = health(dir);
    let _ = report.first_of_worst().map(ToString::to_string);
    let Ok(block) = Block::open(&RealDisk, dir) else { return };
    if let Ok(mut scan) = block.scan() {
        let mut left = 1000;
        while let Some(series) = scan.next() {
            if let Ok(series) = series {
                for c in series.chunks {
                    let _ = block.chunk_bytes(c);
                }
            }
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    let index = block.index();
    for (n, _) in index.symbols().iter() {
        let _ = index.symbols().lookup(n);
    }
    let any = |op, name: &str, value: &str| Matcher::new(op, name, value).unwrap();
    use model::MatchOp::{NotEqual, NotRegex, Regex};
    for matchers in [
        vec![],
        vec![Matcher::equal("job", "api")],
        vec![any(NotEqual, "job", "api"), any(Regex, "pod", "pod-000[12]")],
        vec![any(NotRegex, "pod", ".*1"), any(Regex, "instance", "10.*")],
    ] {
        let _ = index.select(&matchers);
    }
    let _ = index.symbols().find("pod");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    // Damage with checksums that fit: no panic, no endless work.
    #[test]
    fn hostile_indexes_are_survived(
        which in 0usize..6,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (writer, source) = blocks().swap_remove(which);
        let dir = tempfile::tempdir().unwrap();
        let block = dir.path().join(source.file_name().unwrap());
        std::fs::create_dir_all(block.join("chunks")).unwrap();
        for file in ["meta.json", "chunks/000001"] {
            std::fs::copy(source.join(file), block.join(file)).unwrap();
        }
        let mut bytes = std::fs::read(source.join("index")).unwrap();
        let reader = index::Reader::open("index", bytes.clone().into()).unwrap();
        let toc = *reader.toc();
        let mut series = Vec::new();
        let mut entry = index::Series::default();
        for r in reader.all().unwrap().iter() {
            let at = reader.series_offset(r) as usize;
            let size = reader.series(r, &mut entry).unwrap();
            let head = if bytes[at] < 0x80 { 1 } else { 2 };
            series.push((at + head, at + size - 4));
        }
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        reseal(&mut bytes, &toc, &series);
        // The symbols' checksum, if their length is still in place.
        let symbols_end = toc.series as usize;
        if let Some(from) = symbols_end.checked_sub(4).filter(|e| *e > toc.symbols as usize + 4) {
            let crc = crc32c::crc32c(&bytes[toc.symbols as usize + 4..from]);
            bytes[from..symbols_end].copy_from_slice(&crc.to_be_bytes());
        }
        std::fs::write(block.join("index"), &bytes).unwrap();
        use_all(&block);
        prop_assert!(!writer.is_empty());
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..300), which in 0usize..3) {
        let dir = tempfile::tempdir().unwrap();
        let block = small(dir.path());
        let file = ["index", "chunks/000001", "meta.json"][which];
        std::fs::write(block.join(file), &bytes).unwrap();
        use_all(&block);
        prop_assert!(!health(&block).is_healthy());
    }
}

#[test]
fn one_damaged_chunk_costs_one_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let block = small(dir.path());
    // A sample of the first series' second chunk.
    let bad = {
        let block = Block::open(&RealDisk, &block).unwrap();
        block.scan().unwrap().next().unwrap().unwrap().chunks[1]
    };
    let offset = (bad.reference & 0xffff_ffff) as usize;
    edit(&block.join("chunks/000001"), |b| b[offset + 20] ^= 1);
    let block = Block::open(&RealDisk, &block).unwrap();
    let strict: Vec<_> = Blocks::all(&block).unwrap().collect();
    assert_eq!(strict.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, true, true]);
    let mut told = Vec::new();
    let all: Vec<_> = Blocks::all(&block).unwrap().without_damaged(|d| told.push(d)).map(Result::unwrap).collect();
    assert_eq!(all.iter().map(|s| s.chunks.len()).collect::<Vec<_>>(), [1, 2, 2, 2]);
    let [told] = &told[..] else { panic!("{told:?}") };
    assert_eq!((&told.labels, told.meta), (&all[0].labels, bad));
    assert!(told.error.is_damage() && told.error.file.contains("chunks/000001") && told.error.offset == offset as u64);
}
