//! The evaluator against Prometheus' own test files, with the settings of Prometheus' runner.

use promql::promqltest::{MemoryEngine, run};
use std::fmt::Write;
use std::path::Path;

#[test]
fn prometheus_test_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/promqltest");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        eprintln!("skipped: the shared test data is absent ({})", dir.display());
        return;
    };
    let mut files: Vec<_> =
        entries.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "test")).collect();
    files.sort();
    let (mut passed, mut failed, mut table, mut details) = (0, 0, String::new(), String::new());
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let report = run(&std::fs::read_to_string(file).unwrap(), &mut MemoryEngine::conformance());
        passed += report.passed;
        failed += report.failed.len();
        writeln!(table, "{:5} of {:5}  {name}", report.passed, report.passed + report.failed.len()).unwrap();
        for f in report.failed {
            writeln!(details, "{name}:{} {}\n    {}", f.line, f.query, f.message).unwrap();
        }
    }
    assert_eq!(failed, 0, "{passed} evaluations passed, {failed} failed\n{table}\n{details}");
    assert_eq!((files.len(), passed), (21, 1313), "{table}");
}

/// Scripts of our own, in the same language.
#[test]
fn our_scripts() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/language/scripts");
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let report = run(&std::fs::read_to_string(&path).unwrap(), &mut MemoryEngine::conformance());
        let failed: Vec<_> = report
            .failed
            .iter()
            .map(|f| format!("{}:{} {}\n    {}", path.display(), f.line, f.query, f.message))
            .collect();
        assert!(failed.is_empty() && report.passed > 0, "{}", failed.join("\n"));
        files += 1;
    }
    assert!(files >= 2);
}
