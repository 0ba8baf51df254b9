//! Wall time, CPU and memory of a querier that is another process.

use anyhow::Context;
use serde_json::Value;
use std::io::Write;
use std::time::Duration;
use testkit::http;

/// Start, end and step of a range query, in seconds.
pub(super) type Range = (i64, i64, i64);

/// A querier under test.
pub(super) struct Querier {
    name: String,
    url: String,
    pid: u32,
    cpu: Vec<f64>,
    wall: Vec<f64>,
    slowest: Vec<f64>,
}

/// What an answer looks like from far.
pub(super) struct Answer {
    /// Number of series.
    pub series: usize,
}

impl Querier {
    pub(super) fn new(name: &str, url: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), url: url.to_owned(), pid, cpu: Vec::new(), wall: Vec::new(), slowest: Vec::new() }
    }

    /// Waits until the querier lists this many healthy stores.
    pub(super) fn wait_for_stores(&self, stores: usize) -> anyhow::Result<()> {
        testkit::wait::until(
            "the querier to see its stores",
            Duration::from_secs(30),
            Duration::from_millis(100),
            || {
                let answer = http::get(&format!("{}/api/v1/stores", self.url))?.json()?;
                let seen = answer["data"].as_object().map_or(0, |by_type| {
                    by_type.values().filter_map(Value::as_array).flatten().filter(|s| s["lastError"].is_null()).count()
                });
                anyhow::ensure!(seen >= stores, "it sees {seen} of {stores}");
                Ok(())
            },
        )
    }

    /// Asks once and looks at the answer.
    pub(super) fn shape_of(&self, query: &str, range: Range) -> anyhow::Result<Answer> {
        let answer: Value = serde_json::from_str(&self.ask(query, range)?)?;
        let result =
            answer["data"]["result"].as_array().with_context(|| format!("{}: {query}: {answer}", self.name))?;
        Ok(Answer { series: result.len() })
    }

    /// Asks all queries once, one after the other.
    pub(super) fn round(&mut self, queries: &[String], range: Range) -> anyhow::Result<()> {
        let cpu = cpu_s(self.pid)?;
        let (mut wall, mut slowest) = (0.0, 0.0f64);
        for q in queries {
            let took = timed(|| self.ask(q, range))?;
            wall += took;
            slowest = slowest.max(took);
        }
        self.cpu.push(cpu_s(self.pid)? - cpu);
        self.wall.push(wall);
        self.slowest.push(slowest);
        Ok(())
    }

    fn ask(&self, query: &str, (start, end, step): Range) -> anyhow::Result<String> {
        let query_range = format!(
            "{}/api/v1/query_range?query={}&start={start}&end={end}&step={step}",
            self.url,
            http::encode(query)
        );
        let answer = http::get(&query_range)?;
        anyhow::ensure!(answer.status == 200, "{}: {query}: {} {}", self.name, answer.status, answer.body);
        Ok(answer.body)
    }

    pub(super) fn cpu_s(&self) -> f64 {
        median(&self.cpu)
    }

    pub(super) fn wall_s(&self) -> f64 {
        median(&self.wall)
    }

    pub(super) fn slowest_s(&self) -> f64 {
        median(&self.slowest)
    }

    /// Highest resident memory so far.
    pub(super) fn peak_mib(&self) -> anyhow::Result<f64> {
        peak_mib(self.pid)
    }
}

/// Highest resident memory of a process so far.
pub(crate) fn peak_mib(pid: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no VmHWM")?.parse()?;
    Ok(kib / 1024.0)
}

/// What a program spent from its start to its end.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// User and system time of all its threads, seconds.
    pub(super) cpu_s: f64,
    /// From start to end, seconds.
    pub(super) wall_s: f64,
    /// Highest resident memory, files that are mapped included, MiB.
    pub(super) peak_mib: f64,
    /// Highest resident memory of its own, MiB, looked at every five milliseconds.
    pub(super) anon_mib: f64,
}

/// Runs a program, with its output in a file, to its end, or until `done` says that it may be ended.
///
/// # Errors
/// When it can't be started, or ends with an error.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(super) fn spend(
    command: &mut std::process::Command,
    log: &std::path::Path,
    done: impl Fn() -> anyhow::Result<bool>,
) -> anyhow::Result<Spent> {
    let out = std::fs::File::create(log)?;
    let start = std::time::Instant::now();
    let mut child = command.stdin(std::process::Stdio::null()).stderr(out.try_clone()?).stdout(out).spawn()?;
    let mut spent = Spent::default();
    let mut asked = start;
    let ended = loop {
        // A process that has just ended has nothing to tell any more: what it told last counts.
        if let Ok(cpu) = cpu_s(child.id()) {
            spent.cpu_s = cpu.max(spent.cpu_s);
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let mib = |field: &str| {
            let line = status.lines().find(|line| line.starts_with(field))?;
            Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
        };
        spent.peak_mib = spent.peak_mib.max(mib("VmHWM:").unwrap_or(0.0));
        spent.anon_mib = spent.anon_mib.max(mib("RssAnon:").unwrap_or(0.0));
        if let Some(ended) = child.try_wait()? {
            break Some(ended);
        }
        if asked.elapsed() > Duration::from_millis(200) {
            asked = std::time::Instant::now();
            if done()? {
                break None;
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    spent.wall_s = start.elapsed().as_secs_f64();
    match ended {
        Some(ended) => anyhow::ensure!(ended.success(), "it ended with {ended}"),
        None => {
            testkit::process::signal(child.id(), "TERM")?;
            child.wait()?;
        }
    }
    Ok(spent)
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures real time")]
pub(super) fn timed<T>(f: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<f64> {
    let start = std::time::Instant::now();
    f()?;
    Ok(start.elapsed().as_secs_f64())
}

/// User and system time of a process, in seconds (Linux counts 100 ticks a second).
pub(crate) fn cpu_s(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in parentheses and may hold anything.
    let (_, fields) = stat.rsplit_once(") ").context("stat")?;
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / 100.0)
}

pub(super) fn median(values: &[f64]) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A table of ratios.
pub(super) struct Table {
    lines: Vec<String>,
}

impl Table {
    pub(super) fn new(title: &str) -> Self {
        Self {
            lines: vec![format!("{title}\n"), "| what | Thanos | ours | ratio |".into(), "|---|---|---|---|".into()],
        }
    }

    pub(super) fn row(&mut self, what: &str, unit: &str, peer: f64, ours: f64) {
        self.lines.push(format!("| {what} | {peer:.2} {unit} | {ours:.2} {unit} | {:.2} |", ours / peer));
    }

    pub(super) fn print(&self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        for l in &self.lines {
            writeln!(out, "{l}")?;
        }
        Ok(())
    }
}
