//! Matchers between the wire and `model`.

use crate::thanos::{LabelMatcher, label_matcher::Type};
use model::matcher::Compiled;
use model::regex::RegexError;
use model::{MatchOp, Matcher};

/// Most matchers that one request may carry.
pub const MAX_MATCHERS: usize = 1000;

/// Why a foreign matcher was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MatcherError {
    /// The kind of comparison is not one of the four that we know.
    #[error("matcher {index} on label {name:?} has the unknown type {kind}: expected 0 (=), 1 (!=), 2 (=~) or 3 (!~)")]
    UnknownType {
        /// Position in the request.
        index: usize,
        /// The label's name.
        name: String,
        /// The number on the wire.
        kind: i32,
    },
    /// The regular expression is refused.
    #[error("matcher {index} on label {name:?}: {source}")]
    Regex {
        /// Position in the request.
        index: usize,
        /// The label's name.
        name: String,
        /// What is wrong with it.
        source: RegexError,
    },
    /// More than [`MAX_MATCHERS`].
    #[error("the request has {0} matchers, more than {MAX_MATCHERS}")]
    TooMany(usize),
}

/// Reads the matchers of a request.
pub fn decode(wire: &[LabelMatcher]) -> Result<Vec<Matcher>, MatcherError> {
    if wire.len() > MAX_MATCHERS {
        return Err(MatcherError::TooMany(wire.len()));
    }
    let mut compiled = Compiled::default();
    wire.iter().enumerate().map(|(index, m)| decode_one(index, m, &mut compiled)).collect()
}

fn decode_one(index: usize, m: &LabelMatcher, compiled: &mut Compiled) -> Result<Matcher, MatcherError> {
    let op = match Type::try_from(m.r#type) {
        Ok(Type::Eq) => MatchOp::Equal,
        Ok(Type::Neq) => MatchOp::NotEqual,
        Ok(Type::Re) => MatchOp::Regex,
        Ok(Type::Nre) => MatchOp::NotRegex,
        Err(_) => return Err(MatcherError::UnknownType { index, name: m.name.clone(), kind: m.r#type }),
    };
    let matcher = Matcher::new(op, m.name.as_str(), m.value.as_str());
    let counted = matcher.and_then(|matcher| compiled.add(&matcher).map(|()| matcher));
    counted.map_err(|source| MatcherError::Regex { index, name: m.name.clone(), source })
}

/// Writes matchers.
pub fn encode<'a>(matchers: impl IntoIterator<Item = &'a Matcher>) -> Vec<LabelMatcher> {
    matchers
        .into_iter()
        .map(|m| {
            let kind = match m.op {
                MatchOp::Equal => Type::Eq,
                MatchOp::NotEqual => Type::Neq,
                MatchOp::Regex => Type::Re,
                MatchOp::NotRegex => Type::Nre,
            };
            LabelMatcher { r#type: kind.into(), name: m.name.clone(), value: m.value.clone() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let all = [MatchOp::Equal, MatchOp::NotEqual, MatchOp::Regex, MatchOp::NotRegex];
        let matchers: Vec<Matcher> = all.iter().map(|op| Matcher::new(*op, "job", "a.*").unwrap()).collect();
        assert_eq!(decode(&encode(&matchers)).unwrap(), matchers);
    }

    #[test]
    fn refuses_by_name() {
        let wire = |kind, value: &str| LabelMatcher { r#type: kind, name: "job".into(), value: value.into() };
        let unknown = decode(&[wire(7, "x")]).unwrap_err().to_string();
        assert!(unknown.contains("\"job\"") && unknown.contains("type 7"), "{unknown}");
        let regex = decode(&[wire(0, "x"), wire(2, "(")]).unwrap_err().to_string();
        assert!(regex.contains("matcher 1 on label \"job\""), "{regex}");
        assert!(decode(&vec![wire(0, "x"); MAX_MATCHERS + 1]).is_err());
    }
}
