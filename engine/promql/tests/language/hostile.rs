//! G43: what patterns and queries of an enemy cost.

use model::{Labels, MatchOp, Matcher, protection};
use promql::exec::{
    Encoded, EngineOptions, Entry, Plan, QueryError, Samples, SelectRequest, SeriesSet, Source, Stop, Times,
};
use promql::parse::Options;
use std::time::Duration;
use testkit::goal::{Goal, Rng};

/// CPU time of this thread.
fn cpu() -> Duration {
    cpu_of("thread-self")
}

/// CPU time of a thread.
fn cpu_of(task: &str) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{task}/schedstat")).unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Each takes minutes.
const LONG: &[&str] = &[
    "quantile_over_time(0.5, m[2d])",
    "sum by (pod) (stddev_over_time(m[2d]))",
    "topk(3, quantile_over_time(0.5, m[2d]))",
    "m and on (pod) quantile_over_time(0.5, m[2d])",
    "max_over_time(quantile_over_time(0.5, m[1d])[1d:1s])",
    "count_values(\"v\", stdvar_over_time(m[2d]))",
    "sort_desc(absent_over_time(mad_over_time(m[1d:1s])[1h:1s]))",
];

#[test]
#[allow(clippy::disallowed_methods, reason = "a test waits for a thread to be at work")]
fn a_stopped_query_ends_within_a_second() {
    let options = EngineOptions { max_bytes: 0, max_samples: 0, parser: Options::ALL, ..EngineOptions::default() };
    let times = Times::Range { start: 1_700_000_000_000, end: 1_700_000_000_000 + 5_000_000, step: 1000 };
    for query in LONG {
        let (plan, stop) = (Plan::new(query, times, &options).unwrap(), Stop::new());
        let (told, task) = std::sync::mpsc::channel();
        let running = stop.clone();
        let thread = std::thread::spawn(move || {
            let link = std::fs::read_link("/proc/thread-self").unwrap();
            told.send(link.to_str().unwrap().to_owned()).unwrap();
            (plan.execute(&Endless, &running).map(drop), cpu())
        });
        let task = task.recv().unwrap();
        // Well into the work, however busy the machine is; what counts is the work that is done afterwards.
        while cpu_of(&task) < Duration::from_millis(200) && !thread.is_finished() {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!thread.is_finished(), "{query} is no long query");
        stop.cancel();
        let at_stop = cpu_of(&task);
        let (result, at_end) = thread.join().unwrap();
        assert_eq!(result, Err(QueryError::Canceled), "{query}");
        assert!(at_end - at_stop < Duration::from_secs(1), "{query} goes on for {:?}", at_end - at_stop);
    }
}

/// A field of the process's memory, bytes.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn pattern(r: &mut Rng) -> String {
    let n = 1 + r.below(1000);
    match r.below(12) {
        0 => format!("(a{{1,{n}}}){{1,{n}}}"),
        1 => format!("{}a{}", "(".repeat(n), ")*".repeat(n)),
        2 => (0..n).map(|i| format!("v{i}")).collect::<Vec<_>>().join("|"),
        3 => format!("\\pL{{{n}}}"),
        4 => ".*".repeat(n) + "=x",
        5 => format!("(?i)(\\w|[^x])*{}", "\\pN?".repeat(n % 50)),
        6 => "(a?)".repeat(n) + &"a".repeat(n),
        7 => format!("((a|ab)(c|bcd)(d*)){{{}}}", n % 100),
        8 => "[".repeat(n),
        9 => format!("(a|aa)+${}", ".".repeat(n % 200)),
        10 => format!("(?:{}){{{n}}}", (0..40).map(|i| format!("[a-z]{i}x")).collect::<Vec<_>>().join("|")),
        _ => format!("x{{{n}}}{{{n}}}{{{n}}}"),
    }
}

/// Any number of series of any length: they are made when they are decoded.
struct Endless;

impl Source for Endless {
    fn select<'s>(&'s self, request: &SelectRequest) -> Result<Box<dyn SeriesSet<'s> + 's>, QueryError> {
        Ok(Box::new(Crowd { next: 0, range: (request.mint, request.maxt) }))
    }

    fn repeatable(&self) -> bool {
        true
    }
}

struct Crowd {
    next: u64,
    range: (i64, i64),
}

impl<'s> SeriesSet<'s> for Crowd {
    fn next_series(&mut self) -> Result<Option<Entry<'s>>, QueryError> {
        // Without a budget this many are enough to show it.
        if self.next >= if protection::off("query-budget") { 5000 } else { 200_000 } {
            return Ok(None);
        }
        let pod = format!("pod-{:06}", self.next);
        self.next += 1;
        let labels = Labels::from_pairs([("__name__", "m"), ("pod", &pod)]);
        Ok(Some(Entry { labels, data: Box::new(Points { range: self.range, salt: self.next }) }))
    }
}

