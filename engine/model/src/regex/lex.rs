//! The pieces of the syntax that need no state: escapes, numbers of repetitions.

use super::RegexError;

/// The text that was consumed on the way from `from` to its own rest `to`.
pub(super) fn taken<'a>(from: &'a str, to: &str) -> &'a str {
    from.get(..from.len() - to.len()).unwrap_or(from)
}

/// The next character and the rest. At the end it is U+FFFD, which no construct accepts (nor Go's parser).
pub(super) fn next(text: &str) -> (char, &str) {
    let mut chars = text.chars();
    (chars.next().unwrap_or(char::REPLACEMENT_CHARACTER), chars.as_str())
}

/// The bounds of a repetition; no end if the second is missing. Nothing at all if a number has more than nine digits.
pub(super) type Counts = Option<(u32, Option<u32>)>;

/// `{min}`, `{min,}`, `{min,max}` and the rest. Nothing if it is no such thing and the brace a character.
pub(super) fn counts(start: &str) -> Option<(Counts, &str)> {
    let (min, rest) = integer(start.strip_prefix('{')?)?;
    let (max, rest) = match rest.strip_prefix(',') {
        None => (Some(min), rest),
        Some(rest) if rest.starts_with('}') => (None, rest),
        Some(rest) => integer(rest).map(|(max, rest)| (Some(max), rest))?,
    };
    let rest = rest.strip_prefix('}')?;
    let counts = match (min, max) {
        (Some(min), None) => Some((min, None)),
        (Some(min), Some(Some(max))) => Some((min, Some(max))),
        _ => None,
    };
    Some((counts, rest))
}

/// A decimal number without leading zero (nothing inside if too large), and the rest.
fn integer(text: &str) -> Option<(Option<u32>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    if digits.is_empty() || digits.len() > 1 && digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().ok(), rest))
}

/// One character in brackets, and the rest.
pub(super) fn bracket_char<'s>(text: &'s str, whole: &str) -> Result<(u32, &'s str), RegexError> {
    if text.is_empty() {
        return Err(RegexError::new("missing closing ]", whole));
    }
    if text.starts_with('\\') {
        return escape(text);
    }
    let (c, rest) = next(text);
    Ok((u32::from(c), rest))
}

/// An escape that stands for one character; its code point and the rest.
pub(super) fn escape(start: &str) -> Result<(u32, &str), RegexError> {
    let text = start.get(1..).unwrap_or_default();
    if text.is_empty() {
        return Err(RegexError::new("trailing backslash at end of expression", ""));
    }
    let (c, mut rest) = next(text);
    let octal = |t: &str| t.chars().next().and_then(|c| c.to_digit(8));
    let code = match c {
        // A single digit other than 0 would be a back reference.
        '1'..='7' if octal(rest).is_none() => None,
        '0'..='7' => {
            let mut code = u32::from(c) - u32::from('0');
            for _ in 0..2 {
                let Some(digit) = octal(rest) else { break };
                code = code * 8 + digit;
                rest = next(rest).1;
            }
            Some(code)
        }
        'x' if rest.is_empty() => None,
        'x' => {
            let (c, after) = next(rest);
            rest = after;
            if c == '{' {
                hex_in_braces(&mut rest)
            } else {
                let (d, after) = next(rest);
                rest = after;
                c.to_digit(16).zip(d.to_digit(16)).map(|(high, low)| high * 16 + low)
            }
        }
        'a' => Some(0x07),
        'f' => Some(0x0C),
        'n' => Some(0x0A),
        'r' => Some(0x0D),
        't' => Some(0x09),
        'v' => Some(0x0B),
        c if c.is_ascii() && !c.is_ascii_alphanumeric() => Some(u32::from(c)),
        _ => None,
    };
    code.map(|code| (code, rest)).ok_or_else(|| RegexError::new("invalid escape sequence", taken(start, rest)))
}

/// The digits of `\x{…}` and the brace; nothing if that is not what stands there, `rest` then is behind the culprit.
fn hex_in_braces(rest: &mut &str) -> Option<u32> {
    let mut code = None;
    while !rest.is_empty() {
        let (c, after) = next(rest);
        *rest = after;
        if c == '}' {
            return code;
        }
        let value = code.unwrap_or(0) * 16 + c.to_digit(16)?;
        if value > 0x10_FFFF {
            return None;
        }
        code = Some(value);
    }
    None
}
