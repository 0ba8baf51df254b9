//! G21, the reader's side: 20 blocks in a bucket, one random damage. Every sample outside of the damaged part is read,
//! the damaged part is named, and no sample is wrong.

use crate::made::{self, Found};
use std::path::{Path, PathBuf};
use testkit::goal::{Goal, Rng};
use tsdb::segment;

/// What happens to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Flip,
    Cut,
    Zeros,
    Lost,
    Empty,
}

const DAMAGES: [Damage; 5] = [Damage::Flip, Damage::Cut, Damage::Zeros, Damage::Lost, Damage::Empty];

/// Which bytes of a file are not what they were.
struct Damaged {
    file: PathBuf,
    name: String,
    from: usize,
    until: usize,
    how: Damage,
}

#[test]
fn goal_g21_damaged_bucket() {
    let goal = Goal::start("G21");
    let bucket = tempfile::tempdir().unwrap();
    let mut rng = goal.rng("blocks");
    let blocks: Vec<PathBuf> = (0..20).map(|n| made::block(bucket.path(), made::id(n), 6, 125, &mut rng)).collect();
    let honest: Vec<Vec<Found>> = blocks
        .iter()
        .map(|dir| {
            let (found, errors) = made::read(dir);
            assert!(errors.is_empty() && found.iter().all(|f| f.samples.is_ok()), "{errors:?}");
            found
        })
        .collect();
    let mut rng = goal.rng("damages");
    let damages = goal.pick(60, 200, 20_000);
    let (mut lost, mut total, mut harmless) = (0, 0, 0);
    for _ in 0..damages {
        let n = rng.below(blocks.len());
        let (dir, honest_here) = (&blocks[n], &honest[n]);
        let files = files(dir);
        let file = files[rng.below(files.len())].clone();
        let before = std::fs::read(&file).unwrap();
        let damage = damage(dir, &file, &before, &mut rng);
        // The whole bucket is read: one block must not disturb another.
        for (m, other) in blocks.iter().enumerate().filter(|(m, _)| *m != n) {
            if m % 7 == rng.below(7) {
                assert_eq!(made::read(other).0, honest[m], "another block is disturbed");
            }
        }
        let (found, errors) = made::read(dir);
        let missing = judge(&damage, honest_here, &found, &errors);
        total += honest_here.len();
        lost += missing;
        harmless += usize::from(missing == 0 && errors.is_empty());
        std::fs::write(&file, before).unwrap();
    }
    goal.figure(&format!(
        "{damages} damages, {lost} of {total} chunks lost and all of them inside of the damaged part, which was named; \
         {harmless} without effect; 0 wrong samples"
    ));
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.join("index")];
    let mut segments: Vec<PathBuf> =
        std::fs::read_dir(dir.join("chunks")).unwrap().map(|e| e.unwrap().path()).collect();
    segments.sort();
    all.extend(segments);
    all
}

fn damage(dir: &Path, file: &Path, before: &[u8], rng: &mut Rng) -> Damaged {
    let how = *rng.choose(&DAMAGES).unwrap();
    let at = rng.below(before.len());
    let mut bytes = before.to_vec();
    let until = match how {
        Damage::Flip => {
            bytes[at] ^= 1 << rng.below(8);
            at + 1
        }
        Damage::Cut => {
            bytes.truncate(at);
            before.len()
        }
        Damage::Zeros => {
            let end = (at + 1 + rng.below(64)).min(bytes.len());
            bytes[at..end].fill(0);
            end
        }
        Damage::Empty | Damage::Lost => before.len(),
    };
    let from = if matches!(how, Damage::Empty | Damage::Lost) { 0 } else { at };
    match how {
        Damage::Lost => std::fs::remove_file(file).unwrap(),
        Damage::Empty => std::fs::write(file, b"").unwrap(),
        _ => {
            // A new file: the old one may still be mapped.
            std::fs::remove_file(file).unwrap();
            std::fs::write(file, bytes).unwrap();
        }
    }
    let name = file.strip_prefix(dir).unwrap().display().to_string();
    Damaged { file: file.to_owned(), name, from, until, how }
}

/// How many chunks are lost; panics where a sample is wrong, lost outside of the damage, or lost without a word.
fn judge(damage: &Damaged, honest: &[Found], found: &[Found], errors: &[String]) -> usize {
    let context = format!("{:?} of {} from {} to {}", damage.how, damage.name, damage.from, damage.until);
    let named = |text: &String| text.contains(&damage.name) || text.contains(&damage.file.display().to_string());
    let mut missing = 0;
    for chunk in honest {
        let now = found.iter().find(|f| f.labels == chunk.labels && f.min_time == chunk.min_time);
        match now.map(|f| &f.samples) {
            Some(Ok(samples)) => assert!(
                chunk.samples.as_ref() == Ok(samples) && now.is_some_and(|f| f.reference == chunk.reference),
                "{context}: wrong samples of {}",
                chunk.labels
            ),
            Some(Err(why)) => {
                missing += 1;
                assert!(inside(damage, chunk.reference), "{context}: {} is lost as well: {why}", chunk.labels);
                assert!(named(why), "{context}: the error does not name it: {why}");
            }
            // Its series could not be read.
            None => {
                missing += 1;
                assert!(
                    damage.name == "index" || inside(damage, chunk.reference),
                    "{context}: {} is gone: {errors:?}",
                    chunk.labels
                );
                assert!(errors.iter().any(named), "{context}: a series is gone and nobody says so: {errors:?}");
            }
        }
    }
    // Nothing may appear that was not there.
    for chunk in found.iter().filter(|f| f.samples.is_ok()) {
        assert!(
            honest.iter().any(|h| h == chunk),
            "{context}: a chunk of {} was never written, and nobody says so",
            chunk.labels
        );
    }
    missing
}

/// Whether the damage may touch the chunk of a reference: its file, and bytes behind its beginning or the file's header.
fn inside(damage: &Damaged, reference: u64) -> bool {
    let (number, offset) = segment::split(reference);
    let own = format!("chunks/{}", segment::name(number));
    damage.name == own && (damage.from < segment::HEADER_LEN || damage.until > offset as usize)
}
