//! The words of the language.

use super::ast::{AggregateOp, BinaryOp, Span};
use super::text::quote;

/// One word of a query.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Token {
    /// What it is.
    pub(super) kind: Kind,
    /// Where it stands.
    pub(super) span: Span,
}

/// What a word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Eof,
    Comma,
    /// A name without a colon.
    Identifier,
    /// A name with a colon.
    MetricIdentifier,
    Number,
    Duration,
    String,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    LeftParen,
    RightParen,
    Colon,
    /// `=`
    Assign,
    /// `=~`
    RegexMatch,
    /// `!~`
    RegexNoMatch,
    At,
    Operator(BinaryOp),
    Aggregate(AggregateOp),
    Keyword(Keyword),
    Preprocessor(Preprocessor),
    // Series descriptions only:
    Blank,
    Times,
    Space,
    OpenHistogram,
    CloseHistogram,
    HistogramKey(HistogramKey),
    ResetHint(model::histogram::ResetHint),
}

/// Words with a grammatical role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Keyword {
    Offset,
    Smoothed,
    Anchored,
    By,
    Without,
    On,
    Ignoring,
    GroupLeft,
    GroupRight,
    Fill,
    FillLeft,
    FillRight,
    Bool,
}

/// Words that stand for a value known only when the query runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Preprocessor {
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// The keys of a histogram in a series description.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum HistogramKey {
    Sum,
    Count,
    Schema,
    Offset,
    NegativeOffset,
    Buckets,
    NegativeBuckets,
    ZeroBucket,
    ZeroBucketWidth,
    CustomValues,
    ResetHint,
}

/// What a word means when it stands alone, whatever its letter case.
pub(super) fn keyword(word: &str) -> Option<Kind> {
    let word = word.to_ascii_lowercase();
    if let Some(op) = AggregateOp::ALL.iter().find(|op| op.as_str() == word) {
        return Some(Kind::Aggregate(*op));
    }
    Some(match word.as_str() {
        "and" => Kind::Operator(BinaryOp::And),
        "or" => Kind::Operator(BinaryOp::Or),
        "unless" => Kind::Operator(BinaryOp::Unless),
        "atan2" => Kind::Operator(BinaryOp::Atan2),
        "offset" => Kind::Keyword(Keyword::Offset),
        "smoothed" => Kind::Keyword(Keyword::Smoothed),
        "anchored" => Kind::Keyword(Keyword::Anchored),
        "by" => Kind::Keyword(Keyword::By),
        "without" => Kind::Keyword(Keyword::Without),
        "on" => Kind::Keyword(Keyword::On),
        "ignoring" => Kind::Keyword(Keyword::Ignoring),
        "group_left" => Kind::Keyword(Keyword::GroupLeft),
        "group_right" => Kind::Keyword(Keyword::GroupRight),
        "fill" => Kind::Keyword(Keyword::Fill),
        "fill_left" => Kind::Keyword(Keyword::FillLeft),
        "fill_right" => Kind::Keyword(Keyword::FillRight),
        "bool" => Kind::Keyword(Keyword::Bool),
        "start" => Kind::Preprocessor(Preprocessor::Start),
        "end" => Kind::Preprocessor(Preprocessor::End),
        "inf" | "nan" => Kind::Number,
        other => return duration_keyword(other),
    })
}

/// The words that may occur in a duration expression.
pub(super) fn duration_keyword(word: &str) -> Option<Kind> {
    Some(Kind::Preprocessor(match word.to_ascii_lowercase().as_str() {
        "step" => Preprocessor::Step,
        "range" => Preprocessor::Range,
        "max_of" => Preprocessor::MaxOf,
        "min_of" => Preprocessor::MinOf,
        _ => return None,
    }))
}

/// The key of a histogram in a series description.
pub(super) fn histogram_key(word: &str) -> Option<HistogramKey> {
    Some(match word.to_ascii_lowercase().as_str() {
        "sum" => HistogramKey::Sum,
        "count" => HistogramKey::Count,
        "schema" => HistogramKey::Schema,
        "offset" => HistogramKey::Offset,
        "n_offset" => HistogramKey::NegativeOffset,
        "buckets" => HistogramKey::Buckets,
        "n_buckets" => HistogramKey::NegativeBuckets,
        "z_bucket" => HistogramKey::ZeroBucket,
        "z_bucket_w" => HistogramKey::ZeroBucketWidth,
        "custom_values" => HistogramKey::CustomValues,
        "counter_reset_hint" => HistogramKey::ResetHint,
        _ => return None,
    })
}

impl Kind {
    /// True if it can stand for a metric name outside braces.
    pub(super) fn is_metric_name(self) -> bool {
        match self {
            Self::Identifier | Self::MetricIdentifier | Self::Aggregate(_) | Self::Preprocessor(_) => true,
            Self::Operator(op) => op.is_set(),
            Self::Keyword(k) => {
                !matches!(k, Keyword::On | Keyword::Ignoring | Keyword::GroupLeft | Keyword::GroupRight | Keyword::Bool)
            }
            _ => false,
        }
    }

    /// True if it can stand for a label name in `by (…)` and friends.
    pub(super) fn is_grouping_label(self) -> bool {
        match self {
            Self::Identifier | Self::MetricIdentifier | Self::Aggregate(_) | Self::Preprocessor(_) => true,
            Self::Operator(op) => op.is_set() || op == BinaryOp::Atan2,
            Self::Keyword(k) => k != Keyword::Without,
            _ => false,
        }
    }

    /// True if an expression can begin with it.
    pub(super) fn starts_expression(self) -> bool {
        self.is_metric_name()
            || matches!(
                self,
                Self::Number
                    | Self::Duration
                    | Self::String
                    | Self::LeftParen
                    | Self::LeftBrace
                    | Self::Operator(BinaryOp::Add | BinaryOp::Sub)
            )
    }

    /// How Prometheus names the word `text` of this kind in "unexpected …".
    pub(super) fn describe(self, text: &str) -> String {
        match self {
            Self::Eof => "end of input".to_owned(),
            Self::Keyword(_) => format!("<{text}>"),
            Self::Operator(_) | Self::At | Self::RegexMatch | Self::RegexNoMatch => format!("<op:{text}>"),
            Self::Aggregate(_) => format!("<aggr:{text}>"),
            Self::Identifier => format!("identifier {}", quote(text)),
            Self::MetricIdentifier => format!("metric identifier {}", quote(text)),
            Self::String => format!("string {}", abridged(text)),
            Self::Number => format!("number {}", abridged(text)),
            Self::Duration => format!("duration {}", abridged(text)),
            _ => abridged(text),
        }
    }
}

/// Quoted; cut after ten characters if it is longer than ten bytes.
fn abridged(text: &str) -> String {
    if text.len() > 10 {
        let short: String = text.chars().take(10).collect();
        format!("{}...", quote(&short))
    } else {
        quote(text)
    }
}
