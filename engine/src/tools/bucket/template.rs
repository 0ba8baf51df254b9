//! The part of Go's templates that `ls --output` needs: text, and fields of meta.json between `{{` and `}}`.

use serde_json::Value;
use tsdb::BlockMeta;

/// Go's names of fields that have other ones in JSON, level by level.
const NAMES: &[(&str, &str)] = &[
    ("ULID", "ulid"),
    ("SegmentFiles", "segment_files"),
    ("UploadTime", "upload_time"),
    ("IndexStats", "index_stats"),
    ("RelPath", "rel_path"),
    ("SizeBytes", "size_bytes"),
];

/// A template that was understood.
pub(super) struct Template(Vec<Part>);

enum Part {
    Text(String),
    Field(Vec<String>),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// When it holds more than fields: a sentence that says what is possible.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            parts.push(Part::Text(before.to_owned()));
            let Some((inside, after)) = after.split_once("}}") else {
                anyhow::bail!("--output: {{{{ without }}}} in {text:?}");
            };
            let path = inside.trim();
            let fields: Option<Vec<String>> = path.strip_prefix('.').map(|p| p.split('.').map(str::to_owned).collect());
            let plain = |f: &String| !f.is_empty() && f.chars().all(|c| c.is_alphanumeric() || c == '_');
            match fields.filter(|f| f.iter().all(plain)) {
                Some(fields) => parts.push(Part::Field(fields)),
                None => anyhow::bail!(
                    "--output: {{{{{inside}}}}} is more than a field; here a template holds fields of meta.json as \
                     {{{{.ULID}}}} or {{{{.Thanos.Labels.cluster}}}}; for all else pipe `--output=json` into jq"
                ),
            }
            rest = after;
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Self(parts))
    }

    /// The line for a block.
    ///
    /// # Errors
    /// When a field is not one of meta.json.
    pub(super) fn line(&self, meta: &BlockMeta) -> anyhow::Result<String> {
        let document = serde_json::to_value(meta)?;
        let mut out = String::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field(path) => print(&mut out, look_up(&document, path)?),
            }
        }
        Ok(out)
    }
}

/// `None` for what is not there: a label, or a field that is left out when it is zero.
fn look_up<'a>(document: &'a Value, path: &[String]) -> anyhow::Result<Option<&'a Value>> {
    let mut value = document;
    for (depth, name) in path.iter().enumerate() {
        let in_labels = path.get(depth.wrapping_sub(1)).is_some_and(|parent| parent == "Labels");
        let key = if in_labels { name.clone() } else { json_name(name) };
        match value.get(&key) {
            Some(inner) => value = inner,
            None if in_labels || OPTIONAL.contains(&name.as_str()) => return Ok(None),
            None => anyhow::bail!("--output: meta.json has no field .{}", path.join(".")),
        }
    }
    Ok(Some(value))
}

/// Fields that are left out of meta.json when they are zero.
const OPTIONAL: &[&str] = &[
    "NumSamples",
    "NumFloatSamples",
    "NumHistogramSamples",
    "NumSeries",
    "NumChunks",
    "NumTombstones",
    "Deletable",
    "Failed",
    "Parents",
    "Sources",
    "Hints",
    "SegmentFiles",
    "Files",
    "Thanos",
];

fn json_name(go: &str) -> String {
    if let Some((_, json)) = NAMES.iter().find(|(name, _)| *name == go) {
        return (*json).to_owned();
    }
    let mut chars = go.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// As Go's templates print a value.
fn print(out: &mut String, value: Option<&Value>) {
    match value {
        None => out.push_str("<no value>"),
        Some(Value::String(s)) => out.push_str(s),
        Some(Value::Array(all)) => {
            out.push('[');
            for (i, v) in all.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                print(out, Some(v));
            }
            out.push(']');
        }
        Some(Value::Object(all)) => {
            out.push_str("map[");
            for (i, (k, v)) in all.iter().enumerate() {
                if i > 0 {
                    out.push(' ');
                }
                out.push_str(k);
                out.push(':');
                print(out, Some(v));
            }
            out.push(']');
        }
        Some(other) => out.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_nothing_else() {
        let text = r#"{"ulid":"01ARZ3NDEKTSV4RRFFQ69G5FAV","minTime":1,"maxTime":2,"version":1,
            "compaction":{"level":2,"sources":["01ARZ3NDEKTSV4RRFFQ69G5FAV"]},"thanos":{"labels":{"b":"x","a":"y"}}}"#;
        let meta = BlockMeta::read("meta.json", text.as_bytes()).unwrap();
        let line = |t: &str| Template::parse(t).and_then(|t| t.line(&meta)).map_err(|e| e.to_string());
        assert_eq!(
            line("{{.ULID}} {{ .MinTime }}-{{.Compaction.Level}} {{.Thanos.Labels}} {{.Thanos.Labels.nope}}").unwrap(),
            "01ARZ3NDEKTSV4RRFFQ69G5FAV 1-2 map[a:y b:x] <no value>"
        );
        assert_eq!(line("{{.Compaction.Sources}}").unwrap(), "[01ARZ3NDEKTSV4RRFFQ69G5FAV]");
        assert!(line("{{range .X}}").unwrap_err().contains("pipe `--output=json` into jq"));
        assert!(line("{{.Nope}}").unwrap_err().contains("no field .Nope"));
        assert!(line("{{.ULID").unwrap_err().contains("without"));
    }
}
