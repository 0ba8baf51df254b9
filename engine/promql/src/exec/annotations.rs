//! Warnings and infos beside an answer, in Prometheus's words. Equal texts are kept once; some carry details that
//! are merged.

use crate::parse::Span;
use indexmap::IndexMap;
use indexmap::map::Entry;
use model::labels::Quoted;
use model::number::format_g;
use std::collections::BTreeMap;

const MONOTONICITY_DOC: &str = "https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile";

/// The annotations of one query, in the order of their first occurrence.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    by_text: IndexMap<String, Annotation>,
}

#[derive(Clone, Debug, PartialEq)]
struct Annotation {
    info: bool,
    span: Option<Span>,
    detail: Detail,
}

#[derive(Clone, Debug, PartialEq)]
enum Detail {
    None,
    Monotonicity { min_t: i64, max_t: i64, min_bucket: f64, max_bucket: f64, max_diff: f64, count: i64 },
    Overlap { count: u64 },
}

impl Annotations {
    /// Adds a warning of the source, which has no position.
    pub fn add_source_warning(&mut self, text: impl Into<String>) {
        self.insert(text.into(), Annotation { info: false, span: None, detail: Detail::None });
    }

    /// Adds what `other` holds.
    pub fn merge(&mut self, other: Annotations) {
        for (text, annotation) in other.by_text {
            self.insert(text, annotation);
        }
    }

    /// As if the text at `from` stood at `to`.
    pub(super) fn moved(mut self, from: Span, to: Span) -> Self {
        for a in self.by_text.values_mut() {
            // What has lost its position has none here either.
            if let Some(s) = a.span.as_mut().filter(|s| **s != Span::default()) {
                let shift = |at: u32| at.saturating_sub(from.start).saturating_add(to.start);
                *s = Span::new(shift(s.start), shift(s.end));
            }
        }
        self
    }

