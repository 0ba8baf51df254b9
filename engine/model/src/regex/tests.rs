use super::*;
use proptest::prelude::*;

fn regex(source: &str) -> Regex {
    Regex::new(source).unwrap_or_else(|e| panic!("{source}: {e}"))
}

/// The answer of the automaton alone.
fn slow(r: &Regex, value: &str) -> bool {
    r.finder().map_or_else(|| r.is_match(value), |finder| finder.is_match(value))
}

#[test]
fn constructs() {
    // expression, values that match, values that don't
    let table: &[(&str, &[&str], &[&str])] = &[
        ("", &[""], &["a"]),
        ("foo", &["foo"], &["", "fo", "fooo", "xfoo", "FOO"]),
        (".*", &["", "a", "a\nb"], &[]),
        (".+", &["a", "\n"], &[""]),
        (".", &["a", "\n", "é"], &["", "ab"]),
        ("(?-s).*", &["", "ab"], &["a\nb"]),
        ("(?-s:.)", &["a"], &["\n"]),
        ("^foo$", &["foo"], &["foo\n"]),
        ("^foo$|^bar$", &["foo", "bar"], &["foobar"]),
        (r"\Afoo\z", &["foo"], &["fo"]),
        ("a$b", &[], &["ab", "a$b", "a\nb"]),
        ("(?m)a$\n^b", &["a\nb"], &["ab"]),
        (r"\d+", &["0123"], &["", "٣"]),
        (r"\D", &["a", "٣"], &["1"]),
        (r"\w", &["_", "Z", "0"], &["é", "-"]),
        (r"\W", &["é", "-"], &["_"]),
        (r"\s", &[" ", "\t", "\n", "\x0c", "\r"], &["\x0b", "\u{a0}"]),
        (r"a\b.*", &["a", "a b", "aé"], &["ab"]),
        (r"a\B.*", &["ab"], &["a", "aé"]),
        (r"\pL", &["é", "Z"], &["1"]),
        (r"\PL", &["1"], &["é"]),
        (r"\p{^L}", &["1"], &["é"]),
        (r"\p{Greek}+", &["αβ"], &["ab"]),
        (r"\p{ greek }", &["α"], &["a"]),
        (r"\p{Lowercase_Letter}\p{lu}", &["aB"], &["Ba"]),
        (r"\p{Old_Italic}", &["𐌀"], &["a"]),
        (r"[[:alpha:]]", &["a"], &["1", "é", ":"]),
        (r"[[:^alpha:]]", &["1", "é"], &["a"]),
        (r"[[:alpha:]1-]+", &["a1-"], &["2"]),
        (r"[[]", &["["], &["]"]),
        (r"[]a]", &["]", "a"], &["[", ""]),
        (r"[^]a]", &["b", "\n"], &["]", "a"]),
        (r"[a&&b]", &["a", "b", "&"], &["", "&&"]),
        (r"[a~~b]", &["~"], &["c"]),
        (r"[+--b]", &["-", "+", ",", "b"], &["a"]),
        (r"[^\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]", &[], &["\u{D7FF}", "\u{E000}", "a"]),
        (r"[^\x{0}-\x{D8FF}]", &["\u{E000}"], &["\u{D7FF}"]),
        (r"[\P{Lu}]\P{Co}", &["a\u{D7FF}"], &["Aa", "a\u{E000}"]),
        (r"[a-]", &["a", "-"], &["b"]),
        (r"[a\]b]", &["]", "a"], &["\\"]),
        (r"[\d\-x]", &["3", "-", "x"], &["\\", "d"]),
        (r"[\n\x41\x{263a}\101]", &["\n", "A", "☺"], &["x"]),
        (r"[^\x{0}-\x{10FFFF}]", &[], &["", "a"]),
        (r"(?i)foo", &["foo", "FOO", "fOo"], &["fo"]),
        (r"(?i)k", &["k", "K", "\u{212a}"], &["c"]),
        (r"(?i)\w", &["ſ", "\u{212a}"], &["é"]),
        (r"(?i)[^k]", &["a"], &["K", "k", "\u{212a}"]),
        (r"(?i)é", &["É", "é"], &["e"]),
        (r"(?i:a)b", &["Ab", "ab"], &["aB"]),
        (r"a(?i)b|c", &["aB", "C", "c"], &["AB"]),
        (r"(?i)a(?-i:b)", &["Ab"], &["AB"]),
        (r"a{2}", &["aa"], &["a", "aaa"]),
        (r"a{2,}", &["aa", "aaaaa"], &["a"]),
        (r"a{1,3}", &["a", "aaa"], &["", "aaaa"]),
        (r"a{,2}", &["a{,2}"], &["a", "aa"]),
        (r"a{", &["a{"], &["a"]),
        (r"a{1", &["a{1"], &["a"]),
        (r"a{01}", &["a{01}"], &["a"]),
        (r"a{0}", &[""], &["a"]),
        (r"a{0,0}b", &["b"], &["ab"]),
        (r"\Qa.b\E+", &["a.b", "a.bbb"], &["axb"]),
        (r"\Qa\b", &["a\\b"], &["a"]),
        (r"\Q\E", &[""], &["a"]),
        (r"a*\Q\E*", &["", "aa"], &["b"]),
        (r"\0\07\101\x41\x{41}", &["\0\x07AAA"], &[]),
        (r"\a\f\t\n\r\v\_\-\/", &["\x07\x0c\t\n\r\x0b_-/"], &[]),
        (r"(?P<x>a)(?<y>b)", &["ab"], &["a"]),
        (r"(?P<x>a)(?P<x>b)", &["ab"], &["a"]),
        (r"(?U)a+?", &["a", "aa"], &[""]),
        (r"|a", &["", "a"], &["b"]),
        (r"(|a)b", &["b", "ab"], &["a"]),
        (r"()*", &[""], &["a"]),
        (r"\x{D800}", &[], &["a", "\u{FFFD}"]),
        (r"é+", &["éé"], &["e"]),
        ("a]b}", &["a]b}"], &["ab"]),
        ("foo.*oo", &["foooo", "foo-oo"], &["foo", "fooo"]),
        (".*foo.+oo", &["foo-oo"], &["foooo", "fooo", "foo"]),
        (".+.+", &["ab", "éé"], &["a", "é"]),
        ("(a|ab).*bc", &["abc", "abbc"], &["bc", "ac"]),
        ("(?:^a){1,2}b?", &["a", "ab"], &["aa", "aab"]),
        ("(?:a$){1,2}", &["a"], &["aa"]),
        (r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*", &["", "a"], &[]),
    ];
    for (source, yes, no) in table {
        let r = regex(source);
        for (values, want) in [(yes, true), (no, false)] {
            for value in *values {
                assert_eq!(r.is_match(value), want, "{source} on {value:?}");
                assert_eq!(slow(&r, value), want, "{source} on {value:?}, automaton");
            }
        }
    }
}

#[test]
fn errors() {
    let long = format!("{}a{}", "(".repeat(1001), ")".repeat(1001));
    let table: &[(&str, &str)] = &[
        ("[a", "missing closing ]: `[a`"),
        ("x[", "missing closing ]: `[`"),
        ("x[^]", "missing closing ]: `[^]`"),
        ("(a", "missing closing ): `(a`"),
        ("a)", "unexpected ): `a)`"),
        ("a)(b", "unexpected ): `a)(b`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a|*?b", "missing argument to repetition operator: `*?`"),
        ("(+)", "missing argument to repetition operator: `+`"),
        ("{1,2}", "missing argument to repetition operator: `{1,2}`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a+?*b", "invalid nested repetition operator: `+?*`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("a{99999999999}", "invalid repeat count: `{99999999999}`"),
        ("(a{100}){100}", "invalid repeat count: `{100}`"),
        ("[a--b]", "invalid character class range: `a--`"),
        ("[b-a]", "invalid character class range: `b-a`"),
        ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
        (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
        (r"\p", r"invalid character class range: `\p`"),
        (r"a\p{L", r"invalid character class range: `\p{L`"),
        (r"\p{Garay}", r"invalid character class range: `\p{Garay}`"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\q", r"invalid escape sequence: `\q`"),
        (r"\é", r"invalid escape sequence: `\é`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        (r"\xg1", r"invalid escape sequence: `\xg1`"),
        (r"\x4", r"invalid escape sequence: `\x4`"),
        (r"\x{110000}", r"invalid escape sequence: `\x{110000`"),
        (r"\x{}", r"invalid escape sequence: `\x{}`"),
        (r"[\b]", r"invalid escape sequence: `\b`"),
        (r"a\", "trailing backslash at end of expression: ``"),
        ("(?!a)", "invalid or unsupported Perl syntax: `(?!`"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?x)", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
        ("(?", "invalid or unsupported Perl syntax: `(?`"),
        ("(?i-)", "invalid or unsupported Perl syntax: `(?i-)`"),
        ("(?<a", "invalid named capture: `(?<a`"),
        ("(?P<a-b>x)", "invalid named capture: `(?P<a-b>`"),
        ("(?P<>x)", "invalid named capture: `(?P<>`"),
    ];
    for (source, want) in table {
        let got = Regex::new(source).expect_err(source).to_string();
        assert_eq!(got, format!("error parsing regexp: {want}"), "{source}");
    }
    let got = Regex::new(&long).expect_err("too deep").to_string();
    assert!(got.starts_with("error parsing regexp: expression nests too deeply: `(((("), "{got:.80}");
}

#[test]
fn bombs_are_errors_or_fit() {
    for source in [r"(\pL{100}\pN{100}){5}", r"((\pL|\pN|\pS){30}){30}", r"(?i)(\p{Any}\pL\pM){300}"] {
        let got = Regex::new(source).expect_err(source).to_string();
        assert_eq!(got, format!("error parsing regexp: expression too large: `{source}`"));
    }
    let classes = r"\pL".repeat(20_000);
    assert!(Regex::new(&classes).is_err());
    let folds = r"(?i)[\x00-\x{1e900}]".repeat(5_000);
    assert!(Regex::new(&folds).is_err());
    assert!(Regex::new(&"(?:".repeat(100_000)).is_err());
    assert!(Regex::new(&"(".repeat(100_000)).is_err());
    assert!(Regex::new(&"((a{100}){10}){10}".repeat(10)).is_err());
    assert!(regex("(x+x+)+y").is_match(&format!("{}y", "x".repeat(5000))));
    assert!(!regex("(x+x+)+y").is_match(&"x".repeat(5000)));
    let large: Vec<String> = (0..50_000).map(|i| format!("instance-{i:06}.example.com:9090")).collect();
    let r = regex(&large.join("|").replace('.', r"\."));
    assert!(r.is_match(&large[777]) && !r.is_match("instance-"));
    assert_eq!(r.set_matches().unwrap().len(), 50_000);
    assert_eq!(r.prefix(), Some("instance-0"));
    assert_eq!(r.captures_expand(&large[777], "<$0>"), Some(format!("<{}>", large[777])));
}

/// A place for each group in each state: 3,275 groups in 16 KiB took 3.8 GB.
#[test]
fn many_groups_cost_nothing_until_they_are_asked_for() {
    let r = regex(&"|.*()".repeat(3275));
    assert!(r.is_match("anything") && r.held_bytes() < 16 << 20);
    assert!(r.check_groups().unwrap_err().to_string().contains("too many groups"));
    assert!(regex("(.*):([0-9]+)").check_groups().is_ok());
    assert!(regex(&r"([a-z]+)\.?".repeat(20)).check_groups().is_ok());
}

#[test]
fn deep_trees_need_no_deep_stack() {
    let test = || {
        for (open, close, times) in [("(", ")", 99), ("(", ")", 999), ("(?:b", ")*", 490), ("(a|b", ")", 330)] {
            let r = regex(&format!("{}a{}", open.repeat(times), close.repeat(times)));
            assert!(slow(&r, if open == "(?:b" { "" } else { "a" }));
            assert!(!r.is_match("x"));
            if times == 99 {
                assert_eq!(r.captures_expand("a", &format!("<${times}>")).as_deref(), Some("<a>"));
            }
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(test).unwrap().join().unwrap();
}

#[test]
fn expansion() {
    let table: &[(&str, &str, &str, Option<&str>)] = &[
        ("(.*)", "abc", "$1", Some("abc")),
        ("(a)(b)?", "a", "$1-$2-", Some("a--")),
        ("(.*):(.*)", "host:90", "$2:${1}", Some("90:host")),
        ("(.*)", "abc", "$1x", Some("")),
        ("(.*)", "abc", "${1}x$$1 $", Some("abcx$1 $")),
        ("(.*)", "abc", "$0", Some("abc")),
        ("(.*)", "abc", "$9 $01 ${ 1} ${1", Some("  ${ 1} ${1")),
        ("(?P<n>a)(?P<n>b)?(?<m>c)", "ac", "$n|$m|$3|$k", Some("a|c|c|")),
        ("(?:(?P<n>a)|(?P<n>b))", "b", "$n", Some("b")),
        ("(a){0}(b)", "b", "$1$2", Some("b")),
        ("(a|b)*", "ab", "$1", Some("b")),
        ("(a*?)(a*)", "aa", "$1,$2", Some(",aa")),
        ("(?U)(a*)(a*?)", "aa", "$1,$2", Some(",aa")),
        ("(foo|bar)", "bar", "$1", Some("bar")),
        ("(foo|bar)", "baz", "$1", None),
        ("a.(b)", "xx", "$1", None),
        ("foo", "foo", "plain", Some("plain")),
        ("(é)", "é", "$1é|${1é}|$é", Some("||")),
        ("(.*)", "a", "$123456789012", Some("")),
    ];
    for (source, value, template, want) in table {
        let got = regex(source).captures_expand(value, template);
        assert_eq!(got.as_deref(), *want, "{source} on {value} into {template}");
    }
}

#[test]
fn short_cuts() {
    // expression, the set it is; None: a short cut, but no set
    let table: &[(&str, Option<&[&str]>)] = &[
        ("", Some(&[""])),
        ("foo", Some(&["foo"])),
        ("^foo$", Some(&["foo"])),
        ("foo|bar|", Some(&["", "bar", "foo"])),
        ("(foo|bar)", Some(&["bar", "foo"])),
        ("foo(1|2)x?", Some(&["foo1", "foo1x", "foo2", "foo2x"])),
        ("pre(a|b(c|d))", Some(&["prea", "prebc", "prebd"])),
        (r"10\.0\.0\.[12]", Some(&["10.0.0.1", "10.0.0.2"])),
        ("a{2,3}", Some(&["aa", "aaa"])),
        ("[^\\x00-\\x{10ffff}]", Some(&[])),
        ("(?i)ab", Some(&["AB", "Ab", "aB", "ab"])),
        ("(?i)a1|[b]", Some(&["A1", "B", "a1", "b"])),
        ("(?i)production|staging", None),
        (".*", None),
        (".+", None),
        ("foo.*", None),
        (".*foo", None),
        (".*(foo|bar).*", None),
        ("foo.*|.+bar|baz", None),
        ("(?i)foo.*", None),
        ("a.*b.+c", None),
        ("(^a)?.*", None),
        (r"[\s\S]+", None),
        (r"[\x{0}-\x{D7FF}\x{E000}-\x{10FFFF}]*", None),
    ];
    for (source, want) in table {
        let r = regex(source);
        assert!(r.0.fast.is_some(), "{source} has a short cut");
        let set = r.set_matches().map(|s| s.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(set.as_deref(), *want, "{source}");
    }
    for source in ["a+", r"\d+", "[a-z]{4}", "foo.bar", r".*\bfoo", "(?i:a)b", "(?-s).*", "a.?", "(?i)é"] {
        assert!(regex(source).0.fast.is_none(), "{source} has none");
    }
}

#[test]
fn prefixes() {
    let table: &[(&str, Option<&str>)] = &[
        ("foo.*", Some("foo")),
        ("foo|fob", Some("fo")),
        ("^(foo|fob)x", Some("fo")),
        ("(a)b[cd]", Some("ab")),
        ("ab+c", Some("ab")),
        ("ab*c", Some("a")),
        ("(?i)foo", None),
        ("a(?i)b", Some("a")),
        (".*foo", None),
        ("foo|", None),
        ("é1|é2", Some("é")),
    ];
    for (source, want) in table {
        assert_eq!(regex(source).prefix(), *want, "{source}");
    }
}

/// Expressions that mostly have a short cut.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        6 => "[abkKsé]{1,3}",
        2 => Just(".*".to_owned()),
        2 => Just(".+".to_owned()),
        1 => Just("[aAb]".to_owned()),
        1 => Just("[kK]".to_owned()),
        1 => Just("^".to_owned()),
        1 => Just("$".to_owned()),
        1 => Just(String::new()),
        1 => Just("(?i)".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            4 => prop::collection::vec(inner.clone(), 1..4).prop_map(|v| v.concat()),
            3 => prop::collection::vec(inner.clone(), 1..4).prop_map(|v| format!("({})", v.join("|"))),
            1 => inner.clone().prop_map(|s| format!("(?:{s})?")),
            1 => inner.clone().prop_map(|s| format!("(?:{s}){{1,2}}")),
            1 => inner.prop_map(|s| format!("(?i:{s})")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn short_cut_says_what_the_automaton_says(
        source in expression(),
        values in prop::collection::vec("[abABkKsSéÉ\u{212a}ſ\n]{0,6}", 1..12),
    ) {
        let r = regex(&source);
        for value in values.iter().map(String::as_str).chain(r.set_matches().unwrap_or_default().iter().map(String::as_str)) {
            let want = slow(&r, value);
            prop_assert_eq!(r.is_match(value), want, "{} on {:?}", source, value);
            if want {
                prop_assert!(value.starts_with(r.prefix().unwrap_or_default()));
                if let Some(set) = r.set_matches() {
                    prop_assert!(set.iter().any(|v| v == value), "{} lacks {:?}", source, value);
                }
            }
        }
        if let Some(set) = r.set_matches() {
            prop_assert!(set.iter().all(|v| slow(&r, v)), "{} has too much in {:?}", source, set);
        }
    }

    #[test]
    fn any_text_is_safe(source in "(\\PC|[(){}\\[\\]\\\\?*+|^$.:,PpQE<>i\\-0-9]){0,40}", value in "\\PC{0,10}") {
        if let Ok(r) = Regex::new(&source) {
            let _ = r.is_match(&value);
            let _ = r.captures_expand(&value, &source);
        }
    }
}
