//! A table as text, CSV or TSV, in the shapes of Thanos's `inspect`.

use super::format;
use std::cmp::Ordering;

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Shape {
    /// Aligned, between bars.
    Table,
    /// Fields between commas.
    Csv,
    /// Fields between tabs.
    Tsv,
}

/// Lines under a header; every line has as many fields as the header.
pub(super) struct Table<'a> {
    pub(super) header: &'a [&'a str],
    pub(super) lines: Vec<Vec<String>>,
}

impl Table<'_> {
    /// Sorts by these columns, one after the other, then by the first column.
    pub(super) fn sort(&mut self, columns: &[usize]) {
        self.lines.sort_by(|a, b| {
            let by = |column: &usize| compare(field(a, *column), field(b, *column));
            columns.iter().map(by).find(|o| o.is_ne()).unwrap_or_else(|| compare(field(a, 0), field(b, 0)))
        });
    }

    /// As text that ends with a line feed.
    pub(super) fn write(&self, shape: Shape) -> String {
        match shape {
            Shape::Table => self.aligned(),
            Shape::Csv => self.separated(','),
            Shape::Tsv => self.separated('\t'),
        }
    }

    fn separated(&self, separator: char) -> String {
        let mut out = String::new();
        let header = self.header.iter().map(|s| (*s).to_owned()).collect();
        for line in std::iter::once(&header).chain(&self.lines) {
            for (i, field) in line.iter().enumerate() {
                if i > 0 {
                    out.push(separator);
                }
                out.push_str(&quoted(field, separator));
            }
            out.push('\n');
        }
        out
    }

    fn aligned(&self) -> String {
        let width = |column: usize| {
            let lines = self.lines.iter().map(|l| field(l, column).chars().count());
            lines.chain(self.header.get(column).map(|h| h.chars().count())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.header.len()).map(width).collect();
        let mut out = String::from("|");
        for (name, width) in self.header.iter().zip(&widths) {
            out.push_str(&format!(" {name:^width$} |"));
        }
        out.push_str("\n|");
        for width in &widths {
            out.push_str(&"-".repeat(width + 2));
            out.push('|');
        }
        out.push('\n');
        for line in &self.lines {
            out.push('|');
            for (field, width) in line.iter().zip(&widths) {
                out.push_str(&format!(" {field:<width$} |"));
            }
            out.push('\n');
        }
        out
    }
}

fn field(line: &[String], column: usize) -> &str {
    line.get(column).map_or("", String::as_str)
}

/// As RFC 4180 and Go's `encoding/csv` quote a field.
fn quoted(field: &str, separator: char) -> String {
    let starts_with_space = field.chars().next().is_some_and(char::is_whitespace);
    if field.contains([separator, '"', '\n', '\r']) || starts_with_space || field == "\\." {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}

/// Times, durations and numbers by their value, everything else as text.
fn compare(a: &str, b: &str) -> Ordering {
    let times = (a.parse::<jiff::Timestamp>(), b.parse::<jiff::Timestamp>());
    if let (Ok(a), Ok(b)) = times {
        return a.cmp(&b);
    }
    if let (Some(a), Some(b)) = (format::parse_duration(a), format::parse_duration(b)) {
        return a.total_cmp(&b);
    }
    let number = |s: &str| s.replace(',', "").parse::<u64>();
    match (number(a), number(b)) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        _ => a.cmp(b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<'static> {
        let line = |all: [&str; 3]| all.map(str::to_owned).to_vec();
        Table {
            header: &["ID", "RANGE", "#SAMPLES"],
            lines: vec![line(["b", "10h0m0s", "1,000"]), line(["a", "2h0m0s", "999"]), line(["c", "-", "x\"y"])],
        }
    }

    #[test]
    fn shapes() {
        let text = "| ID |  RANGE  | #SAMPLES |\n|----|---------|----------|\n| b  | 10h0m0s | 1,000    |\n\
                    | a  | 2h0m0s  | 999      |\n| c  | -       | x\"y      |\n";
        assert_eq!(table().write(Shape::Table), text);
        assert_eq!(table().write(Shape::Csv), "ID,RANGE,#SAMPLES\nb,10h0m0s,\"1,000\"\na,2h0m0s,999\nc,-,\"x\"\"y\"\n");
        assert!(table().write(Shape::Tsv).contains("b\t10h0m0s\t1,000\n"));
    }

    #[test]
    fn sorts_by_value() {
        let ids = |columns: &[usize]| {
            let mut t = table();
            t.sort(columns);
            t.lines.iter().map(|l| l[0].clone()).collect::<String>()
        };
        assert_eq!((ids(&[0]), ids(&[2]), ids(&[1])), ("abc".into(), "abc".into(), "cab".into()));
    }
}
