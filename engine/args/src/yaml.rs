//! YAML that others wrote, read without belief in it: ten lines of references to references stand for gigabytes, and a text of
//! nothing but commas is many values in few bytes.

use serde::de::DeserializeOwned;
use serde_saphyr::{Error, Options};

/// A document may hold this many values, and one more per so many bytes: what a value becomes takes a hundred bytes and more.
const FREE_VALUES: usize = 8192;
const BYTES_PER_VALUE: usize = 12;
/// The same of what people write in one line where others take ten: `[{targets: ['a:1']}]`.
const DENSE_BYTES_PER_VALUE: usize = 4;
/// Errors show lines up to this length, in bytes.
const SHOWN_LINE: usize = 16 << 10;
/// The most values of a small document.
const SMALL_VALUES: usize = 1000;

/// Reads a document. What its aliases stand for may be a little larger than the document itself, as in honest files, but
/// not a multiple of it.
///
/// # Errors
/// With line and column, when it is no YAML, has other fields than `T`, repeats itself too often, or has more values than real ones of its length.
pub fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    read_up_to(text, FREE_VALUES + text.len() / BYTES_PER_VALUE)
}

/// As [`read`], of scrape configurations and rules, which may have a value every four bytes: a Secret or a ConfigMap, where they
/// come from, holds a megabyte.
///
/// # Errors
/// As [`read`].
pub fn read_dense<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    read_up_to(text, FREE_VALUES + text.len() / DENSE_BYTES_PER_VALUE)
}

/// As [`read`], of a document that has some dozens of values however long they are: a bucket's configuration.
///
/// # Errors
/// As [`read`], and with more than 1000 values.
pub fn read_small<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    read_up_to(text, SMALL_VALUES)
}

fn read_up_to<T: DeserializeOwned>(text: &str, values: usize) -> Result<T, Error> {
    let mut options = Options::default();
    if !model::protection::off("yaml-aliases") {
        options.alias_limits.max_total_replayed_events = 4096 + text.len() / 4;
    }
    if let Some(budget) = &mut options.budget
        && !model::protection::off("yaml-values")
    {
        budget.max_nodes = values;
    }
    // An error shows the lines around it, copied many times; lines that nobody can read are not worth it.
    options.with_snippet = text.lines().all(|line| line.len() <= SHOWN_LINE);
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
        let many: String = (0..10_000).map(|n| format!("- address: 10.0.{}.{}:10901\n", n / 250, n % 250)).collect();
        assert_eq!(read::<Vec<serde_json::Value>>(&many).unwrap().len(), 10_000);
        let error = read::<Vec<u8>>(&format!("[{}]", "1,".repeat(10_000))).unwrap_err().to_string();
        assert!(error.contains("nodes"), "{error}");
    }
}
