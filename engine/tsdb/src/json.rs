//! JSON as Go's `encoding/json` writes it with tabs, and a bound on what foreign JSON may cost.

use crate::error::{Error, Result};
use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};
use std::fmt;
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
    parse(file, section, bytes, whole, whole)
}

/// Reads the first document of `file` and leaves what follows it alone, as Go's `json.Decoder` does.
///
/// # Errors
/// As [`read`].
pub fn read_first<T: DeserializeOwned>(file: &str, section: &'static str, bytes: &[u8]) -> Result<T> {
    parse(file, section, bytes, first, first)
}

/// The only document that there is.
fn whole<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    let mut d = serde_json::Deserializer::from_slice(bytes);
    T::deserialize(&mut d).and_then(|value| d.end().map(|()| value))
}

/// The first document of several.
fn first<T: DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    T::deserialize(&mut serde_json::Deserializer::from_slice(bytes))
}

/// A value in which of a key that is repeated the last one counts, and objects under it are put together: as Go reads into a
/// structure.
struct LastWins(serde_json::Value);

impl<'de> Deserialize<'de> for LastWins {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = serde_json::Value;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_bool<E>(self, v: bool) -> std::result::Result<Self::Value, E> {
                Ok(v.into())
            }

            fn visit_i64<E>(self, v: i64) -> std::result::Result<Self::Value, E> {
                Ok(v.into())
            }

            fn visit_u64<E>(self, v: u64) -> std::result::Result<Self::Value, E> {
                Ok(v.into())
            }

            fn visit_f64<E>(self, v: f64) -> std::result::Result<Self::Value, E> {
                Ok(v.into())
            }

            fn visit_str<E>(self, v: &str) -> std::result::Result<Self::Value, E> {
                Ok(v.into())
            }

            fn visit_unit<E>(self) -> std::result::Result<Self::Value, E> {
                Ok(serde_json::Value::Null)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> std::result::Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(LastWins(item)) = all.next_element()? {
                    items.push(item);
                }
                Ok(items.into())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> std::result::Result<Self::Value, A::Error> {
                let mut fields = Unknown::new();
                while let Some((key, LastWins(value))) = all.next_entry::<String, LastWins>()? {
                    put(&mut fields, key, value);
                }
                Ok(fields.into())
            }
        }

        d.deserialize_any(Any).map(Self)
    }
}

fn put(fields: &mut Unknown, key: String, value: serde_json::Value) {
    use serde_json::Value::Object;
    match (fields.get_mut(&key), value) {
        (Some(Object(before)), Object(more)) => more.into_iter().for_each(|(k, v)| put(before, k, v)),
        (_, value) => {
            fields.insert(key, value);
        }
    }
}

fn parse<T: DeserializeOwned>(
    file: &str,
    section: &'static str,
    bytes: &[u8],
    take: impl FnOnce(&[u8]) -> serde_json::Result<T>,
    any: impl FnOnce(&[u8]) -> serde_json::Result<LastWins>,
) -> Result<T> {
    let values = bytes.iter().filter(|b| matches!(b, b',' | b'[' | b'{' | b':')).count();
    if values > FREE_VALUES + bytes.len() / BYTES_PER_VALUE {
        return Err(Error::corrupt(file, section, 0, "the JSON holds more values than a real one of its size"));
    }
    let taken = take(bytes).or_else(|e| match any(bytes) {
        // serde's word for it; there is no other way to tell it from what is really wrong.
        Ok(LastWins(value)) if e.is_data() && e.to_string().starts_with("duplicate field") => T::deserialize(value),
        _ => Err(e),
    });
    taken.map_err(|e| {
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
    fn of_a_repeated_key_the_last_one_counts() {
        let twice = br#"{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":1,"minTime":2,"maxTime":3,"version":1,
            "stats":{"numSamples":7},"stats":{"numSeries":8},"x":1,"x":2} rest"#;
        let meta = crate::BlockMeta::read("m", twice).unwrap();
        assert_eq!((meta.min_time, meta.stats.num_samples, meta.stats.num_series), (2, 7, 8));
        assert_eq!(meta.unknown["x"], 2);
        let error = read::<crate::BlockMeta>("m", "d", twice).unwrap_err().to_string();
        assert!(error.contains("not valid"), "{error}");
        let wrong = br#"{"minTime":1,"minTime":"two"}"#;
        assert!(crate::BlockMeta::read("m", wrong).is_err());
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
