//! What people type: PromQL, matchers, regular expressions, durations, series of the test language.

use super::{Decoder, nested, said, text, texts};
use model::{MatchOp, Matcher};
use promql::parse::{Options, parse_expr, parse_metric, parse_metric_selector};

const WORDS: &[&str] = &[
    "sum",
    "by",
    "without",
    "(",
    ")",
    "{",
    "}",
    "[5m]",
    "[5m:30s]",
    "offset",
    "@",
    "-",
    "+",
    "^",
    "unless",
    "on",
    "group_left",
    "ignoring",
    "bool",
    "rate(",
    "histogram_quantile(",
    "0x",
    "1e9",
    "\"",
    "`",
    "\\",
    "=~",
    "!~",
    "up",
    ",",
    "NaN",
    "start()",
    "\u{1F600}",
    "{{schema:0 buckets:[1]}}",
    "_x99999999999",
    "#",
    "\n",
];
const REGEX: &[&str] = &[
    "(",
    ")",
    "[",
    "]",
    "{1000}",
    "{2,}",
    "*",
    "+?",
    "|",
    "\\pL",
    "\\b",
    "(?i)",
    ".*",
    "^",
    "$",
    "[^",
    "\\x{10FFFF}",
    "(?:",
    "\\Q",
    "[[:alpha:]]",
    "a",
    "é",
];

pub(crate) const LANGUAGE: &[Decoder] = &[
    Decoder::new("promql", |b| text(b, |t| said(parse_expr(t, &Options::default()))), expressions)
        .bombs(expression_bombs)
        .words(WORDS)
        .allowed(automata),
    Decoder::new("selector", |b| text(b, |t| said(parse_metric_selector(t))), selectors)
        .bombs(selector_bombs)
        .words(WORDS)
        .allowed(automata),
    Decoder::new("metric", |b| text(b, |t| said(parse_metric(t))), metrics).bombs(metric_bombs).words(WORDS),
    Decoder::new("series-description", series_description, series).bombs(series_bombs).words(WORDS),
    // An automaton may take 10 MiB (`model::regex`), and building it more, however short its pattern: goal G43 is about its cost.
    Decoder::new("regex", regex, regexes).bombs(regex_bombs).words(REGEX).allowed(|_| AUTOMATON),
    Decoder::new("duration", |b| text(b, |t| said(model::time::parse_duration(t))), durations).words(&["ms", "1", "y"]),
    Decoder::new("number", |b| text(b, |t| said(promql::parse::parse_number(t))), numbers).words(&["0x", "_", "e"]),
];

/// What one automaton may take while it is built, bytes.
const AUTOMATON: usize = 32 << 20;

/// A text that asks for automata may hold those that one query may have, while the next is built.
fn automata(b: &[u8]) -> usize {
    let asks = b.windows(2).any(|w| w == b"=~" || w == b"!~");
    (1 << 20) + if asks { model::matcher::MOST_COMPILED + AUTOMATON } else { 0 }
}

/// What follows is expanded by `load`: only its parts are read here.
fn series_description(b: &[u8]) -> Result<(), String> {
    text(b, |t| said(promql::parse::series::parse_series_description(t)))
}

/// Compiled, and matched against what stands in a label.
fn regex(b: &[u8]) -> Result<(), String> {
    text(b, |t| {
        let matcher = Matcher::new(MatchOp::Regex, "x", t).map_err(|e| e.to_string())?;
        for value in ["", "a", "prometheus-0", &"ab".repeat(200)] {
            std::hint::black_box(matcher.matches(value));
        }
        Ok(())
    })
}

fn expressions() -> Vec<Vec<u8>> {
    texts(&[
        "up",
        "sum by (job) (rate(http_requests_total{code=~\"5..\",job!=\"x\"}[5m] offset 1h)) / on (job) group_left (a) b > bool 0",
        "histogram_quantile(0.9, sum by (le) (increase(x_bucket[1h:5m] @ end())))",
        "-1 ^ 2 + +foo unless ignoring (x) bar or topk(3, {__name__=~\"a|b\"} @ 1.5e3)",
        "label_replace(up, \"a\", \"$1\", 'b', `(.*)`) # comment\n",
        "{\"a.b\", \"c\"=\"d\"}[90s]",
    ])
}

fn selectors() -> Vec<Vec<u8>> {
    texts(&["up", "{a=\"b\"}", "x{a=~\"b.*\",c!=\"d\",e!~\"f|g\"}", "{\"utf8 name\", \"é\"=\"ü\"}"])
}

