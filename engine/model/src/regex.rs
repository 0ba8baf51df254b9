//! Regular expressions as Prometheus means them: RE2 syntax, anchored on both ends, dot matches newline.

use regex_automata::meta;
use regex_automata::util::syntax;
use std::fmt;

/// Why an expression was refused, in the words of Go's `regexp/syntax`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegexError(pub String);

/// A compiled, fully anchored expression.
#[derive(Clone)]
pub struct Regex {
    source: String,
    meta: meta::Regex,
}

impl Regex {
    /// Compiles `source`.
    pub fn new(source: &str) -> Result<Self, RegexError> {
        let meta = meta::Builder::new()
            .syntax(syntax::Config::new().dot_matches_new_line(true))
            .configure(meta::Config::new().nfa_size_limit(Some(10 << 20)))
            .build(&format!("^(?:{source})$"))
            .map_err(|e| RegexError(format!("error parsing regexp: {e}")))?;
        Ok(Self { source: source.to_owned(), meta })
    }

    /// True if the whole of `value` matches.
    pub fn is_match(&self, value: &str) -> bool {
        self.meta.is_match(value)
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
