//! Orders of series in an instant answer.

use std::cmp::Ordering;
use std::iter::Peekable;
use std::str::Chars;

/// Natural order: runs of digits compare as numbers.
pub(crate) fn natural(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.chars().peekable(), b.chars().peekable());
    loop {
        match (x.peek().copied(), y.peek().copied()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(c), Some(d)) if c.is_ascii_digit() && d.is_ascii_digit() => {
                let (m, n) = (digits(&mut x), digits(&mut y));
                let (p, q) = (m.trim_start_matches('0'), n.trim_start_matches('0'));
                let order = p.len().cmp(&q.len()).then_with(|| p.cmp(q)).then_with(|| m.len().cmp(&n.len()));
                if order != Ordering::Equal {
                    return order;
                }
            }
            (Some(c), Some(d)) => {
                if c != d {
                    return c.cmp(&d);
                }
                x.next();
                y.next();
            }
        }
    }
}

fn digits(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut out = String::new();
    while let Some(c) = chars.next_if(char::is_ascii_digit) {
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_inside_names() {
        let mut names = ["cpu10", "cpu2", "cpu1", "1.10", "1.9", "", "cpu"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["", "1.9", "1.10", "cpu", "cpu1", "cpu2", "cpu10"]);
    }
}
