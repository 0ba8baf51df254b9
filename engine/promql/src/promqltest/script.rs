//! From the text of a script to its commands.

use super::compare::Expected;
use super::load::Load;
use super::{Annotated, Failure, Pattern};
use crate::exec::Times;
use crate::parse::{self, Options, SeriesItem};
use model::time::parse_duration;
use model::{Labels, MatchOp, Matcher};
use std::collections::BTreeMap;

/// A command of a script.
pub(super) enum Command {
    Clear,
    Load(Load),
    Eval(Box<Eval>),
}

/// A query and what is expected of it.
pub(super) struct Eval {
    /// The line of the script, from 1.
    pub(super) line: usize,
    pub(super) query: String,
    pub(super) times: Times,
    /// Start, end and step (milliseconds) of an instant query's range vector.
    pub(super) expected_grid: Option<(i64, i64, i64)>,
    /// The series must come in the order of the script.
    pub(super) ordered: bool,
    /// The query must fail with this.
    pub(super) fail: Option<Pattern>,
    pub(super) warnings: Annotated,
    pub(super) infos: Annotated,
    pub(super) series: BTreeMap<Labels, Expected>,
    pub(super) expected_scalar: Option<f64>,
    pub(super) expected_string: Option<String>,
}

/// The lines of a script, without blanks around them and without comments.
struct Lines<'a> {
    lines: Vec<&'a str>,
    next: usize,
}

impl<'a> Lines<'a> {
    /// The next line, unless the block ends before it.
    fn in_block(&mut self) -> Option<&'a str> {
        let line = self.lines.get(self.next).copied().filter(|l| !l.is_empty())?;
        self.next += 1;
        Some(line)
    }
}

pub(super) fn parse(script: &str) -> Result<Vec<Command>, Failure> {
    let lines = script.lines().map(str::trim).map(|l| if l.starts_with('#') { "" } else { l }).collect();
    let mut lines = Lines { lines, next: 0 };
    let mut commands = Vec::new();
    while lines.next < lines.lines.len() {
        let number = lines.next + 1;
        let Some(line) = lines.in_block() else {
            lines.next += 1;
            continue;
        };
        let word = line.split([' ', '\t']).next().unwrap_or("").to_ascii_lowercase();
        let command = match word.as_str() {
            "clear" => Ok(Command::Clear),
            _ if word.starts_with("load") => load(line, number, &mut lines).map(Command::Load),
            _ if word.starts_with("eval") => eval(line, number, &mut lines).map(|e| Command::Eval(Box::new(e))),
            _ => Err(format!("invalid command {line:?}")),
        };
        // The lines of a block that can't be read are skipped with it, but the rest would be a different test.
        commands.push(command.map_err(|message| Failure { line: number, query: line.to_owned(), message })?);
    }
    Ok(commands)
}

fn milliseconds(what: &str, text: &str) -> Result<i64, String> {
    parse_duration(text).map_err(|e| format!("invalid {what} {text:?}: {e}"))
}

fn load(line: &str, number: usize, lines: &mut Lines<'_>) -> Result<Load, String> {
    let (word, step) = line.split_once([' ', '\t']).ok_or("load needs a step")?;
    let classic_to_custom = match word {
        "load" => false,
        "load_with_nhcb" => true,
        _ => return Err(format!("invalid command {word:?}")),
    };
    let mut load = Load::new(number, milliseconds("step", step.trim())?, classic_to_custom);
    let mut starts: Option<(Labels, Vec<Option<i64>>)> = None;
    while let Some(line) = lines.in_block() {
        let (first, rest) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        if let Some(metric) = first.strip_suffix("@st") {
            let labels = parse::parse_metric(metric).map_err(|e| e.to_string())?;
            let offsets = rest.split_whitespace().map(start_times).collect::<Result<Vec<_>, _>>()?;
            if starts.replace((labels, offsets.concat())).is_some() {
                return Err("an @st line has no sample line below it".to_owned());
            }
            continue;
        }
        let (labels, items) = parse::parse_series_description(line).map_err(|e| e.to_string())?;
        let offsets = match starts.take() {
            Some((of, offsets)) if of == labels => offsets,
            Some(_) => return Err(format!("the @st line above {line:?} is of another series")),
            None => Vec::new(),
        };
        load.add(labels, &items, &offsets)?;
    }
    if starts.is_some() {
        return Err("an @st line has no sample line below it".to_owned());
    }
    Ok(load)
}

/// `_`, `_x3`, `-5s`, `-5sx3` or `-5s+1sx3`: start times, milliseconds before each sample.
fn start_times(item: &str) -> Result<Vec<Option<i64>>, String> {
    let invalid = || format!("invalid start time {item:?}");
    let count = |text: &str| text.parse::<usize>().ok().filter(|n| *n < 1_000_000).ok_or_else(invalid);
    let (value, times) = match item.split_once('x') {
        Some((value, times)) => (value, Some(count(times)?)),
        None => (item, None),
    };
    if value == "_" {
        return Ok(vec![None; times.unwrap_or(1)]);
    }
    let signed = |text: &str| {
        let ms = parse_duration(text.trim_start_matches(['+', '-'])).map_err(|_e| invalid())?;
        Ok::<i64, String>(if text.starts_with('-') { -ms } else { ms })
    };
    let Some(times) = times else { return Ok(vec![Some(signed(value)?)]) };
    let (first, step) = match value.get(1..).and_then(|v| v.find(['+', '-'])) {
        Some(at) => {
            let (first, step) = value.split_at(at + 1);
            (signed(first)?, signed(step)?)
        }
        None => (signed(value)?, 0),
    };
    Ok((0..=times as i64).map(|i| Some(first + i * step)).collect())
}

/// The first word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (first, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (first, rest.trim_start())
}

