//! What every disk does, tried on each.

use super::memory::each_crash;
use super::{Disk, Entry, MemoryDisk, RealDisk, TempFile, replace};
use crate::block::{Block, Writer, health};
use crate::chunk::{Encoding, XorEncoder};
use crate::error::{Error, ErrorKind, Result};
use crate::meta::BlockMeta;
use crate::segment::NewChunk;
use std::io::Write as _;
use std::path::Path;

fn both(suite: impl Fn(&dyn Disk, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    suite(&RealDisk, dir.path());
    let disk = MemoryDisk::new();
    disk.create_dir(Path::new("/d")).unwrap();
    suite(&disk, Path::new("/d"));
}

/// The kind of a refusal.
fn refused<T>(result: Result<T>) -> std::io::ErrorKind {
    match result.err().unwrap().kind {
        ErrorKind::Io(e) => e.kind(),
        other => panic!("{other}"),
    }
}

fn names(disk: &dyn Disk, dir: &Path) -> Vec<(String, u64)> {
    disk.list(dir).unwrap().into_iter().map(|e: Entry| (e.name, e.size)).collect()
}

#[test]
fn files_get_their_name_when_they_are_complete() {
    both(|disk, dir| {
        let target = dir.join("meta.json");
        replace(disk, &target, b"old").unwrap();
        let mut file = TempFile::create(disk, &target).unwrap();
        file.write(b"nxw").unwrap();
        file.write_at(1, b"e").unwrap();
        assert_eq!(&disk.open(&target).unwrap()[..], b"old");
        assert_eq!(&disk.open(file.path()).unwrap()[..], b"new");
        file.commit().unwrap();
        assert_eq!(&disk.open(&target).unwrap()[..], b"new");
        drop(TempFile::create(disk, &target).unwrap());
        assert_eq!(names(disk, dir), [("meta.json".to_owned(), 3)]);
    });
}

#[test]
fn a_second_writer_of_a_name_takes_nothing_from_the_first() {
    both(|disk, dir| {
        let path = dir.join("index.tmp");
        let mut first = disk.create(&path).unwrap();
        let content = vec![7; 200_000];
        first.write_all(&content).unwrap();
        first.flush().unwrap();
        let mapped = disk.open(&path).unwrap();
        let mut second = disk.create(&path).unwrap();
        // Mapped bytes of a file that was emptied would end the process here.
        assert!(mapped[..] == content[..]);
        assert_eq!(disk.size(&path).unwrap(), 0);
        second.write_all(b"x").unwrap();
        second.sync().unwrap();
        drop((first, second));
        assert_eq!(&disk.open(&path).unwrap()[..], b"x");
    });
}

#[test]
fn bytes_are_seen_once_they_are_handed_over() {
    both(|disk, dir| {
        let path = dir.join("f");
        let mut file = disk.create(&path).unwrap();
        file.write_all(b"0123456789").unwrap();
        assert_eq!(disk.size(&path).unwrap(), 0, "gathered");
        file.write_at(3, b"xyz").unwrap();
        assert_eq!(&disk.open(&path).unwrap()[..], b"012xyz6789");
        file.write_all(b"ab").unwrap();
        drop(file);
        assert_eq!(&disk.open(&path).unwrap()[..], b"012xyz6789ab");
        let reader = disk.reader(&path).unwrap();
        let mut two = [0; 2];
        reader.read_at(10, &mut two).unwrap();
        assert_eq!((reader.size(), &two), (12, b"ab"));
        let error: Error = reader.read_at(11, &mut two).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("at byte 11"), "{error}");
        assert_eq!(disk.read(&path, 12).unwrap().len(), 12);
        let error = disk.read(&path, 11).unwrap_err().to_string();
        assert!(error.contains("larger than the 11 bytes"), "{error}");
    });
}

