//! JSON as Go's `encoding/json` writes it with tabs, and a bound on what foreign JSON may cost.

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use std::io::{self, Write};

/// Fields that a document has beside those that we know: kept when it is written again.
pub type Unknown = serde_json::Map<String, serde_json::Value>;

/// A document may hold this many values plus one per 16 bytes, so that memory stays within 16 × input.
const FREE_VALUES: usize = 4096;
const BYTES_PER_VALUE: usize = 16;

/// Reads a document of `file`.
///
/// # Errors
/// [`ErrorKind::Corrupt`] with the byte where reading stopped.
pub fn read<T: DeserializeOwned>(file: &str, section: &'static str, bytes: &[u8]) -> Result<T> {
    parse(file, section, bytes, BYTES_PER_VALUE, whole)
}

/// Reads the first document of `file` and leaves what follows it alone, as Go's `json.Decoder` does.
///
/// # Errors
/// As [`read`].
pub fn read_first<T: DeserializeOwned>(file: &str, section: &'static str, bytes: &[u8]) -> Result<T> {
    parse(file, section, bytes, BYTES_PER_VALUE, |d| T::deserialize(d))
}

/// As [`read`], of a document without white space and with few fields that we don't know: one value per `bytes_per_value`
/// bytes is allowed. Half the bytes per value may take twice the memory.
///
/// # Errors
/// As [`read`].
pub fn read_dense<T: DeserializeOwned>(
    file: &str,
    section: &'static str,
    bytes: &[u8],
    bytes_per_value: usize,
) -> Result<T> {
    parse(file, section, bytes, bytes_per_value, whole)
}

type Slice<'a> = serde_json::Deserializer<serde_json::de::SliceRead<'a>>;

/// The only document that there is.
fn whole<T: DeserializeOwned>(d: &mut Slice<'_>) -> serde_json::Result<T> {
    T::deserialize(&mut *d).and_then(|value| d.end().map(|()| value))
}

fn parse<T>(
    file: &str,
    section: &'static str,
    bytes: &[u8],
    bytes_per_value: usize,
    take: impl FnOnce(&mut Slice<'_>) -> serde_json::Result<T>,
) -> Result<T> {
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{' | b':')).count();
    if values > FREE_VALUES + bytes.len() / bytes_per_value.max(1) {
        return Err(Error::corrupt(file, section, 0, "the JSON holds more values than a real one of its size"));
    }
    take(&mut serde_json::Deserializer::from_slice(bytes)).map_err(|e| {
        let start: usize =
            bytes.split_inclusive(|b| *b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
        let offset = start.saturating_add(e.column().saturating_sub(1)).min(bytes.len());
        Error::corrupt(file, section, offset as u64, format!("not valid: {e}"))
    })
}

/// The bytes of a document as Go's `json.Encoder` with `SetIndent("", "\t")` writes them, with a newline at the end.
///
/// # Errors
/// When `value` has no JSON form (a map whose keys are no texts).
pub fn write<T: Serialize>(file: &str, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(1024);
    let tabs = GoEscapes(PrettyFormatter::with_indent(b"\t"));
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, tabs)).map_err(|e| no_form(file, &e))?;
    out.push(b'\n');
    Ok(out)
}

/// The bytes of a document as Go's `json.Marshal` writes them: one line, no newline.
///
/// # Errors
/// As [`write`].
pub fn write_compact<T: Serialize>(file: &str, value: &T) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(256);
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoEscapes(CompactFormatter)))
        .map_err(|e| no_form(file, &e))?;
    Ok(out)
}

fn no_form(file: &str, error: &serde_json::Error) -> Error {
    Error::refused(file, "document", format!("it has no JSON form: {error}"))
}

/// Go writes null for an empty list, map or text that was never set; both mean the same.
pub fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}

/// Go's escapes: `<`, `>`, `&` and the two Unicode line separators are written as `\u….`.
struct GoEscapes<F>(F);

impl<F: Formatter> Formatter for GoEscapes<F> {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, tail) = rest.split_at(at);
            w.write_all(plain.as_bytes())?;
            let mut chars = tail.chars();
            if let Some(c) = chars.next() {
                write!(w, "\\u{:04x}", u32::from(c))?;
            }
            rest = chars.as_str();
        }
        w.write_all(rest.as_bytes())
    }
    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_array(w)
    }
    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array(w)
    }
    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }
    fn end_array_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_array_value(w)
    }
    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object(w)
    }
    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object(w)
    }
    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }
    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.begin_object_value(w)
    }
    fn end_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> io::Result<()> {
        self.0.end_object_value(w)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn written_as_go_does() {
        let value: BTreeMap<&str, serde_json::Value> =
            serde_json::from_str(r#"{"b": [], "a": {"x": [1, "<&>\u2028\u0001\t\"é"]}, "c": {}}"#).unwrap();
        let text = String::from_utf8(write("f", &value).unwrap()).unwrap();
        let go = "{\n\t\"a\": {\n\t\t\"x\": [\n\t\t\t1,\n\t\t\t\"\\u003c\\u0026\\u003e\\u2028\\u0001\\t\\\"é\"\n\t\t]\n\t},\n\t\"b\": [],\n\t\"c\": {}\n}\n";
        assert_eq!(text, go);
    }

    #[test]
    fn errors_name_the_byte_and_values_are_bounded() {
        let error = read::<serde_json::Value>("meta.json", "document", b"{\n\t\"a\": x}").unwrap_err();
        assert_eq!((error.section, error.offset), ("document", 8));
        let flood = format!("[{}0]", "0,".repeat(50_000));
        let error = read::<serde_json::Value>("meta.json", "document", flood.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("more values"), "{error}");
        let deep = "[".repeat(4000);
        assert!(read::<serde_json::Value>("meta.json", "document", deep.as_bytes()).is_err());
    }
}