fn metrics() -> Vec<Vec<u8>> {
    texts(&["up", "up{a=\"b\", c=\"d\"}", "{\"a.b\"=\"\\n\\\"\"}"])
}

fn series() -> Vec<Vec<u8>> {
    texts(&[
        "m{a=\"b\"} 1 2 _ stale NaN -Inf",
        "m 0+10x5 100-1x3 _x4",
        "h {{schema:1 sum:3 count:4 z_bucket:1 z_bucket_w:0.001 buckets:[1 2 1] offset:1 n_buckets:[1]}}x3",
        "h {{schema:0 count:2 buckets:[1 1]}}+{{schema:0 count:2 buckets:[1 1]}}x4",
    ])
}

fn regexes() -> Vec<Vec<u8>> {
    texts(&[
        "prometheus-[0-9]+",
        "a|b|prefix.*",
        "(?i:up)|.*(node|pod).+",
        "[^a-z\\d]{2,5}x*?",
        "\\pL+\\x{1F600}",
        "(a{2}){3}",
        "((a+)+)+b",
    ])
}

fn durations() -> Vec<Vec<u8>> {
    texts(&["5m", "1h30m", "1y2w3d4h5m6s7ms", "0"])
}

fn numbers() -> Vec<Vec<u8>> {
    texts(&["1", "0x1F", "1_000.5e-3", "Inf", "nan"])
}

fn expression_bombs() -> Vec<Vec<u8>> {
    [
        nested("(", "up", ")"),
        nested("-", "up", ""),
        nested("sum(", "up", ")"),
        nested("up + ", "up", ""),
        nested("up[1m:", "", "]"),
        nested("{", "", ""),
        nested("1^", "1", ""),
        wide("f(", &["a", &"+a".repeat(499)].concat(), ")"),
        wide("f(", "a[1+(1)]", ")"),
        wide("sum by (", "a", ") (a)"),
        selector_bombs(),
    ]
    .concat()
}

fn regex_bombs() -> Vec<Vec<u8>> {
    [
        nested("(", "a", ")"),
        nested("a|", "a", ""),
        nested("[", "a", "]"),
        wide("", "a$", "").into_iter().map(|b| b.iter().copied().filter(|b| *b != b',').collect()).collect(),
        nested("abcdefg|", "a", ""),
        texts(&[
            "((a{100}){100}){10}",
            "(((a*)*)*)*b",
            "\\pL{1000}",
            "(\\pL{31}|\\pN{31}){31}",
            "[\\x{0}-\\x{10FFFF}]{1000}",
        ]),
    ]
    .concat()
}

fn series_bombs() -> Vec<Vec<u8>> {
    let dense = ["1 ", "_ ", "{{}} ", "{{}}+{{}}x1 "].map(|item| format!("m {}", item.repeat((1 << 20) / item.len())));
    let buckets = format!("m {{{{buckets:[{}]}}}}", "1 ".repeat(500_000));
    let many: String = (0..150_000).map(|n| format!("a{n}=\"b\",")).collect();
    let all = [
        "m 1x18446744073709551615",
        "m 0+1x4294967295",
        "m _x9999999999",
        "m {{buckets:[1]}}x4294967295",
        &buckets,
        &format!("m{{{many}}} 1"),
    ];
    [texts(&all), dense.map(String::into_bytes).to_vec()].concat()
}

/// The same again and again, between commas.
fn wide(open: &str, item: &str, close: &str) -> Vec<Vec<u8>> {
    [16 << 10, 1 << 20]
        .map(|size: usize| {
            format!("{open}{item}{}{close}", format!(",{item}").repeat(size / (item.len() + 1))).into_bytes()
        })
        .to_vec()
}

fn selector_bombs() -> Vec<Vec<u8>> {
    // One refused by itself, some that fill what one query may have, many that cost little.
    let dear = texts(&["{a=~\"\\\\pL{1000}\"}", &format!("{{a=~\"x\"{}}}", ",a=~\"\\\\pL{99}\"".repeat(99))]);
    [wide("{", "\"a\"", "}"), dear, wide("{", "a!~\".*x{99}.+\"", "}")].concat()
}

fn metric_bombs() -> Vec<Vec<u8>> {
    let many: String = (0..150_000).map(|n| format!("a{n}=\"b\",")).collect();
    [wide("{", "\"a\"", "}"), vec![format!("{{{many}}}").into_bytes()]].concat()
}
