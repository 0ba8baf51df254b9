//! Series descriptions, the notation of test data: `metric{a="b"} 1+2x5 _ stale {{schema:0 count:2}}`.

use super::ast::{BinaryOp, Sign, Span};
use super::error::ParseError;
use super::literal;
use super::options::Options;
use super::parser::{Parser, lossy, sign};
use super::text::{quote, unquote};
use super::token::{HistogramKey, Kind};
use model::histogram::{FloatHistogram, Span as BucketSpan};
use model::{Labels, sample::stale_nan};

/// A run of values at consecutive times. Runs are kept short-hand, so that a huge repetition costs nothing to parse.
#[derive(Clone, PartialEq, Debug)]
pub enum SeriesItem {
    /// `_` or `_x3`: no samples at so many times.
    Gap {
        /// How many times.
        count: u64,
    },
    /// `1`, `1x3`, `1+2x3` or `stale`: `count` values, each `step` more than the one before.
    Floats {
        /// The first value.
        first: f64,
        /// What is added each time.
        step: f64,
        /// How many values: one more than stands behind the `x`.
        count: u64,
    },
    /// `{{…}}`, `{{…}}x3` or `{{…}}+{{…}}x3`: `count` histograms.
    Histograms {
        /// The first histogram.
        first: Box<FloatHistogram>,
        /// What is added to or subtracted from it each time.
        step: Option<(Sign, Box<FloatHistogram>)>,
        /// How many histograms: one more than stands behind the `x`.
        count: u64,
        /// True if the counter reset hint was written down, so that a test compares it.
        hint_set: bool,
    },
}

impl SeriesItem {
    /// At how many times it says something.
    pub fn count(&self) -> u64 {
        match self {
            Self::Gap { count } | Self::Floats { count, .. } | Self::Histograms { count, .. } => *count,
        }
    }
}

/// Parses a series with its values.
pub fn parse_series_description(input: &str) -> Result<(Labels, Vec<SeriesItem>), ParseError> {
    let options = Options::default();
    let mut p = Parser::new(input, &options, true)?;
    let labels = p.metric()?;
    let mut items = Vec::new();
    while p.eat(Kind::Space)?.is_some() {
        if !matches!(p.peek()?.kind, Kind::Space | Kind::Eof) {
            let item = p.series_item()?;
            p.charge::<[SeriesItem; 2]>(0)?;
            items.push(item);
        }
    }
    if p.peek()?.kind != Kind::Eof {
        return Err(p.unexpected(VALUES, ""));
    }
    Ok((labels, items))
}

/// Parses a metric with its labels.
pub(super) fn parse_metric(input: &str) -> Result<Labels, ParseError> {
    let options = Options::default();
    let mut p = Parser::new(input, &options, false)?;
    let labels = p.metric()?;
    p.end()?;
    Ok(labels)
}

const VALUES: &str = "series values";
const HISTOGRAM: (&str, &str) = ("histogram description", "histogram description key, e.g. buckets:[5 10 7]");

