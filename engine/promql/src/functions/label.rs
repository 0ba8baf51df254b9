//! Functions that look at labels only.

use crate::exec::QueryError;
use model::labels::{LabelsBuilder, METRIC_NAME};
use model::{Labels, MatchOp, Matcher};
use regex_automata::meta;
use regex_automata::util::captures::Captures;
use regex_automata::util::syntax;

/// `label_replace`, compiled.
pub(crate) struct Replace<'a> {
    regex: meta::Regex,
    target: &'a str,
    template: &'a str,
    source: &'a str,
}

impl<'a> Replace<'a> {
    pub(crate) fn new(target: &'a str, template: &'a str, source: &'a str, regex: &'a str) -> Result<Self, QueryError> {
        let invalid = || QueryError::execution(format!("invalid regular expression in label_replace(): {regex}"));
        // The shared check refuses what RE2 would; here the groups are needed too.
        model::regex::Regex::new(regex).map_err(|_e| invalid())?;
        let compiled = meta::Builder::new()
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .configure(meta::Config::new().nfa_size_limit(Some(10 << 20)))
            .build(&format!("^(?:{regex})$"))
            .map_err(|_e| invalid())?;
        check_name("destination", "label_replace", target)?;
        Ok(Self { regex: compiled, target, template, source })
    }

    /// The new labels; `None` if the expression does not match.
    pub(crate) fn apply(&self, labels: &Labels) -> Result<Option<Labels>, QueryError> {
        let value = labels.value(self.source);
        let mut groups = self.regex.create_captures();
        self.regex.captures(value, &mut groups);
        if !groups.is_match() {
            return Ok(None);
        }
        // A group is at most the value.
        let references = self.template.matches('$').count();
        check_size("label_replace", self.template.len().saturating_add(references.saturating_mul(value.len())))?;
        Ok(Some(labels.with(self.target, &self.fill_in(&groups, value))))
    }

    /// Go's template: `$1`, `$name`, `${name}`, `$$`; a group that does not exist is empty.
    fn fill_in(&self, groups: &Captures, value: &str) -> String {
        let mut out = String::new();
        let mut rest = self.template;
        while let Some(at) = rest.find('$') {
            out.push_str(rest.get(..at).unwrap_or(""));
            rest = rest.get(at + 1..).unwrap_or("");
            if let Some(tail) = rest.strip_prefix('$') {
                out.push('$');
                rest = tail;
                continue;
            }
            let Some((name, tail)) = group_name(rest) else {
                out.push('$');
                continue;
            };
            rest = tail;
            let span = match name.parse::<usize>() {
                Ok(i) if name.bytes().all(|b| b.is_ascii_digit()) => groups.get_group(i),
                _ => groups.get_group_by_name(name),
            };
            if let Some(s) = span {
                out.push_str(value.get(s.start..s.end).unwrap_or(""));
            }
        }
        out.push_str(rest);
        out
    }
}

/// The name behind a `$`, and what follows.
fn group_name(s: &str) -> Option<(&str, &str)> {
    let word = |s: &str| s.find(|c: char| !(c == '_' || c.is_alphanumeric())).unwrap_or(s.len());
    if let Some(inner) = s.strip_prefix('{') {
        let end = word(inner);
        let name = inner.get(..end).filter(|n| !n.is_empty())?;
        return inner.get(end..)?.strip_prefix('}').map(|tail| (name, tail));
    }
    let end = word(s);
    s.get(..end).filter(|n| !n.is_empty()).zip(s.get(end..))
}

/// Bytes of the longest label value that functions make: nested calls double it each time.
const MAX_VALUE: usize = 1 << 20;

fn check_size(function: &str, bytes: usize) -> Result<(), QueryError> {
    if bytes > MAX_VALUE {
        return Err(QueryError::execution(format!(
            "{function}() would make a label value of up to {bytes} bytes, more than the limit of {MAX_VALUE}"
        )));
    }
    Ok(())
}

fn check_name(role: &str, function: &str, name: &str) -> Result<(), QueryError> {
    if name.is_empty() {
        return Err(QueryError::execution(format!("invalid {role} label name in {function}(): {name}")));
    }
    Ok(())
}

/// `label_join`: checks the names.
pub(crate) fn check_join(target: &str, sources: &[&str]) -> Result<(), QueryError> {
    for source in sources {
        check_name("source", "label_join", source)?;
    }
    check_name("destination", "label_join", target)
}

/// `label_join` on one label set.
pub(crate) fn join(labels: &Labels, target: &str, separator: &str, sources: &[&str]) -> Result<Labels, QueryError> {
    let values: Vec<&str> = sources.iter().map(|s| labels.value(s)).collect();
    check_size("label_join", values.iter().map(|v| v.len() + separator.len()).sum())?;
    Ok(labels.with(target, &values.join(separator)))
}

/// The labels that an absent series of this selector would surely have. A label that is named twice is dropped, also by
/// a negative matcher in front: Prometheus' storage moves those to the end before the engine looks at them.
pub(crate) fn absent_labels(matchers: &[Matcher]) -> Labels {
    let mut b = LabelsBuilder::default();
    let mut seen: Vec<&str> = Vec::new();
    let negative = |m: &&Matcher| matches!(m.op, MatchOp::NotEqual | MatchOp::NotRegex) && m.matches_empty();
    let (last, first): (Vec<&Matcher>, Vec<&Matcher>) = matchers.iter().partition(negative);
    for m in first.into_iter().chain(last).filter(|m| m.name != METRIC_NAME) {
        if m.op == MatchOp::Equal && !seen.contains(&m.name.as_str()) {
            b.set(&m.name, &m.value);
            seen.push(&m.name);
        } else {
            b.remove(&m.name);
        }
    }
    b.build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_with_groups() {
        let l = Labels::from_pairs([("src", "source-value-10")]);
        let apply = |template, regex| Replace::new("dst", template, "src", regex).unwrap().apply(&l).unwrap();
        let dst = |l: Option<Labels>| l.map(|l| l.value("dst").to_owned());
        assert_eq!(dst(apply("to-$1", "source-value-(.*)")).as_deref(), Some("to-10"));
        assert_eq!(dst(apply("${x}-$$-$9", "source-value-(?P<x>.*)")).as_deref(), Some("10-$-"));
        assert_eq!(dst(apply("$1_x", "source-value-(.*)")).as_deref(), Some(""));
        assert!(apply("x", "value-.*").is_none(), "anchored");
        assert!(Replace::new("dst", "", "src", "(").is_err());
        assert!(Replace::new("", "", "src", "x").is_err());
    }

    #[test]
    fn absent_series_have_the_certain_labels() {
        let m = [
            Matcher::equal(METRIC_NAME, "x"),
            Matcher::equal("job", "a"),
            Matcher::equal("job", "b"),
            Matcher::equal("foo", "bar"),
        ];
        assert_eq!(absent_labels(&m), Labels::from_pairs([("foo", "bar")]));
        let m = [Matcher::new(MatchOp::NotEqual, "job", "b").unwrap(), Matcher::equal("job", "a")];
        assert_eq!(absent_labels(&m), Labels::empty());
    }
}
