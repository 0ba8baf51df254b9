//! External labels: what a store adds to all its series, and what that means for a request.

use model::{Labels, Matcher};

/// Checks `matchers` on names of `external`, and returns the others; `None` if one of them does not match, so that nothing
/// here can. A matcher on a name that is not external stays, even if it matches the empty value.
pub fn narrow(external: &Labels, matchers: Vec<Matcher>) -> Option<Vec<Matcher>> {
    let mut rest = Vec::with_capacity(matchers.len());
    for m in matchers {
        match external.get(&m.name) {
            Some(value) if !m.matches(value) => return None,
            Some(_) => {}
            None => rest.push(m),
        }
    }
    Some(rest)
}

/// Whether no matcher on a name of `external` fails, so that series here may match.
pub fn touches(external: &Labels, matchers: &[Matcher]) -> bool {
    matchers.iter().all(|m| external.get(&m.name).is_none_or(|value| m.matches(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::MatchOp;

    #[test]
    fn external_labels_are_answered_here() {
        let external = Labels::from_pairs([("cluster", "ops"), ("replica", "0")]);
        let m = |op, n: &str, v: &str| Matcher::new(op, n, v).unwrap();
        let rest = narrow(&external, vec![m(MatchOp::Regex, "cluster", "o.*"), m(MatchOp::Equal, "job", "x")]);
        assert_eq!(rest.unwrap(), [m(MatchOp::Equal, "job", "x")]);
        assert!(touches(&external, &[m(MatchOp::Regex, "cluster", "o.*"), m(MatchOp::Equal, "job", "x")]));
        assert!(!touches(&external, &[m(MatchOp::Equal, "cluster", "prod")]));
        assert!(narrow(&external, vec![m(MatchOp::Equal, "cluster", "prod")]).is_none());
        assert!(narrow(&external, vec![m(MatchOp::NotRegex, "replica", "0|1")]).is_none());
    }
}