#[test]
fn names_and_folders() {
    use std::io::ErrorKind as K;
    both(|disk, dir| {
        let at = |name: &str| dir.join(name);
        disk.create_dir(&at("a/b")).unwrap();
        disk.create_dir(&at("a/b")).unwrap();
        replace(disk, &at("a/f"), b"f").unwrap();
        replace(disk, &at("a/g"), b"gg").unwrap();
        assert_eq!(names(disk, &at("a")), [("b".to_owned(), 0), ("f".to_owned(), 1), ("g".to_owned(), 2)]);
        assert_eq!(disk.list(&at("a")).unwrap().iter().map(|e| e.is_dir).collect::<Vec<_>>(), [true, false, false]);
        assert!(disk.exists(&at("a/b")).unwrap() && !disk.exists(&at("a/c")).unwrap());
        // Renames replace files, and no folder that holds something.
        disk.rename(&at("a/f"), &at("a/g")).unwrap();
        assert_eq!(&disk.open(&at("a/g")).unwrap()[..], b"f");
        disk.rename(&at("a"), &at("c")).unwrap();
        assert_eq!(names(disk, &at("c")), [("b".to_owned(), 0), ("g".to_owned(), 1)]);
        disk.create_dir(&at("d")).unwrap();
        assert_eq!(refused(disk.rename(&at("d"), &at("c"))), K::DirectoryNotEmpty);
        disk.rename(&at("d"), &at("c/b")).unwrap();
        assert_eq!(refused(disk.rename(&at("c/g"), &at("c/b"))), K::IsADirectory);
        assert_eq!(refused(disk.rename(&at("c/b"), &at("c/g"))), K::NotADirectory);
        assert_eq!(refused(disk.rename(&at("none"), &at("c/x"))), K::NotFound);
        // Second names.
        disk.hard_link(&at("c/g"), &at("h")).unwrap();
        assert_eq!(refused(disk.hard_link(&at("c/g"), &at("h"))), K::AlreadyExists);
        assert_eq!(refused(disk.hard_link(&at("none"), &at("i"))), K::NotFound);
        disk.remove_file(&at("c/g")).unwrap();
        assert_eq!(&disk.open(&at("h")).unwrap()[..], b"f");
        disk.sync_dir(&at("c")).unwrap();
        // What is not there.
        for refusal in [
            refused(disk.open(&at("none"))),
            refused(disk.reader(&at("none")).map(|_| ())),
            refused(disk.read(&at("none"), 1)),
            refused(disk.size(&at("none"))),
            refused(disk.list(&at("none"))),
            refused(disk.sync_dir(&at("none"))),
            refused(disk.create(&at("none/f")).map(|_| ())),
        ] {
            assert_eq!(refusal, K::NotFound);
        }
        disk.remove_file(&at("none")).unwrap();
        disk.remove_dir(&at("none")).unwrap();
        // What is something else.
        assert_eq!(refused(disk.list(&at("h"))), K::NotADirectory);
        assert_eq!(refused(disk.remove_file(&at("c"))), K::IsADirectory);
        assert_eq!(refused(disk.remove_dir(&at("h"))), K::NotADirectory);
        assert_eq!(refused(disk.create_dir(&at("h"))), K::AlreadyExists);
        assert!(disk.create(&at("c")).is_err() && disk.open(&at("c")).is_err());
        // A folder with all that is in it.
        replace(disk, &at("c/b/x"), b"x").unwrap();
        disk.remove_dir(&at("c")).unwrap();
        assert_eq!(names(disk, dir), [("h".to_owned(), 1)]);
    });
}

const BLOCK: &str = "01HF8B9EG00000000000000007";

/// A whole block, as the compactor will write it.
fn write_block(disk: &dyn Disk, dir: &Path) -> Result<()> {
    let meta = BlockMeta::new(BLOCK.parse().unwrap(), 0, 7_200_000);
    let mut writer = Writer::create(disk, dir, meta)?;
    for symbol in ["a", "b", "c"] {
        writer.add_symbol(symbol)?;
    }
    let mut encoder = XorEncoder::default();
    encoder.append(5, 1.0).unwrap();
    let data = encoder.bytes();
    let chunk = NewChunk { encoding: Encoding::Xor, data: &data, min_time: 5, max_time: 5 };
    writer.add_series(&model::Labels::from_pairs([("a", "b")]), &[chunk])?;
    writer.add_series(&model::Labels::from_pairs([("a", "c")]), &[chunk])?;
    writer.finish().map(|_| ())
}

#[test]
fn a_block_is_written_the_same() {
    let written = std::cell::RefCell::new(Vec::new());
    both(|disk, dir| {
        write_block(disk, dir).unwrap();
        let block = dir.join(BLOCK);
        assert_eq!(Block::open(disk, &block).unwrap().scan().unwrap().len(), 2);
        let files = ["index", "meta.json", "tombstones", "chunks/000001"].map(|f| disk.open(&block.join(f)).unwrap());
        written.borrow_mut().push(files);
    });
    let written = written.into_inner();
    assert!(written[0] == written[1]);
}

#[test]
fn a_block_that_has_its_name_is_whole_whenever_the_power_goes() {
    let (mut whole, mut none) = (0, 0);
    let dir = Path::new("/d");
    each_crash(
        30,
        |disk| disk.create_dir(dir).unwrap(),
        |disk| drop(write_block(disk, dir)),
        |what, disk| {
            if !disk.exists(&dir.join(BLOCK)).unwrap() {
                none += 1;
                assert!(!what.contains("after all"), "{what}");
                // The next start goes on.
                write_block(&disk, dir).unwrap();
            } else {
                whole += 1;
            }
            let report = health::check(&disk, &dir.join(BLOCK), &health::Options::default());
            assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
        },
    );
    assert!(whole > 35 && none > 300, "{whole} {none}");
}