struct Points {
    range: (i64, i64),
    salt: u64,
}

const EVERY: i64 = 15_000;

impl Encoded for Points {
    fn decode(&self, out: &mut Samples) -> Result<(), QueryError> {
        let mut t = self.range.0.div_euclid(EVERY) * EVERY + EVERY;
        while t <= self.range.1 {
            out.push(t, (t / EVERY % 1000) as f64 + self.salt as f64);
            t += EVERY;
        }
        Ok(())
    }

    fn samples(&self) -> Option<u64> {
        u64::try_from((self.range.1 - self.range.0) / EVERY + 1).ok()
    }
}

fn hostile(r: &mut Rng) -> String {
    let n = 5 + r.below(40);
    match r.below(14) {
        0 => "{__name__=~\".+\"}".to_owned(),
        1 => format!("sum_over_time(m[{n}y])"),
        2 => format!("max_over_time(m[{n}d:1ms])"),
        3 => "count_values(\"v\", m)".to_owned(),
        4 => (0..n).fold("m".to_owned(), |q, _| format!("label_join({q}, \"pod\", \",\", \"pod\", \"pod\")")),
        5 => (0..n).fold("m".to_owned(), |q, _| format!("label_replace({q}, \"pod\", \"$1$1$1\", \"pod\", \"(.*)\")")),
        6 => vec!["m"; n].join(" or "),
        7 => format!("quantile by (pod) (0.5, m) + topk({n}000000, m)"),
        8 => format!("m * on (pod) group_left () (m + {n})"),
        9 => format!("sort_desc(m) + histogram_quantile(0.{n}, m)"),
        10 => format!("{}m{}", "(".repeat(n * 1000), ")".repeat(n * 1000)),
        11 => format!("{}m", "-".repeat(n * 1000)),
        12 => (0..n).fold("m".to_owned(), |q, _| format!("max_over_time(({q})[1y:1s])")),
        _ => format!("m[{n}00000000000y]"),
    }
}

#[test]
fn goal_g43_hostile_patterns_and_queries() {
    let goal = Goal::start("G43");
    let mut r = goal.rng("patterns");
    let values = ["a".repeat(500), format!("{}!", "ab".repeat(200)), "x".repeat(1000), "v77".to_owned()];
    let patterns = goal.pick(200, 1000, 100_000);
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for _ in 0..patterns {
        let text = pattern(&mut r);
        let begin = cpu();
        match Matcher::new(MatchOp::Regex, "a", &text) {
            Ok(m) => drop(values.iter().filter(|v| m.matches(v)).count()),
            Err(_) => refused += 1,
        }
        let took = cpu() - begin;
        slowest = slowest.max(took);
        // A debug build is several times slower.
        let limit = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
        assert!(took <= limit, "the pattern {} takes {took:?}", text.chars().take(200).collect::<String>());
    }
    let mut r = goal.rng("queries");
    let queries = goal.pick(60, 1000, 10_000);
    let (mut stopped, mut answered, mut most) = (0, 0, 0);
    let options =
        EngineOptions { max_bytes: 4 << 20, max_samples: 0, parser: Options::ALL, ..EngineOptions::default() };
    for _ in 0..queries {
        let query = hostile(&mut r);
        let times = match r.below(3) {
            0 => Times::Instant(1_700_000_000_000),
            1 => Times::Range { start: 0, end: 1_700_000_000_000, step: 1000 },
            _ => Times::Range { start: 1_690_000_000_000, end: 1_700_000_000_000, step: 1_000_000 },
        };
        // 5 resets the high-water mark.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        let (before, begin) = (memory("VmRSS"), cpu());
        let (stop, (done, waits)) = (Stop::new(), std::sync::mpsc::channel::<()>());
        let patience = stop.clone();
        std::thread::spawn(move || {
            if waits.recv_timeout(Duration::from_secs(10)) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                patience.expire();
            }
        });
        let result = Plan::new(&query, times, &options).and_then(|p| p.execute(&Endless, &stop));
        drop(done);
        let grown = memory("VmHWM").saturating_sub(before);
        most = most.max(grown);
        let shown = || query.chars().take(200).collect::<String>();
        assert!(grown < 256 << 20, "the query {} takes {} MiB", shown(), grown >> 20);
        let took = cpu() - begin;
        assert!(took < Duration::from_secs(20), "the query {} takes {took:?}", shown());
        match result {
            Err(QueryError::Timeout) => panic!("the query {} runs into its deadline", shown()),
            Err(_) => stopped += 1,
            Ok(_) => answered += 1,
        }
    }
    assert!(stopped * 10 > queries * 8, "only {stopped} of {queries} queries were refused");
    goal.figure(&format!(
        "{patterns} patterns, {refused} refused, the slowest {} ms of CPU; {queries} queries, {stopped} refused and \
         {answered} answered, at most {} MiB",
        slowest.as_millis(),
        most >> 20
    ));
}