    /// True if there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.by_text.is_empty()
    }

    /// Texts of warnings and of infos. `query` gives line and column; at most `limit` of each kind (0 = all), followed
    /// by a line that says how many were left out.
    pub fn strings(&self, query: &str, limit: usize) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        let (mut more_warnings, mut more_infos) = (0usize, 0usize);
        for (text, annotation) in &self.by_text {
            let (list, more) =
                if annotation.info { (&mut infos, &mut more_infos) } else { (&mut warnings, &mut more_warnings) };
            if limit == 0 || list.len() < limit {
                list.push(annotation.print(text, query));
            } else {
                *more += 1;
            }
        }
        if more_warnings > 0 {
            warnings.push(format!("{more_warnings} more warning annotations omitted"));
        }
        if more_infos > 0 {
            infos.push(format!("{more_infos} more info annotations omitted"));
        }
        (warnings, infos)
    }

    pub(crate) fn warn(&mut self, span: Span, text: impl AsRef<str>) {
        let text = format!("PromQL warning: {}", text.as_ref());
        self.insert(text, Annotation { info: false, span: Some(span), detail: Detail::None });
    }

    pub(crate) fn info(&mut self, span: Span, text: impl AsRef<str>) {
        let text = format!("PromQL info: {}", text.as_ref());
        self.insert(text, Annotation { info: true, span: Some(span), detail: Detail::None });
    }

    fn insert(&mut self, text: String, mut annotation: Annotation) {
        match self.by_text.entry(text) {
            Entry::Vacant(e) => {
                e.insert(annotation);
            }
            // As in Prometheus the later position wins, but of what is counted the earlier.
            Entry::Occupied(mut e) => {
                if annotation.detail.merge(&e.get().detail) {
                    annotation.span = e.get().span;
                }
                e.insert(annotation);
            }
        }
    }

    pub(crate) fn invalid_quantile(&mut self, q: f64, span: Span) {
        self.warn(span, format!("quantile value should be between 0 and 1, got {}", format_g(q)));
    }

    pub(crate) fn invalid_ratio(&mut self, r: f64, to: f64, span: Span) {
        let (r, to) = (format_g(r), format_g(to));
        self.warn(span, format!("ratio value should be between -1 and 1, got {r}, capping to {to}"));
    }

    pub(crate) fn bad_bucket_label(&mut self, metric: &str, value: &str, span: Span) {
        let value = Quoted(value);
        let text = format!("bucket label \"le\" is missing or has a malformed value of {value}");
        self.warn(span, with_metric(&text, metric));
    }

    pub(crate) fn mixed_floats_histograms(&mut self, metric: &str, span: Span) {
        let metric = Quoted(metric);
        self.warn(span, format!("encountered a mix of histograms and floats for metric name {metric}"));
    }

    pub(crate) fn mixed_floats_histograms_aggregation(&mut self, span: Span) {
        self.warn(span, "encountered a mix of histograms and floats for aggregation");
    }

    pub(crate) fn mixed_classic_native(&mut self, metric: &str, span: Span) {
        self.warn(span, with_metric("vector contains a mix of classic and native histograms", metric));
    }

    pub(crate) fn histogram_not_counter(&mut self, metric: &str, span: Span) {
        self.warn(span, format!("this native histogram metric is not a counter: {}", Quoted(metric)));
    }

    pub(crate) fn histogram_not_gauge(&mut self, metric: &str, span: Span) {
        self.warn(span, format!("this native histogram metric is not a gauge: {}", Quoted(metric)));
    }

    pub(crate) fn mixed_exponential_custom(&mut self, metric: &str, span: Span) {
        let metric = Quoted(metric);
        self.warn(
            span,
            format!(
                "vector contains a mix of histograms with exponential and custom buckets schemas for metric name {metric}"
            ),
        );
    }

    pub(crate) fn incompatible_bucket_layout(&mut self, operator: &str, span: Span) {
        self.warn(span, format!("incompatible bucket layout encountered for binary operator {operator}"));
    }

    pub(crate) fn sort_in_range_query(&mut self, span: Span) {
        self.warn(span, "sort is ineffective for range queries since results are always ordered by labels");
    }

    pub(crate) fn reset_collision(&mut self, operation: &str, span: Span) {
        self.warn(span, format!("conflicting counter resets during histogram {operation}"));
    }

    pub(crate) fn possible_non_counter(&mut self, metric: &str, span: Span) {
        let metric = Quoted(metric);
        self.info(
            span,
            format!("metric might not be a counter, name does not end in _total/_sum/_count/_bucket: {metric}"),
        );
    }

    pub(crate) fn possible_non_counter_type(&mut self, metric: &str, kind: &str, span: Span) {
        let (metric, kind) = (Quoted(metric), Quoted(kind));
        self.info(
            span,
            format!(
                "metric might not be a counter, __type__ label is not set to \"counter\" or \"histogram\", \
                 got {kind}: {metric}"
            ),
        );
    }

    pub(crate) fn incompatible_types(&mut self, lhs: &str, operator: &str, rhs: &str, span: Span) {
        self.info(
            span,
            format!(
                "incompatible sample types encountered for binary operator {}: {lhs} {operator} {rhs}",
                Quoted(operator)
            ),
        );
    }

    pub(crate) fn histogram_ignored_in_aggregation(&mut self, aggregation: &str, span: Span) {
        self.info(span, format!("ignored histogram in {aggregation} aggregation"));
    }

    pub(crate) fn histograms_ignored_in_mixed_range(&mut self, metric: &str, span: Span) {
        let metric = Quoted(metric);
        self.info(
            span,
            format!("ignored histograms in a range containing both floats and histograms for metric name {metric}"),
        );
    }

    pub(crate) fn quantile_nan_result(&mut self, metric: &str, span: Span) {
        self.info(span, with_metric("input to histogram_quantile has NaN observations, result is NaN", metric));
    }

    pub(crate) fn quantile_nan_skew(&mut self, metric: &str, span: Span) {
        self.info(
            span,
            with_metric("input to histogram_quantile has NaN observations, result is skewed higher", metric),
        );
    }

    pub(crate) fn fraction_nan(&mut self, metric: &str, span: Span) {
        let text = "input to histogram_fraction has NaN observations, which are excluded from all fractions";
        self.info(span, with_metric(text, metric));
    }

    pub(crate) fn mismatched_custom_buckets(&mut self, operation: &str, span: Span) {
        self.info(span, format!("mismatched custom buckets were reconciled during {operation}"));
    }

    pub(crate) fn start_time_overlap(&mut self, metric: &str, count: u64, span: Span) {
        let metric = Quoted(metric);
        let text = format!(
            "PromQL warning: sample has start time that overlaps with previous sample timestamp for metric {metric}"
        );
        self.insert(text, Annotation { info: false, span: Some(span), detail: Detail::Overlap { count } });
    }

    pub(crate) fn forced_monotonicity(&mut self, metric: &str, forced: &ForcedSteps, steps: usize, span: Span) {
        let text = format!(
            "PromQL info: input to histogram_quantile needed to be fixed for monotonicity (see {MONOTONICITY_DOC})"
        );
        let ForcedSteps { times, buckets, max_diff, .. } = *forced;
        let detail = Detail::Monotonicity {
            min_t: times.0,
            max_t: times.1,
            min_bucket: buckets.0,
            max_bucket: buckets.1,
            max_diff,
            count: forced.count(steps),
        };
        self.insert(with_metric(&text, metric), Annotation { info: true, span: Some(span), detail });
    }
}

