//! Names in listings that no client library takes: directory markers (`a/`), empty segments (`a//b`), `.` and `..`. They are
//! none of ours, and one of them must not make a whole bucket unreadable.

use bytes::Bytes;

/// The elements that hold a name, in S3's and GCS's XML and in Azure's.
const ITEMS: [(&str, &str, &str, &str); 4] = [
    ("<Contents>", "</Contents>", "<Key>", "</Key>"),
    ("<CommonPrefixes>", "</CommonPrefixes>", "<Prefix>", "</Prefix>"),
    ("<Blob>", "</Blob>", "<Name>", "</Name>"),
    ("<BlobPrefix>", "</BlobPrefix>", "<Name>", "</Name>"),
];

/// A page of a listing without the items that have such names.
pub(super) fn without_foreign(page: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&page) else { return page };
    let mut out: Option<String> = None;
    for (open, close, name_open, name_close) in ITEMS {
        let current = out.as_deref().unwrap_or(text);
        let is_prefix = name_open == "<Prefix>" || open == "<BlobPrefix>";
        if let Some(kept) = filter(current, (open, close), (name_open, name_close), is_prefix) {
            out = Some(kept);
        }
    }
    out.map_or(page, Bytes::from)
}

/// None when all items stay.
fn filter(text: &str, item: (&str, &str), name: (&str, &str), is_prefix: bool) -> Option<String> {
    let mut kept: Option<String> = None;
    let mut done = 0;
    let mut at = 0;
    while let Some((start, end)) = find(text, at, item) {
        at = end;
        let body = text.get(start..end).unwrap_or_default();
        let foreign = find(body, 0, name)
            .and_then(|(s, e)| body.get(s + name.0.len()..e - name.1.len()))
            .is_some_and(|n| is_foreign(n, is_prefix));
        if foreign {
            kept.get_or_insert_default().push_str(text.get(done..start).unwrap_or_default());
            done = end;
        }
    }
    kept.map(|mut kept| {
        kept.push_str(text.get(done..).unwrap_or_default());
        kept
    })
}

/// Where the next element begins and ends, tags included.
fn find(text: &str, from: usize, (open, close): (&str, &str)) -> Option<(usize, usize)> {
    let start = from + text.get(from..)?.find(open)?;
    let end = start + text.get(start..)?.find(close)? + close.len();
    Some((start, end))
}

fn is_foreign(name: &str, is_prefix: bool) -> bool {
    let name = if is_prefix { name.strip_suffix('/').unwrap_or(name) } else { name };
    has_control(name) || name.split('/').any(|s| s.is_empty() || s == "." || s == "..")
}

/// Whether a control character is in a name, as it is or as `&#10;` or `&#xA;`.
fn has_control(name: &str) -> bool {
    name.chars().any(|c| c.is_ascii_control())
        || name.split("&#").skip(1).any(|rest| {
            let code = rest.split(';').next().unwrap_or_default();
            let code = match code.strip_prefix(['x', 'X']) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => code.parse(),
            };
            code.is_ok_and(|code| code < 32 || code == 127)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_names_are_dropped_and_others_stay() {
        let page = "<R><Contents><Key>a/b</Key></Contents><Contents><Key>a/</Key></Contents><Contents><Key>a//b</Key>\
                    </Contents><Contents><Key>../x</Key></Contents><Contents><Key>a&#xA;b</Key></Contents><Contents><Key>a&#34;b</Key></Contents><CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes>\
                    <CommonPrefixes><Prefix>//</Prefix></CommonPrefixes></R>";
        let kept = without_foreign(Bytes::from_static(page.as_bytes()));
        let wanted = "<R><Contents><Key>a/b</Key></Contents><Contents><Key>a&#34;b</Key></Contents><CommonPrefixes><Prefix>c/</Prefix></CommonPrefixes></R>";
        assert_eq!(kept, wanted);
        assert_eq!(without_foreign(Bytes::from_static(wanted.as_bytes())), wanted);
        for cut in 0..page.len() {
            without_foreign(Bytes::copy_from_slice(&page.as_bytes()[..cut]));
        }
    }
}
