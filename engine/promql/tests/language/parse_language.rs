//! Each construct of the language, and each class of error, with the text and the position that Prometheus gives.

use promql::parse::*;

fn parse(input: &str) -> Expr {
    parse_expr(input, &Options::ALL).unwrap_or_else(|e| panic!("{input}: {e}"))
}

fn printed(input: &str) -> String {
    parse(input).to_string()
}

fn error(input: &str) -> String {
    match parse_expr(input, &Options::ALL) {
        Ok(e) => panic!("{input} was read as {e}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn constructs_print_in_their_normal_form() {
    for (input, want) in [
        // names and strings
        ("SUM(Foo)", "sum(Foo)"),
        ("{\"a b\", 'c'=~`\\d+`}", "{__name__=\"a b\",c=~\"\\\\d+\"}"),
        ("x{\"label\"=\"v\",}", "x{label=\"v\"}"),
        ("{\"\", a=\"b\"}", "{__name__=\"\",a=\"b\"}"),
        ("by + on(by, bool) group_left(atan2,) and", "by + on (by, bool) group_left (atan2) and"),
        ("fill + fill{fill=\"fill\"}", "fill + fill{fill=\"fill\"}"),
        ("anchored smoothed", "anchored smoothed"),
        ("`raw\\n`", "\"raw\\\\n\""),
        ("a:b # comment\n + 1", "a:b + 1"),
        // numbers
        ("0x1F + 017 + 08 + 1_000 + .5 + 5.", "31 + 15 + 8 + 1000 + 0.5 + 5"),
        ("-Inf + nAn", "-Inf + NaN"),
        ("5m30s + -5m", "5m30s + -5m"),
        ("--1", "1"),
        // precedence
        ("-1^2^3*4", "-1 ^ 2 ^ 3 * 4"),
        ("(1 + 2) * 3", "(1 + 2) * 3"),
        ("a </ 1 >/ 2", "a </ 1 >/ 2"),
        ("a ATAN2 b Unless c", "a atan2 b unless c"),
        // selectors
        ("x offset -5m @ 1.5", "x @ 1.500 offset -5m"),
        ("x[5m] @ end() offset 1h", "x[5m] @ end() offset 1h"),
        ("x[5m] anchored offset 1h", "x[5m] anchored offset 1h"),
        ("(x)[1h:] offset 5m", "(x)[1h:] offset 5m"),
        ("rate(x[5m])[1h:5m] @ start()", "rate(x[5m])[1h:5m] @ start()"),
        // computed durations
        ("x[step() * 2 + 1m]", "x[step() * 2 + 1m]"),
        ("x[min_of(step(), 5m):max_of(1, 2)]", "x[min_of(step(), 5m):max_of(1, 2)]"),
        ("x offset (5m + 1m)", "x offset (5m + 1m)"),
        ("x offset -(1 + 2)", "x offset -(1 + 2)"),
        ("x offset 5m + 1m", "x offset 5m + 1m"),
        // aggregations
        ("sum(x) by (a,)", "sum by (a) (x)"),
        ("sum without () (x)", "sum without () (x)"),
        ("topk by (\"a b\") (scalar(y), x)", "topk by (\"a b\") (scalar(y), x)"),
        ("limit_ratio(-0.5, x)", "limit_ratio(-0.5, x)"),
        // matching
        ("a == bool on () b", "a == bool on () b"),
        ("a + ignoring () b", "a + b"),
        ("a + ignoring () group_left b", "a + ignoring () group_left () b"),
        ("a + fill_left(-1) fill_right(2) b", "a + fill_left (-1) fill_right (2) b"),
        ("a + fill_right(2) fill_left(2) b", "a + fill (2) b"),
        ("info(x, {a=~\".*\"})", "info(x, {a=~\".*\"})"),
        ("xrate(x[5m])", "xrate(x[5m])"),
    ] {
        assert_eq!(printed(input), want, "{input}");
    }
}

#[test]
fn trees_bind_as_in_prometheus() {
    let Expr::Binary(sum) = parse("x offset 5m + 1m") else { panic!() };
    assert!(matches!(sum.rhs, Expr::Number(NumberLiteral { value: 60.0, duration: true, .. })));
    let Expr::Vector(v) = parse("x offset (3m) + 1m") else { panic!("the parentheses begin an expression") };
    assert!(v.offset_expr.is_some());
    assert!(matches!(parse("-1 ^ 2"), Expr::Unary(_)));
    assert!(matches!(parse("- 1"), Expr::Number(NumberLiteral { value: -1.0, span: Span { start: 0, end: 3 }, .. })));
    let Expr::Binary(set) = parse("a and b") else { panic!() };
    assert_eq!(set.matching.map(|m| m.card), Some(MatchCard::ManyToMany));
    let Expr::Binary(scalar) = parse("a + 1") else { panic!() };
    assert_eq!(scalar.matching, None);
}

#[test]
fn spans_cover_the_text() {
    let input = "sum by (a) (rate(x{b=\"c\"}[5m] offset 1m)) / 2";
    let expr = parse(input);
    let mut texts = Vec::new();
    expr.walk(&mut |e| texts.push(&input[e.span().start as usize..e.span().end as usize]));
    assert_eq!(
        texts,
        [
            input,
            "sum by (a) (rate(x{b=\"c\"}[5m] offset 1m))",
            "rate(x{b=\"c\"}[5m] offset 1m)",
            "x{b=\"c\"}[5m] offset 1m",
            "2"
        ]
    );
    assert_eq!(expr.selectors().len(), 1);
}

#[test]
fn errors_have_prometheus_texts_and_positions() {
    for (input, want) in [
        // words
        ("", "unknown position: parse error: no expression found in input"),
        ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
        ("foo\n  \"a long string\"", "2:3: parse error: unexpected string \"\\\"a long st\"..."),
        ("sum(x y)", "1:7: parse error: unexpected identifier \"y\" in aggregation"),
        (
            "sum(rate(x OFFSET y))",
            "1:19: parse error: unexpected identifier \"y\" in offset, expected number, duration, step(), or range()",
        ),
        ("foo @ start", "1:12: parse error: unexpected end of input in @, expected timestamp"),
        ("foo + on a", "1:10: parse error: unexpected identifier \"a\" in grouping opts, expected \"(\""),
        ("foo + on(a b) c", "1:12: parse error: unexpected identifier \"b\" in grouping opts, expected \",\" or \")\""),
        ("foo + on(a) group_left [5m]", "1:24: parse error: unexpected \"[\" in grouping opts, expected \"(\""),
        ("by(a)", "1:3: parse error: unexpected \"(\""),
        ("a BOOL", "1:3: parse error: unexpected <BOOL>"),
        ("a avg", "1:3: parse error: unexpected <aggr:avg>"),
        ("a start", "1:3: parse error: unexpected \"start\""),
        ("a{,}", "1:3: parse error: unexpected \",\" in label matching, expected identifier or \"}\""),
        (
            "x[5m+]",
            "1:6: parse error: unexpected \"]\" in subquery or range selector, expected number, duration, step(), or range()",
        ),
        ("x[5m 3]", "1:6: parse error: unexpected number \"3\" in subquery or range, expected \":\" or \"]\""),
        ("x[5m:3m 3]", "1:9: parse error: unexpected number \"3\" in subquery selector, expected \"]\""),
        (
            "x[5m:*]",
            "1:6: parse error: unexpected <op:*> in subquery selector, expected number, duration, step(), range(), or \"]\"",
        ),
        // characters
        ("(1))", "1:5: parse error: unexpected right parenthesis ')'"),
        ("x[5m", "1:5: parse error: unclosed left bracket"),
        ("a!b", "1:2: parse error: unexpected character after '!': 'b'"),
        ("{a!b}", "1:3: parse error: unexpected character after '!' inside braces: 'b'"),
        ("x[5m::]", "1:6: parse error: unexpected colon ':'"),
        ("x[:5m]", "1:4: parse error: unexpected colon before duration in duration expression"),
        ("x[5m[", "1:5: parse error: unexpected left bracket '['"),
        ("x[5ma]", "1:3: parse error: bad number or duration syntax: \"5ma\""),
        ("x[a]", "1:3: parse error: unexpected character in duration expression: 'a'"),
        ("x[5m a]", "1:6: parse error: unexpected character: 'a', expected ':'"),
        ("'\"\\\"'", "1:1: parse error: unknown escape sequence U+0022 '\"'"),
        ("\"\\ud800\"", "1:1: parse error: escape sequence is an invalid Unicode code point"),
        ("'a\nb'", "1:1: parse error: unterminated quoted string"),
        ("x + \"\u{fffd}\"", "1:5: parse error: invalid UTF-8 rune"),
        ("é", "1:1: parse error: unexpected character: 'é'"),
        // numbers and durations
        ("1e400", "1:1: parse error: error parsing number: strconv.ParseFloat: parsing \"1e400\": value out of range"),
        ("1h1h", "1:1: parse error: not a valid duration string: \"1h1h\""),
        ("x[5m % 0]", "1:6: parse error: modulo by zero"),
        ("x offset inf", "1:10: parse error: duration out of range"),
        ("x[-1m]", "1:3: parse error: duration must be greater than 0"),
        // calls
        ("f(1,)", "1:4: parse error: trailing commas not allowed in function call args"),
        ("Rate(x[5m])", "1:1: parse error: unknown function with name \"Rate\""),
        ("label_join(x)", "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 1"),
        ("topk(x)", "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1"),
        ("sum by (\"\") (x)", "1:9: parse error: invalid label name for grouping: \"\""),
        ("info(x, y)", "1:9: parse error: expected label selectors only, got vector selector instead"),
        ("info(x, 1)", "1:1: parse error: expected type instant vector in call to function \"info\", got scalar"),
        // types
        ("count_values(1, x)", "1:14: parse error: expected type string in aggregation parameter, got scalar"),
        ("x[5m] + 1", "1:1: parse error: binary expression must contain only scalar and instant vector types"),
        ("1 + fill(1) x", "1:1: parse error: filling in missing series only allowed between instant vectors"),
        ("x and fill(1) y", "1:1: parse error: filling in missing series not allowed for set operators"),
        // modifiers
        ("x @ 1 @ 2", "1:1: parse error: @ <timestamp> may not be set multiple times"),
        ("x @ NaN", "1:1: parse error: timestamp out of bounds for @ modifier: NaN"),
        (
            "1 offset 5m",
            "1:1: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery",
        ),
        ("x anchored smoothed", "1:1: parse error: anchored and smoothed modifiers cannot be used together"),
        ("x[5m:] anchored", "1:1: parse error: anchored modifier is not supported for subqueries"),
        ("time() smoothed", "1:1: parse error: smoothed modifier not implemented"),
    ] {
        assert_eq!(error(input), want, "{input}");
    }
}

#[test]
fn gates_are_closed_by_default() {
    let stock = |input| parse_expr(input, &Options::default()).map(|e| e.to_string()).map_err(|e| e.message);
    assert_eq!(stock("info(x)"), Err("function \"info\" is not enabled".to_owned()));
    assert_eq!(
        stock("limitk(1, x)"),
        Err("limitk() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
            .to_owned())
    );
    assert_eq!(stock("x anchored"), Err("anchored modifier is experimental and not enabled".to_owned()));
    assert_eq!(stock("x + fill(1) y"), Err("binop fill modifiers are experimental and not enabled".to_owned()));
    assert_eq!(stock("xrate(x[5m])"), Err("unknown function with name \"xrate\"".to_owned()));
    assert_eq!(stock("x[5m + 1m]"), Ok("x[5m + 1m]".to_owned()));
    let closed = Options { duration_expressions: false, ..Options::ALL };
    for input in ["x[5m + 1m]", "x[step()]", "x offset (5m)", "x[min_of(1, 2)]"] {
        let message = parse_expr(input, &closed).map_err(|e| e.message);
        assert_eq!(message, Err("experimental duration expression is not enabled".to_owned()), "{input}");
    }
    assert!(parse_expr("x[5m] offset -1m", &closed).is_ok());
}

#[test]
fn selectors_and_metrics_stand_alone() {
    let matchers = parse_metric_selector("up{job=~\"a|b\"}").unwrap();
    assert_eq!(matchers.iter().map(ToString::to_string).collect::<Vec<_>>(), ["job=~\"a|b\"", "__name__=\"up\""]);
    assert!(parse_metric_selector("{}").unwrap().is_empty());
    assert_eq!(parse_metric_selector("up offset 5m").unwrap_err().message, "unexpected <offset>");
    assert_eq!(parse_metric_selector("1").unwrap_err().message, "unexpected number \"1\"");
    assert_eq!(parse_metric_selector("").unwrap_err().message, "unexpected end of input");
    assert_eq!(parse_metric("up{job=\"a\"}").unwrap().to_string(), "{__name__=\"up\", job=\"a\"}");
    assert_eq!(parse_metric("{\"a b\"}").unwrap().metric_name(), Some("a b"));
    assert!(parse_metric("up 1").is_err());
}

#[test]
fn deep_queries_are_refused_and_never_overflow_the_stack() {
    for input in [
        "(".repeat(100_000),
        format!("{}1{}", "(".repeat(100_000), ")".repeat(100_000)),
        format!("{}x", "-".repeat(100_000)),
        format!("1{}", " ^ 1".repeat(100_000)),
        "sum(".repeat(100_000),
        format!("x[{}5m]", "(".repeat(100_000)),
        format!("x offset {}5m", "-".repeat(100_000)),
    ] {
        let message = error(&input);
        assert!(message.contains("nested too deeply") || message.contains("unclosed"), "{message}");
    }
    for input in [
        format!("1{}", " + 1".repeat(100_000)),
        format!("x{}", "[5m:]".repeat(100_000)),
        format!("x[1{}]", "+1".repeat(100_000)),
    ] {
        assert!(error(&input).contains("chained too deeply"), "{}", error(&input));
    }
}

#[test]
fn the_deepest_allowed_tree_fits_a_thread_of_two_mebibytes() {
    let work = || {
        let depth = MAX_NESTING as usize - 1;
        let nested = parse(&format!("{}1{}", "(".repeat(depth), ")".repeat(depth)));
        let chained = parse(&format!("1{}", " + 1".repeat(MAX_HEIGHT as usize - 1)));
        for e in [nested, chained] {
            assert_eq!(parse(&e.to_string()).to_string(), e.to_string());
            assert!(json::ast_json(&e).is_object());
            assert!(!prettify(&e).is_empty());
            let mut nodes = 0;
            e.walk(&mut |_| nodes += 1);
            assert!(nodes >= depth);
        }
    };
    std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap().join().unwrap();
}

#[test]
fn long_queries_are_broken_over_lines() {
    let (a, b) = ("a_rather_long_metric_name_for_a_test_total", "another_rather_long_metric_name_for_a_test_total");
    let input = format!("sum by (job) (rate({a}[5m])) / on (job) group_left () (topk(5, rate({b}[5m])))");
    assert_eq!(
        prettify(&parse(&input)),
        format!("  sum by (job) (rate({a}[5m]))\n/ on (job) group_left ()\n  (topk(5, rate({b}[5m])))")
    );
}
