//! Strings: from quotes to bytes and back, as Go does both.

use std::fmt::Write;

/// `strconv.Quote`.
pub(super) fn quote(s: &str) -> String {
    quote_bytes(s.as_bytes())
}

/// `strconv.Quote` of bytes that need not be UTF-8: a bad byte becomes `\xNN`.
pub(crate) fn quote_bytes(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            push_escaped(&mut out, c, '"');
        }
        for b in chunk.invalid() {
            // Writing to a String can't fail.
            let _ = write!(out, "\\x{b:02x}");
        }
    }
    out.push('"');
    out
}

/// `strconv.QuoteRune`; the end of the input is shown as U+FFFD.
pub(super) fn quote_char(c: Option<char>) -> String {
    let mut out = String::from("'");
    push_escaped(&mut out, c.unwrap_or(char::REPLACEMENT_CHARACTER), '\'');
    out.push('\'');
    out
}

/// Go's `%#U`: `U+0063 'c'`, without the character if it can't be printed.
pub(super) fn code_point(c: char) -> String {
    let n = u32::from(c);
    if is_print(c) { format!("U+{n:04X} '{c}'") } else { format!("U+{n:04X}") }
}

fn push_escaped(out: &mut String, c: char, quote: char) {
    let n = u32::from(c);
    let _ = match c {
        '\\' => out.write_str("\\\\"),
        c if c == quote => write!(out, "\\{c}"),
        c if is_print(c) => out.write_char(c),
        '\u{7}' => out.write_str("\\a"),
        '\u{8}' => out.write_str("\\b"),
        '\u{c}' => out.write_str("\\f"),
        '\n' => out.write_str("\\n"),
        '\r' => out.write_str("\\r"),
        '\t' => out.write_str("\\t"),
        '\u{b}' => out.write_str("\\v"),
        _ if n < 0x20 || n == 0x7f => write!(out, "\\x{n:02x}"),
        _ if n < 0x1_0000 => write!(out, "\\u{n:04x}"),
        _ => write!(out, "\\U{n:08x}"),
    };
}

/// Go's `unicode.IsPrint`: letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // A letter before it keeps a combining mark, which Go prints, from being escaped.
    let mut buf = String::from("a");
    buf.push(c);
    buf.escape_debug().count() == 2
}

/// The bytes of a string literal that the lexer has accepted, quotes included.
pub(super) fn unquote(literal: &str) -> Vec<u8> {
    let mut chars = literal.chars();
    let open = chars.next();
    chars.next_back();
    let inner = chars.as_str();
    if open == Some('`') || !inner.contains('\\') {
        return inner.as_bytes().to_vec();
    }
    let mut out = Vec::with_capacity(inner.len());
    let push = |out: &mut Vec<u8>, c: char| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            push(&mut out, c);
            continue;
        }
        let Some(escape) = chars.next() else { break };
        let number = |first: u32, digits: usize, base: u32, chars: &mut std::str::Chars<'_>| {
            chars
                .by_ref()
                .take(digits)
                .fold(first, |n, c| n.wrapping_mul(base).wrapping_add(c.to_digit(base).unwrap_or(0)))
        };
        match escape {
            'a' => out.push(7),
            'b' => out.push(8),
            'f' => out.push(12),
            'n' => out.push(b'\n'),
            'r' => out.push(b'\r'),
            't' => out.push(b'\t'),
            'v' => out.push(11),
            // A byte, which need not be UTF-8 on its own.
            'x' => out.push(number(0, 2, 16, &mut chars) as u8),
            '0'..='7' => out.push(number(escape.to_digit(8).unwrap_or(0), 2, 8, &mut chars) as u8),
            'u' => push(&mut out, char::from_u32(number(0, 4, 16, &mut chars)).unwrap_or(char::REPLACEMENT_CHARACTER)),
            'U' => push(&mut out, char::from_u32(number(0, 8, 16, &mut chars)).unwrap_or(char::REPLACEMENT_CHARACTER)),
            other => push(&mut out, other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_as_go_does() {
        assert_eq!(quote("a\"\\\n\u{7f}\u{200b}é☺\u{301}"), "\"a\\\"\\\\\\n\\x7f\\u200bé☺\u{301}\"");
        assert_eq!(quote_bytes(b"\xffa"), "\"\\xffa\"");
        assert_eq!(quote_char(Some('\'')), "'\\''");
        assert_eq!(quote_char(None), "'\u{fffd}'");
        assert_eq!(code_point('c'), "U+0063 'c'");
        assert_eq!(code_point('\n'), "U+000A");
    }

    #[test]
    fn unquotes_every_escape() {
        assert_eq!(unquote(r#""\a\b\f\n\r\t\v\\\"\x41\102\u0043\U00000044""#), b"\x07\x08\x0c\n\r\t\x0b\\\"ABCD");
        assert_eq!(unquote("`\\n`"), b"\\n");
        assert_eq!(unquote("'\\xff'"), b"\xff");
        assert_eq!(unquote("'☺'"), "☺".as_bytes());
    }
}