/// Where classic histograms had to be fixed, over all steps of one evaluation.
#[derive(Clone, Debug)]
pub(crate) struct ForcedSteps {
    /// First and last time, milliseconds.
    times: (i64, i64),
    /// Least and greatest bound.
    buckets: (f64, f64),
    max_diff: f64,
    /// How often, by step.
    by_step: BTreeMap<usize, i64>,
}

impl ForcedSteps {
    pub(crate) fn new(step: usize, t: i64, buckets: (f64, f64), max_diff: f64) -> Self {
        Self { times: (t, t), buckets, max_diff, by_step: BTreeMap::from([(step, 1)]) }
    }

    pub(crate) fn add(&mut self, step: usize, t: i64, buckets: (f64, f64), max_diff: f64) {
        self.times = (self.times.0.min(t), self.times.1.max(t));
        self.buckets = (self.buckets.0.min(buckets.0), self.buckets.1.max(buckets.1));
        self.max_diff = self.max_diff.max(max_diff);
        *self.by_step.entry(step).or_insert(0) += 1;
    }

    /// The number that Prometheus 3.14 tells: from the second step on it adds what it has counted to itself once per
    /// step, in 64 bits.
    fn count(&self, steps: usize) -> i64 {
        let Some(first) = self.by_step.keys().next() else { return 0 };
        let mut counted = 0i64;
        for step in *first..steps.max(first + 1) {
            counted = counted.wrapping_add(self.by_step.get(&step).copied().unwrap_or(0));
            if step == *first {
                counted -= 1;
            } else {
                counted = counted.wrapping_mul(2).wrapping_add(1);
            }
        }
        counted.wrapping_add(1)
    }
}

fn with_metric(text: &str, metric: &str) -> String {
    if metric.is_empty() { text.to_owned() } else { format!("{text} for metric name {}", Quoted(metric)) }
}

impl Detail {
    /// Adds what was counted earlier; false if nothing is counted.
    fn merge(&mut self, earlier: &Detail) -> bool {
        match (self, earlier) {
            (Detail::Overlap { count }, Detail::Overlap { count: c }) => *count += c,
            (
                Detail::Monotonicity { min_t, max_t, min_bucket, max_bucket, max_diff, count },
                Detail::Monotonicity { min_t: t0, max_t: t1, min_bucket: b0, max_bucket: b1, max_diff: d, count: c },
            ) => {
                *min_t = (*min_t).min(*t0);
                *max_t = (*max_t).max(*t1);
                *min_bucket = min_bucket.min(*b0);
                *max_bucket = max_bucket.max(*b1);
                *max_diff = max_diff.max(*d);
                *count = count.wrapping_add(*c);
            }
            _ => return false,
        }
        true
    }
}

