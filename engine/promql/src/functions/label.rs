//! Functions that look at labels only.

use crate::exec::QueryError;
use model::labels::{LabelsBuilder, METRIC_NAME};
use model::regex::Regex;
use model::{Labels, MatchOp, Matcher};

/// `label_replace`, compiled.
pub(crate) struct Replace<'a> {
    regex: Regex,
    target: &'a str,
    template: &'a str,
    source: &'a str,
}

impl<'a> Replace<'a> {
    pub(crate) fn new(target: &'a str, template: &'a str, source: &'a str, regex: &'a str) -> Result<Self, QueryError> {
        let invalid = || QueryError::execution(format!("invalid regular expression in label_replace(): {regex}"));
        let compiled = Regex::new(regex).map_err(|_e| invalid())?;
        check_name("destination", "label_replace", target)?;
        compiled.check_groups().map_err(|e| QueryError::execution(format!("label_replace(): {e}")))?;
        Ok(Self { regex: compiled, target, template, source })
    }

    /// The new labels; `None` if the expression does not match.
    pub(crate) fn apply(&self, labels: &Labels) -> Result<Option<Labels>, QueryError> {
        let value = labels.value(self.source);
        if !self.regex.is_match(value) {
            return Ok(None);
        }
        // A group is at most the value.
        let references = self.template.matches('$').count();
        check_size("label_replace", self.template.len().saturating_add(references.saturating_mul(value.len())))?;
        Ok(self.regex.captures_expand(value, self.template).map(|text| labels.with(self.target, &text)))
    }
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
    if name.is_empty() { Err(invalid_name(role, function, name)) } else { Ok(()) }
}

pub(crate) fn invalid_name(role: &str, function: &str, name: &str) -> QueryError {
    QueryError::execution(format!("invalid {role} label name in {function}(): {name}"))
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
        assert_eq!(dst(apply("$0", "source-value[[-]10")).as_deref(), Some("source-value-10"), "a class of RE2");
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
