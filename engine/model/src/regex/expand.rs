//! Replacement templates, as Go's `Regexp.Expand` reads them.

use super::class::is_name_char;

/// `template` with its groups filled in: `group` gives the text of a group by number, if it took part in the match.
pub(super) fn expand<'v>(
    template: &str,
    names: &[(String, usize)],
    group: impl Fn(usize) -> Option<&'v str>,
) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some((name, after)) = reference(after) else {
            out.push('$'); // no name follows: an ordinary dollar
            rest = after;
            continue;
        };
        rest = after;
        let text = match number(name) {
            Some(n) => group(n),
            None => names.iter().filter(|(n, _)| n == name).find_map(|(_, n)| group(*n)),
        };
        out.push_str(text.unwrap_or_default());
    }
    out.push_str(rest);
    out
}

/// The longest `name` or `{name}` at the start, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let (braced, text) = match text.strip_prefix('{') {
        Some(inner) => (true, inner),
        None => (false, text),
    };
    let end = text.find(|c| !is_name_char(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    if name.is_empty() {
        return None;
    }
    if braced { Some((name, rest.strip_prefix('}')?)) } else { Some((name, rest)) }
}

/// A group's number: decimal digits, no leading zero. Numbers too large to be one are names nobody has.
fn number(name: &str) -> Option<usize> {
    if name.len() > 1 && name.starts_with('0') || name.len() > 9 || !name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    name.parse().ok()
}
