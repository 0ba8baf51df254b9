//! YAML that others wrote, read without belief in its aliases: ten lines of references to references stand for gigabytes.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Options};

/// Reads a document. What its aliases stand for may be a little larger than the document itself, as in honest files, but
/// not a multiple of it.
///
/// # Errors
/// With line and column, when it is no YAML, has other fields than `T`, or repeats itself too often.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let mut options = Options::default();
    if !model::protection::off("yaml-aliases") {
        options.alias_limits.max_total_replayed_events = 4096 + text.len() / 4;
    }
    serde_saphyr::from_str_with_options(text, options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_read_and_their_abuse_is_refused() {
        let value: serde_json::Value = read("a: &x {k: v}\nb: *x\n").unwrap();
        assert_eq!(value["b"]["k"], "v");
        let laughs: String =
            (1..10).map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(","))).collect();
        let error = read::<serde_json::Value>(&format!("a0: &a0 lol\n{laughs}")).unwrap_err().to_string();
        assert!(error.contains("alias"), "{error}");
    }
}