/// Steps over a word that must be there.
fn expect_word<'a>(text: &'a str, want: &str) -> Result<&'a str, String> {
    match word(text) {
        (got, rest) if got == want => Ok(rest),
        (got, _) => Err(format!("expected {want:?}, got {got:?}")),
    }
}

/// `from 0 to 1m step 10s …`: the three and the rest.
fn grid(text: &str) -> Result<(i64, i64, i64, &str), String> {
    let (from, rest) = word(expect_word(text, "from")?);
    let (to, rest) = word(expect_word(rest, "to")?);
    let (step, rest) = word(expect_word(rest, "step")?);
    let (start, end) = (milliseconds("start", from)?, milliseconds("end", to)?);
    if end < start {
        return Err(format!("the end {to} is before the start {from}"));
    }
    Ok((start, end, milliseconds("step", step)?, rest))
}

fn eval(line: &str, number: usize, lines: &mut Lines<'_>) -> Result<Eval, String> {
    let (command, rest) = word(line);
    let (kind, rest) = word(rest);
    let (times, query) = match kind {
        "instant" => {
            let (at, query) = word(expect_word(rest, "at")?);
            (Times::Instant(milliseconds("time", at)?), query)
        }
        "range" => {
            let (start, end, step, query) = grid(rest)?;
            (Times::Range { start, end, step }, query)
        }
        _ => return Err(format!("expected \"instant\" or \"range\", got {kind:?}")),
    };
    parse::parse_expr(query, &Options::ALL).map_err(|e| e.to_string())?;
    let mut eval = Eval {
        line: number,
        query: query.to_owned(),
        times,
        expected_grid: None,
        ordered: false,
        fail: None,
        warnings: Annotated::default(),
        infos: Annotated::default(),
        series: BTreeMap::new(),
        expected_scalar: None,
        expected_string: None,
    };
    match command {
        "eval" => {}
        "eval_fail" => eval.fail = Some(Pattern::Any),
        "eval_warn" => eval.warnings.wanted.push(Pattern::Any),
        "eval_info" => eval.infos.wanted.push(Pattern::Any),
        "eval_ordered" => eval.ordered = true,
        _ => return Err(format!("invalid command {command:?}")),
    }
    let old_fail = eval.fail.is_some();
    while let Some(line) = lines.in_block() {
        if old_fail && let Some(text) = line.strip_prefix("expected_fail_message") {
            eval.fail = Some(Pattern::Text(text.trim().to_owned()));
        } else if old_fail && let Some(text) = line.strip_prefix("expected_fail_regexp") {
            eval.fail = Some(regex(text.trim())?);
        } else if let Some(text) = line.strip_prefix("expect range vector") {
            let (start, end, step, _) = grid(text)?;
            eval.expected_grid = Some((start, end, step));
        } else if let Some(text) = line.strip_prefix("expect string") {
            eval.expected_string = Some(string_literal(text.trim())?);
        } else if word(line).0 == "expect" {
            eval.expect(word(line).1)?;
        } else if let Ok(v) = scalar(line) {
            eval.expected_scalar = Some(v);
        } else {
            eval.expect_series(line)?;
        }
    }
    Ok(eval)
}

impl Eval {
    /// `fail msg: …`, `no_warn`, `ordered` …
    fn expect(&mut self, text: &str) -> Result<(), String> {
        let (kind, rest) = word(text);
        let pattern = match rest.split_once(':') {
            _ if rest.is_empty() => Pattern::Any,
            Some(("msg", text)) => Pattern::Text(text.trim().to_owned()),
            Some(("regex", text)) => regex(text.trim())?,
            _ => return Err(format!("invalid expectation {text:?}")),
        };
        match kind {
            "fail" if self.fail.is_some() => return Err("more than one expected failure".to_owned()),
            "fail" => self.fail = Some(pattern),
            "warn" => self.warnings.wanted.push(pattern),
            "info" => self.infos.wanted.push(pattern),
            "no_warn" => self.warnings.none = true,
            "no_info" => self.infos.none = true,
            "ordered" => self.ordered = true,
            _ => return Err(format!("invalid expectation {text:?}")),
        }
        if (self.warnings.none && !self.warnings.wanted.is_empty())
            || (self.infos.none && !self.infos.wanted.is_empty())
        {
            return Err("annotations are both expected and forbidden".to_owned());
        }
        Ok(())
    }

    fn expect_series(&mut self, line: &str) -> Result<(), String> {
        let (labels, items) = parse::parse_series_description(line).map_err(|e| e.to_string())?;
        let instant = matches!(self.times, Times::Instant(_)) && self.expected_grid.is_none();
        if instant && items.iter().map(SeriesItem::count).fold(0, u64::saturating_add) > 1 {
            return Err("multiple values are expected of an instant query without \"expect range vector\"".to_owned());
        }
        let position = self.series.len();
        self.series.insert(labels, Expected { position, values: super::load::expand(&items)? });
        Ok(())
    }
}

/// A number alone on its line: the result is a scalar.
fn scalar(line: &str) -> Result<f64, String> {
    let (sign, digits) = match line.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, line.strip_prefix('+').unwrap_or(line)),
    };
    parse::parse_number(digits).map(|v| sign * v)
}

fn string_literal(text: &str) -> Result<String, String> {
    match parse::parse_expr(text, &Options::ALL) {
        Ok(parse::Expr::String(s)) => Ok(s.value),
        _ => Err(format!("{text:?} is not a quoted string")),
    }
}

fn regex(text: &str) -> Result<Pattern, String> {
    // Matchers are anchored, these expressions aren't.
    let matcher = Matcher::new(MatchOp::Regex, "", format!(".*(?:{text}).*")).map_err(|e| e.to_string())?;
    Ok(Pattern::Regex(Box::new(matcher)))
}
