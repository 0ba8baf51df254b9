//! Protections that a debug build can switch off, so that each goal's negative run shows that its test has teeth.
//!
//! A protection is a check that keeps a promise: a checksum compared, a name refused. Its name says what it protects
//! (`chunk-crc`). `PANOPTES_BREAK=chunk-crc,object-name` switches those two off; docs/goals.md names the test that must
//! then fail, and the line that it fails with. Release builds have no such switch.

/// Whether the protection `name` is switched off. Always false in a release build.
///
/// Written at the check itself: `if !protection::off("chunk-crc") && crc != expected { … }`. The environment is read
/// once in a process.
#[inline]
#[must_use]
pub fn off(name: &str) -> bool {
    #[cfg(debug_assertions)]
    return listed().iter().any(|n| n == name);
    #[cfg(not(debug_assertions))]
    {
        let _ = name;
        false
    }
}

#[cfg(debug_assertions)]
fn listed() -> &'static [String] {
    static LISTED: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    LISTED.get_or_init(|| names(&std::env::var("PANOPTES_BREAK").unwrap_or_default()))
}

#[cfg(debug_assertions)]
fn names(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_list_of_names_and_nothing_off_by_itself() {
        assert_eq!(super::names(" chunk-crc, object-name,,"), ["chunk-crc", "object-name"]);
        assert!(!super::off("no-such-protection"));
    }
}
