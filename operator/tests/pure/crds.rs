//! The definitions in `crds/` are those that the types give, and small enough for an annotation.

use std::path::Path;

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds")
}

#[test]
fn the_files_are_not_stale() -> anyhow::Result<()> {
    let files = operator::api::crd_files()?;
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(folder())?;
        for (name, text) in &files {
            std::fs::write(folder().join(name), text)?;
        }
    }
    for (name, text) in &files {
        let stored = std::fs::read_to_string(folder().join(name)).unwrap_or_default();
        assert!(&stored == text, "crds/{name} is stale: run UPDATE_GOLDEN=1 cargo test -p operator --test pure");
    }
    let mut stored: Vec<_> = std::fs::read_dir(folder())?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<std::io::Result<_>>()?;
    stored.sort();
    assert_eq!(stored, files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>());
    Ok(())
}

#[test]
fn they_fit_into_an_annotation() -> anyhow::Result<()> {
    for (name, text) in operator::api::crd_files()? {
        assert!(text.len() < 240_000, "{name} has {} bytes", text.len());
    }
    Ok(())
}

/// A field without a bound makes the API server refuse CEL rules, and lets one object fill etcd.
#[test]
fn every_string_list_and_map_is_bounded() -> anyhow::Result<()> {
    fn walk(at: &str, schema: &serde_json::Value, found: &mut Vec<String>) {
        let text = |key: &str| schema.get(key).and_then(serde_json::Value::as_str);
        let bounded = |key: &str| schema.get(key).is_some_and(serde_json::Value::is_u64);
        match text("type") {
            Some("string")
                if !bounded("maxLength") && schema.get("enum").is_none() && text("format") != Some("date-time") =>
            {
                found.push(format!("{at}: maxLength"));
            }
            Some("array") if !bounded("maxItems") => found.push(format!("{at}: maxItems")),
            _ => {}
        }
        if schema.get("additionalProperties").is_some() && !bounded("maxProperties") && !at.starts_with("status") {
            found.push(format!("{at}: maxProperties"));
        }
        if let Some(properties) = schema.get("properties").and_then(serde_json::Value::as_object) {
            for (name, inner) in properties {
                walk(&format!("{at}.{name}"), inner, found);
            }
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{at}[]"), items, found);
        }
    }
    for crd in operator::api::crds() {
        let value = serde_json::to_value(&crd)?;
        let schema = &value["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
        let mut found = Vec::new();
        walk("spec", &schema["spec"], &mut found);
        walk("status", &schema["status"], &mut found);
        assert!(found.is_empty(), "unbounded: {found:#?}");
    }
    Ok(())
}
