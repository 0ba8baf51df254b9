//! `make goals`: every goal of docs/goals.md at fast size, and each negative run: with a protection switched off the
//! goal's test must fail, with the line that the table names.

mod table;

use crate::say;
use anyhow::Context as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use table::{GOALS, Goal, Negative};

/// How a run of goals is chosen.
pub struct Options {
    /// `ci`, `fast` or `night`.
    pub size: String,
    /// Leave out the negative runs.
    pub only_positive: bool,
    /// Parts of goals' numbers or tests' names; none = all.
    pub words: Vec<String>,
}

/// Runs the chosen goals and prints the table: goal, figure, verdict, time.
///
/// # Errors
/// When a goal is not met, takes longer than its size allows, or its test passes with its protection off.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let limit = match options.size.as_str() {
        "ci" => Duration::from_secs(10),
        "fast" => Duration::from_secs(60),
        "night" => Duration::from_secs(1800),
        other => anyhow::bail!("--size={other}: the sizes are ci, fast and night"),
    };
    let chosen: Vec<&Goal> = GOALS.iter().filter(|g| g.matches(&options.words)).collect();
    anyhow::ensure!(!chosen.is_empty(), "no goal is called {}", options.words.join(" or "));
    say::step("building the tests of the goals");
    for goal in &chosen {
        let built = goal.cargo().arg("--no-run").stdin(Stdio::null()).output().context("start cargo")?;
        anyhow::ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    let mut rows = Vec::new();
    for goal in chosen {
        rows.push(positive(goal, &options.size, limit)?);
        if !options.only_positive {
            for negative in goal.negatives {
                rows.push(broken(goal, negative, &options.size)?);
            }
        }
    }
    say::plain("");
    say::plain("| goal | test | figure | verdict | time |");
    say::plain("|---|---|---|---|---|");
    for row in &rows {
        let verdict = if row.good { "pass" } else { "FAIL" };
        let seconds = row.time.as_secs_f64();
        say::plain(&format!("| {} | {} | {} | {verdict} | {seconds:.1} s |", row.goal, row.test, row.figure));
    }
    let failed = rows.iter().filter(|r| !r.good).count();
    anyhow::ensure!(failed == 0, "{failed} of {} runs are not as docs/goals.md says", rows.len());
    Ok(())
}

/// A line of the printed table.
struct Row {
    goal: &'static str,
    test: String,
    figure: String,
    good: bool,
    time: Duration,
}

fn positive(goal: &Goal, size: &str, limit: Duration) -> anyhow::Result<Row> {
    say::step(&format!("{} {}", goal.number, goal.test));
    let run = Run::of(goal, size, None)?;
    let figures = run.figures();
    let (figure, good) = match (run.passed, figures.is_empty()) {
        (true, false) if run.time <= limit => (figures.join("; "), true),
        (true, false) => (format!("longer than {} s: {}", limit.as_secs(), figures.join("; ")), false),
        (true, true) => ("no figure was printed: does the test still have this name?".to_owned(), false),
        (false, _) => {
            say::plain(&run.output);
            (run.failure(), false)
        }
    };
    Ok(Row { goal: goal.number, test: goal.test.to_owned(), figure, good, time: run.time })
}

fn broken(goal: &Goal, negative: &Negative, size: &str) -> anyhow::Result<Row> {
    say::step(&format!("{} {} without {}", goal.number, goal.test, negative.protection));
    let run = Run::of(goal, size, Some(negative.protection))?;
    let (figure, good) = match (run.passed, run.output.contains(negative.line)) {
        (true, _) => ("it passes without the protection, so the test has no teeth".to_owned(), false),
        (false, true) => (format!("fails as it must: {}", negative.line), true),
        (false, false) => {
            say::plain(&run.output);
            (format!("fails without the line {:?}: {}", negative.line, run.failure()), false)
        }
    };
    Ok(Row {
        goal: goal.number,
        test: format!("{} (PANOPTES_BREAK={})", goal.test, negative.protection),
        figure,
        good,
        time: run.time,
    })
}

/// One run of a goal's test.
struct Run {
    passed: bool,
    output: String,
    time: Duration,
}

impl Run {
    #[allow(clippy::disallowed_methods, reason = "the harness measures in real time")]
    fn of(goal: &Goal, size: &str, protection: Option<&str>) -> anyhow::Result<Self> {
        let mut command = goal.cargo();
        command.args(["--", "--exact", "--nocapture"]);
        command.env("PANOPTES_GOALS", size).env_remove("PANOPTES_BREAK").stdin(Stdio::null());
        if let Some(protection) = protection {
            command.env("PANOPTES_BREAK", protection);
        }
        let start = Instant::now();
        let ended = command.output().context("start cargo")?;
        let time = start.elapsed();
        let output = format!("{}\n{}", String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        Ok(Self { passed: ended.status.success(), output, time })
    }

    /// What the test printed with `testkit::goal::Goal::figure`.
    fn figures(&self) -> Vec<&str> {
        let lines = self.output.lines().filter(|l| l.contains("goal G"));
        lines.filter_map(|l| Some(l.split_once(" figure: ")?.1)).collect()
    }

    /// The first line that says why.
    fn failure(&self) -> String {
        let mut lines = self.output.lines().skip_while(|l| !l.contains("panicked at")).skip(1);
        lines.next().unwrap_or("it ended without a reason: see above").to_owned()
    }
}

impl Goal {
    fn matches(&self, words: &[String]) -> bool {
        words.is_empty() || words.iter().any(|w| self.number.eq_ignore_ascii_case(w) || self.test.contains(w.as_str()))
    }

    /// `cargo test` of this one test, of a debug build: the build that has the switches.
    fn cargo(&self) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["test", "--locked", "-q", "-p", self.package]);
        match self.target {
            "lib" => command.arg("--lib"),
            target => command.args(["--test", target]),
        };
        command.arg(self.test);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `make goals` runs is what the document says: each test and each negative line stands in docs/goals.md.
    #[test]
    fn the_document_names_every_run() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/goals.md");
        let document = std::fs::read_to_string(file).unwrap();
        for goal in GOALS {
            let row = document.lines().filter(|l| l.starts_with(&format!("| {} ", goal.number)));
            let row = row.collect::<Vec<_>>().join("\n");
            let name = goal.test.rsplit("::").next().unwrap();
            assert!(row.contains(name), "docs/goals.md has no row for {} with {name}", goal.number);
            for negative in goal.negatives {
                assert!(row.contains(negative.protection), "{name}: docs/goals.md lacks {}", negative.protection);
                assert!(row.contains(negative.line), "{name}: docs/goals.md lacks the line {:?}", negative.line);
            }
        }
    }
}