impl Annotation {
    fn print(&self, text: &str, query: &str) -> String {
        let Some(span) = self.span else {
            return text.to_owned();
        };
        let position = span.position(query);
        match &self.detail {
            Detail::None => format!("{text} ({position})"),
            Detail::Overlap { count } if *count > 1 => format!("{text} ({count} occurrences) ({position})"),
            Detail::Overlap { .. } => format!("{text} ({position})"),
            Detail::Monotonicity { min_t, max_t, min_bucket, max_bucket, max_diff, count } => format!(
                "{text}, from buckets {} to {}, with a max diff of {}, over {count} samples from {} to {} ({position})",
                format_g(*min_bucket),
                format_g(*max_bucket),
                two_digits(*max_diff),
                rfc3339(*min_t),
                rfc3339(*max_t),
            ),
        }
    }
}

/// Go's `%.2g`: two significant digits, an exponent below 1e-4 and from 100 on, no trailing zeros.
fn two_digits(v: f64) -> String {
    if !v.is_finite() || v == 0.0 {
        return format_g(v);
    }
    let text = format!("{v:.1e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let x: i32 = exponent.parse().unwrap_or(0);
    if (-4..2).contains(&x) {
        let digits = usize::try_from(1 - x).unwrap_or(0);
        let fixed = format!("{v:.digits$}");
        if fixed.contains('.') { fixed.trim_end_matches('0').trim_end_matches('.').to_owned() } else { fixed }
    } else {
        let sign = if x < 0 { '-' } else { '+' };
        format!("{}e{sign}{:02}", mantissa.trim_end_matches('0').trim_end_matches('.'), x.unsigned_abs())
    }
}

/// The whole second of a time in milliseconds, UTC.
fn rfc3339(t: i64) -> String {
    let c = super::calendar::Civil::from_seconds(t / 1000);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_kept_once_with_the_later_position() {
        let mut a = Annotations::default();
        a.possible_non_counter("x", Span::new(0, 1));
        a.possible_non_counter("x", Span::new(4, 5));
        a.add_source_warning("store a is away");
        let (warnings, infos) = a.strings("x + x", 10);
        assert_eq!(warnings, ["store a is away"]);
        assert_eq!(
            infos,
            [
                "PromQL info: metric might not be a counter, name does not end in _total/_sum/_count/_bucket: \"x\" (1:5)"
            ]
        );
    }

    #[test]
    fn monotonicity_details_are_merged() {
        let mut a = Annotations::default();
        a.forced_monotonicity("m", &ForcedSteps::new(0, 60_000, (0.5, 2.0), 1.234), 1, Span::new(0, 1));
        a.forced_monotonicity("m", &ForcedSteps::new(0, 0, (1.0, 4.0), 0.5), 1, Span::new(0, 1));
        let (_, infos) = a.strings("x", 10);
        assert!(
            infos[0].ends_with(
                "for metric name \"m\", from buckets 0.5 to 4, with a max diff of 1.2, over 2 samples \
                 from 1970-01-01T00:00:00Z to 1970-01-01T00:01:00Z (1:1)"
            ),
            "{}",
            infos[0]
        );
        let mut steps = ForcedSteps::new(0, 0, (1.0, 4.0), 0.5);
        (1..5).for_each(|i| steps.add(i, 0, (1.0, 4.0), 0.5));
        assert_eq!((steps.count(5), ForcedSteps::new(0, 0, (1.0, 4.0), 0.5).count(1)), (46, 1));
        assert_eq!(two_digits(123.0), "1.2e+02");
        assert_eq!(two_digits(0.001), "0.001");
        assert_eq!(two_digits(2.0), "2");
    }

    #[test]
    fn the_tail_is_counted() {
        let mut a = Annotations::default();
        for i in 0..13 {
            a.add_source_warning(format!("w{i}"));
        }
        let (warnings, _) = a.strings("", 10);
        assert_eq!(warnings.len(), 11);
        assert_eq!(warnings[10], "3 more warning annotations omitted");
    }
}
