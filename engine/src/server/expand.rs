//! Options that are YAML, given as content or as a file; `$(NAME)` in them, replaced by the environment.

use anyhow::{Context as _, bail};
use std::io::Read as _;

/// A larger file is none, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// A variable that is not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: $({name}) is not set in the environment")]
pub(crate) struct Unset {
    /// Line of the configuration, from 1.
    pub(crate) line: usize,
    /// The variable.
    pub(crate) name: String,
}

/// The text of an option that is given as content or as a file, with `$(NAME)` replaced by the environment; empty if none is.
///
/// # Errors
/// When both are given, or the file can't be read.
pub(crate) fn option(flag: &str, content: &str, file: &str) -> anyhow::Result<String> {
    let text = match (content.is_empty(), file.is_empty()) {
        (false, false) => bail!("--{flag} and --{flag}-file are two forms of one setting: give one of them"),
        (_, true) => content.to_owned(),
        (true, false) => {
            let mut text = String::new();
            let opened = std::fs::File::open(file).and_then(|f| f.take(MAX_BYTES).read_to_string(&mut text));
            opened.with_context(|| format!("--{flag}-file={file}"))?;
            text
        }
    };
    expand(&text, |name| std::env::var(name).ok()).map_err(|e| anyhow::anyhow!("--{flag}: {e}"))
}

/// Replaces every `$(NAME)`, where a name has letters, digits and underscores. Other uses of `$` stay as they are: they belong
/// to Prometheus's own syntax.
pub(crate) fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, Unset> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("$(") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let inner = from.get(2..).unwrap_or("");
        let length = inner.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        match inner.split_at_checked(length) {
            Some((name, after)) if length > 0 && after.starts_with(')') => {
                let line = 1 + text.len().checked_sub(from.len()).and_then(|n| text.get(..n)).map_or(0, newlines);
                out.push_str(&lookup(name).ok_or_else(|| Unset { line, name: name.to_owned() })?);
                rest = after.get(1..).unwrap_or("");
            }
            _ => {
                out.push_str("$(");
                rest = inner;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_names_and_leaves_the_rest() {
        let env = |n: &str| (n == "POD_NAME").then(|| "ops-0".to_owned());
        let text = "a: $(POD_NAME)\nb: $1 ${x} $( $(a-b) $()\nc: x$(POD_NAME)y";
        assert_eq!(expand(text, env).unwrap(), "a: ops-0\nb: $1 ${x} $( $(a-b) $()\nc: xops-0y");
    }

    #[test]
    fn an_unset_variable_is_named_with_its_line() {
        let error = expand("a: 1\nb: $(MISSING)\n", |_| None).unwrap_err();
        assert_eq!(error, Unset { line: 2, name: "MISSING".into() });
        assert!(error.to_string().contains("line 2: $(MISSING) is not set"));
    }
}
