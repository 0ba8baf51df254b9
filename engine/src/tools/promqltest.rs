//! `panoptes tools promqltest FILE…`: each failure with its place, then `N passed, M failed`.

use anyhow::Context as _;
use promql::promqltest::{self, MemoryEngine};
use std::io::Write;
use std::path::{Path, PathBuf};

pub(super) fn run(paths: &[PathBuf], out: &mut dyn Write) -> anyhow::Result<()> {
    let (mut passed, mut failed) = (0, 0);
    for file in scripts(paths)? {
        let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        let report = promqltest::run(&text, &mut MemoryEngine::conformance());
        for f in &report.failed {
            writeln!(out, "{}:{}: {}: {}", file.display(), f.line, f.query, f.message)?;
        }
        passed += report.passed;
        failed += report.failed.len();
    }
    writeln!(out, "{passed} passed, {failed} failed")?;
    anyhow::ensure!(failed == 0, "{failed} evaluations do not give what their scripts expect");
    Ok(())
}

/// The files named, and of each folder named its `*.test`, sorted.
fn scripts(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).with_context(|| format!("can't list {}", path.display()))?;
            let mut found: Vec<PathBuf> = entries.map(|e| Ok(e?.path())).collect::<std::io::Result<_>>()?;
            found.retain(|p: &PathBuf| p.extension() == Some("test".as_ref()) && Path::is_file(p));
            anyhow::ensure!(!found.is_empty(), "{} holds no *.test", path.display());
            found.sort();
            files.append(&mut found);
        } else {
            files.push(path.clone());
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(script: &str) -> (String, bool) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.test"), script).unwrap();
        let mut out = Vec::new();
        let good = run(&[dir.path().to_owned()], &mut out).is_ok();
        (String::from_utf8(out).unwrap(), good)
    }

    #[test]
    fn tells_the_count_and_the_place_of_a_failure() {
        let (out, good) = of("load 1m\n  m 1 2 3\n\neval instant at 1m m\n  m 2\n");
        assert_eq!((out.as_str(), good), ("1 passed, 0 failed\n", true));
        let (out, good) = of("load 1m\n  m 1 2 3\n\neval instant at 1m m\n  m 7\n");
        assert!(!good && out.ends_with("0 passed, 1 failed\n"), "{out}");
        assert!(out.contains("a.test:") && out.contains('4'), "{out}");
    }
}