impl Parser<'_> {
    /// `name{a="b"}`, either part of which may be missing.
    fn metric(&mut self) -> Result<Labels, ParseError> {
        let mut labels = Vec::new();
        let name = self.peek()?;
        let named = name.kind.is_metric_name();
        if named {
            self.take()?;
        }
        if self.eat(Kind::LeftBrace)?.is_some() {
            self.label_set(&mut labels)?;
        }
        if named {
            // The name outside the braces wins.
            labels.retain(|(n, _)| n != "__name__");
            labels.push(("__name__".to_owned(), self.text(name.span).to_owned()));
        }
        labels.retain(|(_, v)| !v.is_empty());
        // Of a name that is repeated the last wins. Sorted at once: there may be very many.
        labels.reverse();
        labels.sort_by(|(a, _), (b, _)| a.cmp(b));
        labels.dedup_by(|(a, _), (b, _)| a == b);
        Ok(Labels::from_sorted(labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))))
    }

    /// The inside of braces with the closing one.
    fn label_set(&mut self, labels: &mut Vec<(String, String)>) -> Result<(), ParseError> {
        if self.eat(Kind::RightBrace)?.is_some() {
            return Ok(());
        }
        loop {
            let (name, value) = self.label()?;
            // Packed, they are there once more; sorting takes half a list.
            self.charge::<[(String, String); 3]>(3 * (name.len() + value.len()))?;
            labels.push((name, value));
            let comma = self.eat(Kind::Comma)?.is_some();
            if self.eat(Kind::RightBrace)?.is_some() {
                return Ok(());
            }
            if !comma {
                return Err(self.unexpected("label set", "\",\" or \"}\""));
            }
        }
    }

    fn label(&mut self) -> Result<(String, String), ParseError> {
        let token = self.peek()?;
        let name = match token.kind {
            Kind::Identifier => self.text(token.span).to_owned(),
            Kind::String => lossy(unquote(self.text(token.span))),
            _ => return Err(self.unexpected("label set", "identifier or \"}\"")),
        };
        self.take()?;
        if self.eat(Kind::Assign)?.is_none() {
            if token.kind == Kind::String {
                return Ok(("__name__".to_owned(), name));
            }
            return Err(self.unexpected("label set", "\"=\""));
        }
        let Some(value) = self.eat(Kind::String)? else {
            return Err(self.unexpected("label set", "string"));
        };
        Ok((name, lossy(unquote(self.text(value.span)))))
    }

    fn series_item(&mut self) -> Result<SeriesItem, ParseError> {
        let token = self.peek()?;
        match token.kind {
            Kind::Blank => {
                self.take()?;
                Ok(SeriesItem::Gap { count: self.times()?.unwrap_or(1) })
            }
            Kind::OpenHistogram => self.histogram_item(),
            Kind::Identifier if self.text(token.span) == "stale" => {
                self.take()?;
                self.float_run(stale_nan())
            }
            Kind::Identifier => Err(self.unexpected(VALUES, "number or \"stale\"")),
            _ => {
                let first = self.signed_value(VALUES, "")?;
                self.float_run(first)
            }
        }
    }

    /// What follows a float: nothing, `x3` or `+2x3`.
    fn float_run(&mut self, first: f64) -> Result<SeriesItem, ParseError> {
        if sign(self.peek()?.kind).is_none() {
            let count = self.times()?.map_or(1, |n| n.saturating_add(1));
            return Ok(SeriesItem::Floats { first, step: 0.0, count });
        }
        let step = self.signed_value(VALUES, "")?;
        match self.times()? {
            Some(n) => Ok(SeriesItem::Floats { first, step, count: n.saturating_add(1) }),
            None => Err(self.unexpected(VALUES, "")),
        }
    }

    /// `x3`
    fn times(&mut self) -> Result<Option<u64>, ParseError> {
        if self.eat(Kind::Times)?.is_none() {
            return Ok(None);
        }
        self.unsigned(VALUES, "").map(Some)
    }

    fn unsigned(&mut self, context: &str, expected: &str) -> Result<u64, ParseError> {
        let Some(token) = self.eat(Kind::Number)? else {
            return Err(self.unexpected(context, expected));
        };
        let text = self.text(token.span);
        text.parse().map_err(|_e| {
            let why = if text.bytes().all(|b| b.is_ascii_digit()) { "value out of range" } else { "invalid syntax" };
            self.error(
                token.span,
                format!("invalid repetition in series values: strconv.ParseUint: parsing {}: {why}", quote(text)),
            )
        })
    }

    fn signed_value(&mut self, context: &str, expected: &str) -> Result<f64, ParseError> {
        let sign = sign(self.peek()?.kind);
        if sign.is_some() {
            self.take()?;
        }
        let Some(token) = self.eat(Kind::Number)? else {
            return Err(self.unexpected(context, expected));
        };
        let value = literal::number(self.text(token.span)).map_err(|message| self.error(token.span, message))?;
        Ok(if sign == Some(Sign::Minus) { -value } else { value })
    }

    fn histogram_item(&mut self) -> Result<SeriesItem, ParseError> {
        let (first, mut hint_set) = self.histogram()?;
        let first = Box::new(first);
        let Some(sign) = sign(self.peek()?.kind) else {
            let count = self.times()?.map_or(1, |n| n.saturating_add(1));
            return Ok(SeriesItem::Histograms { first, step: None, count, hint_set });
        };
        self.take()?;
        if self.peek()?.kind != Kind::OpenHistogram {
            return Err(self.unexpected(VALUES, ""));
        }
        let step;
        // As in Prometheus, the hint of the increment decides.
        (step, hint_set) = self.histogram()?;
        let Some(n) = self.times()? else {
            return Err(self.unexpected(VALUES, ""));
        };
        let step = Some((sign, Box::new(step)));
        Ok(SeriesItem::Histograms { first, step, count: n.saturating_add(1), hint_set })
    }

    /// `{{key:value …}}`, and whether it names a counter reset hint.
    fn histogram(&mut self) -> Result<(FloatHistogram, bool), ParseError> {
        self.take()?;
        self.charge::<FloatHistogram>(0)?;
        let mut h = FloatHistogram::default();
        let (mut offset, mut negative_offset) = (0, 0);
        let mut seen: Vec<HistogramKey> = Vec::new();
        loop {
            let space = self.eat(Kind::Space)?.is_some();
            if self.eat(Kind::CloseHistogram)?.is_some() {
                break;
            }
            let token = self.peek()?;
            let Kind::HistogramKey(key) = token.kind else {
                return Err(self.misplaced_in_histogram(&seen));
            };
            if !seen.is_empty() && !space {
                return Err(self.misplaced_in_histogram(&seen));
            }
            self.take()?;
            if self.eat(Kind::Colon)?.is_none() {
                return Err(self.misplaced_in_histogram(&seen));
            }
            if seen.contains(&key) {
                let name = self.text(token.span);
                return Err(self.error(Span::default(), format!("duplicate key {} in histogram", quote(name))));
            }
            match key {
                HistogramKey::Sum => h.sum = self.histogram_value()?,
                HistogramKey::Count => h.count = self.histogram_value()?,
                HistogramKey::Schema => h.schema = self.histogram_integer()?,
                HistogramKey::Offset => offset = self.histogram_integer()?,
                HistogramKey::NegativeOffset => negative_offset = self.histogram_integer()?,
                HistogramKey::Buckets => h.positive_buckets = self.bucket_list()?,
                HistogramKey::NegativeBuckets => h.negative_buckets = self.bucket_list()?,
                HistogramKey::ZeroBucket => h.zero_count = self.histogram_value()?,
                HistogramKey::ZeroBucketWidth => h.zero_threshold = self.histogram_value()?,
                HistogramKey::CustomValues => h.custom_values = self.bucket_list()?,
                HistogramKey::ResetHint => match self.take()?.kind {
                    Kind::ResetHint(hint) => h.reset_hint = hint,
                    _ => return Err(self.misplaced_in_histogram(&seen)),
                },
            }
            seen.push(key);
        }
        let spans = |offset: i32, buckets: &[f64]| match u32::try_from(buckets.len()) {
            Ok(length) if length > 0 => vec![BucketSpan { offset, length }],
            _ => Vec::new(),
        };
        h.positive_spans = spans(offset, &h.positive_buckets);
        h.negative_spans = spans(negative_offset, &h.negative_buckets);
        Ok((h, seen.contains(&HistogramKey::ResetHint)))
    }

    fn misplaced_in_histogram(&mut self, seen: &[HistogramKey]) -> ParseError {
        let (context, expected) = if seen.is_empty() { (VALUES, "") } else { HISTOGRAM };
        self.unexpected(context, expected)
    }

    fn histogram_value(&mut self) -> Result<f64, ParseError> {
        self.signed_value(HISTOGRAM.0, HISTOGRAM.1)
    }

    fn histogram_integer(&mut self) -> Result<i32, ParseError> {
        let minus = self.eat(Kind::Operator(BinaryOp::Sub))?;
        let start = self.peek()?.span;
        let n = self.unsigned(HISTOGRAM.0, HISTOGRAM.1)?;
        match i32::try_from(n) {
            Ok(n) => Ok(if minus.is_some() { -n } else { n }),
            Err(_) => Err(self.error(start, format!("{n} is too large for a schema or an offset"))),
        }
    }

    /// `[1 2 3]`
    fn bucket_list(&mut self) -> Result<Vec<f64>, ParseError> {
        if self.eat(Kind::LeftBracket)?.is_none() {
            return Err(self.unexpected(HISTOGRAM.0, HISTOGRAM.1));
        }
        let mut list = Vec::new();
        loop {
            let space = self.eat(Kind::Space)?.is_some();
            if !list.is_empty() && self.eat(Kind::RightBracket)?.is_some() {
                return Ok(list);
            }
            if !list.is_empty() && !space {
                return Err(self.unexpected(HISTOGRAM.0, HISTOGRAM.1));
            }
            self.charge::<[f64; 2]>(0)?;
            list.push(self.histogram_value()?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::histogram::ResetHint;

    fn items(text: &str) -> Vec<SeriesItem> {
        parse_series_description(text).unwrap().1
    }

    fn error(text: &str) -> String {
        parse_series_description(text).unwrap_err().to_string()
    }

    #[test]
    fn floats_gaps_and_staleness() {
        let (labels, found) = parse_series_description(r#"  a{b="c", "d e"="f"} 1 -2x3 1.5-0.5x2 _ _x4"#).unwrap();
        assert_eq!(labels.to_string(), r#"{__name__="a", b="c", "d e"="f"}"#);
        let floats = |first, step, count| SeriesItem::Floats { first, step, count };
        assert_eq!(
            found,
            [
                floats(1.0, 0.0, 1),
                floats(-2.0, 0.0, 4),
                floats(1.5, -0.5, 3),
                SeriesItem::Gap { count: 1 },
                SeriesItem::Gap { count: 4 }
            ]
        );
        let stale = items("a stale NaN -Inf");
        let [SeriesItem::Floats { first, .. }, SeriesItem::Floats { first: nan, .. }, inf] = stale.as_slice() else {
            panic!("{stale:?}")
        };
        assert!(model::sample::is_stale(*first) && nan.is_nan() && !model::sample::is_stale(*nan));
        assert_eq!(*inf, floats(f64::NEG_INFINITY, 0.0, 1));
        assert_eq!(items("{} 1+1x18446744073709551615"), [floats(1.0, 1.0, u64::MAX)]);
    }

    #[test]
    fn histograms() {
        let found = items(
            "m {{schema:1 sum:-0.3 count:3.1 z_bucket:7.1 z_bucket_w:0.05 buckets:[5.1 10 7] offset:-3 n_buckets:[4.1 5] n_offset:-5 counter_reset_hint:gauge}} {{}}x2 {{sum:1}}+{{sum:2 counter_reset_hint:reset}}x3 {{schema:-53 custom_values:[1 2] buckets:[0 1 ]}}",
        );
        let [a, b, c, d] = found.as_slice() else { panic!("{found:?}") };
        let SeriesItem::Histograms { first, step: None, count: 1, hint_set: true } = a else { panic!("{a:?}") };
        assert_eq!((first.schema, first.sum, first.count, first.reset_hint), (1, -0.3, 3.1, ResetHint::Gauge));
        assert_eq!((first.zero_count, first.zero_threshold), (7.1, 0.05));
        assert_eq!(first.positive_spans, [BucketSpan { offset: -3, length: 3 }]);
        assert_eq!(first.negative_spans, [BucketSpan { offset: -5, length: 2 }]);
        assert!(matches!(b, SeriesItem::Histograms { count: 3, hint_set: false, .. }));
        let SeriesItem::Histograms { step: Some((Sign::Plus, step)), count: 4, hint_set: true, .. } = c else {
            panic!("{c:?}")
        };
        assert_eq!(step.sum, 2.0);
        let SeriesItem::Histograms { first, .. } = d else { panic!("{d:?}") };
        assert!(first.has_custom_buckets() && first.custom_values == [1.0, 2.0]);
    }

    #[test]
    fn errors() {
        assert_eq!(
            error("a 1 b"),
            r#"1:5: parse error: unexpected identifier "b" in series values, expected number or "stale""#
        );
        assert_eq!(error("a 1 $"), "1:5: parse error: unexpected character in series sequence: '$'");
        assert_eq!(error("a{b} 1"), r#"1:4: parse error: unexpected "}" in label set, expected "=""#);
        assert!(error("a {{sum:1 sum:2}}").contains(r#"duplicate key "sum" in histogram"#));
        assert!(error("a {{foo:1}}").contains(r#"bad histogram descriptor found: "foo""#));
        assert!(error("a {{sum}}").contains("missing `:` for histogram descriptor"));
        assert!(error("a {{sum:1").contains("histogram description incomplete unexpected"));
        assert!(error("a 1x").contains("unexpected end of input in series values"));
        assert!(error("a 1x1.5").contains("invalid repetition in series values"));
    }
}
