//! Our expressions against Go's: random expressions and values, answers, groups and error texts compared.
//!
//! The Go program beside this file is built with the local toolchain, from the standard library alone.
//! `PANOPTES_SEED=<number>` repeats a run; `PANOPTES_RE2_ROUNDS=<number>` makes it longer.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "a test")]

use model::regex::Regex;
use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A question: expression, template, values.
struct Case {
    source: String,
    template: String,
    values: Vec<String>,
}

#[test]
fn agrees_with_go() {
    if std::env::var("PANOPTES_NO_PEERS").is_ok_and(|v| v == "1") {
        eprintln!("skipped agrees_with_go: it needs go, and PANOPTES_NO_PEERS=1 is set");
        return;
    }
    let seed = match std::env::var("PANOPTES_SEED") {
        Ok(text) => text.parse().expect("PANOPTES_SEED is a number"),
        Err(_) => std::hash::RandomState::new().build_hasher().finish(),
    };
    let rounds: usize = std::env::var("PANOPTES_RE2_ROUNDS").map_or(8000, |t| t.parse().unwrap());
    eprintln!("PANOPTES_SEED={seed}");
    let mut random = Random(seed | 1);
    let mut cases = names();
    cases.extend(foldings());
    cases.extend((0..rounds).map(|n| if n % 3 == 0 { random.soup() } else { random.case() }));

    let answers = go(&cases);
    let (mut pairs, mut matches, mut errors, mut large) = (0, 0, 0, 0);
    let mut wrong = String::new();
    for (case, answer) in cases.iter().zip(&answers) {
        let ours = ours(case);
        pairs += case.values.len();
        matches += ours.iter().skip(1).filter(|a| *a != "-").count();
        errors += usize::from(ours[0] == "E");
        // Our one bound that is tighter than Go's: the automaton of a large class many times.
        if ours[0] == "E" && answer[0] == "M" && text(&ours[1]).contains("expression too large") {
            large += 1;
            continue;
        }
        if &ours != answer {
            let Case { source, template, values } = case;
            writeln!(wrong, "{source:?} into {template:?}").unwrap();
            if ours.len() == answer.len() && ours[0] == "M" {
                let answers = ours.iter().zip(answer).skip(1).zip(values);
                for ((ours, go), value) in answers.filter(|((ours, go), _)| ours != go) {
                    writeln!(wrong, "  on {value:?}: ours {:?}, go {:?}", text(ours), text(go)).unwrap();
                }
            } else {
                let line = |answers: &[String]| answers.iter().map(|a| text(a)).collect::<Vec<_>>().join(" ");
                writeln!(wrong, "  ours {}\n  go   {}", line(&ours), line(answer)).unwrap();
            }
        }
    }
    eprintln!("{} expressions, {pairs} pairs, {matches} of them match, {errors} expressions refused", cases.len());
    assert!(large * 500 < cases.len(), "{large} expressions too large");
    assert!(wrong.is_empty(), "PANOPTES_SEED={seed}\n{wrong}");
    if rounds >= 8000 {
        assert!(pairs >= 20_000 && matches >= 4_000 && errors >= 500, "the generator has become dull");
    }
}

/// What the Go program would print about us.
fn ours(case: &Case) -> Vec<String> {
    match Regex::new(&case.source) {
        Err(e) => vec!["E".to_owned(), hex(&e.to_string())],
        Ok(r) => {
            let mut answers = vec!["M".to_owned()];
            for value in &case.values {
                let expanded = r.captures_expand(value, &case.template);
                assert_eq!(r.is_match(value), expanded.is_some(), "{} on {value:?}", case.source);
                answers.push(expanded.map_or_else(|| "-".to_owned(), |t| hex(&t)));
            }
            answers
        }
    }
}

/// Runs the Go program over all cases.
fn go(cases: &[Case]) -> Vec<Vec<String>> {
    let program = build();
    let mut child =
        Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the Go program starts");
    let mut input = child.stdin.take().unwrap();
    let mut questions = String::new();
    for case in cases {
        write!(questions, "{} {}", hex(&case.source), hex(&case.template)).unwrap();
        for value in &case.values {
            write!(questions, " {}", hex(value)).unwrap();
        }
        questions.push('\n');
    }
    let writer = std::thread::spawn(move || input.write_all(questions.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "the Go program failed");
    let answers: Vec<Vec<String>> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| line.split(' ').map(str::to_owned).collect())
        .collect();
    assert_eq!(answers.len(), cases.len());
    answers
}

/// Builds the Go program; nothing is downloaded.
fn build() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join("re2");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("re2");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(&folder)
        .envs([("GOTOOLCHAIN", "local"), ("GOPROXY", "off"), ("GOWORK", "off"), ("CGO_ENABLED", "0")])
        .status();
    match built {
        Ok(status) => assert!(status.success(), "`go build` in {} failed", folder.display()),
        Err(e) => panic!("no Go toolchain ({e}): install go, or set PANOPTES_NO_PEERS=1 to pass over this test"),
    }
    program
}

fn hex(text: &str) -> String {
    text.bytes().fold(".".to_owned(), |mut out, b| {
        write!(out, "{b:02x}").unwrap();
        out
    })
}

fn text(field: &str) -> String {
    let Some(digits) = field.strip_prefix('.') else { return field.to_owned() };
    let bytes: Vec<u8> =
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Every named class, over a sample of characters without those that came after Unicode 15.
fn names() -> Vec<Case> {
    let categories = "C Cc Cf Cn Co Cs L LC Ll Lm Lo Lt Lu M Mc Me Mn N Nd Nl No P Pc Pd Pe Pf Pi Po Ps S Sc Sk Sm So Z Zl \
        Zp Zs Cased_Letter Close_Punctuation Combining_Mark Connector_Punctuation Control Currency_Symbol \
        Dash_Punctuation Decimal_Number Enclosing_Mark Final_Punctuation Format Initial_Punctuation Letter Letter_Number \
        Line_Separator Lowercase_Letter Mark Math_Symbol Modifier_Letter Modifier_Symbol Nonspacing_Mark Number \
        Open_Punctuation Other Other_Letter Other_Number Other_Punctuation Other_Symbol Paragraph_Separator Private_Use \
        Punctuation Separator Space_Separator Spacing_Mark Surrogate Symbol Titlecase_Letter Unassigned Uppercase_Letter \
        cntrl digit punct Any Assigned ASCII any lu uppercase-letter Garay Foo Grek";
    let scripts = "Adlam Arabic Armenian Bengali Braille Cherokee Common Coptic Cyrillic Devanagari Ethiopic Georgian Greek \
        Han Hangul Hebrew Hiragana Inherited Kannada Katakana Khmer Lao Latin Malayalam Mongolian Myanmar Nko Ogham Oriya \
        Runic Sinhala Tamil Telugu Thaana Thai Tibetan Yi";
    let new = Regex::new(r"\p{Cn}").unwrap();
    let old = regex_automata::meta::Regex::new(r"^\p{age=15.0}$").unwrap();
    let values: Vec<String> = (0..0x3000u32)
        .step_by(37)
        .chain((0x3000..0x1_0000).step_by(509))
        .chain((0..0x180).step_by(7))
        .chain([0x17F, 0x212A, 0x1C5, 0x3C2, 0x1E9E, 0x1E900, 0x1E943, 0xE000, 0xD7FF, 0xFFFD, 0x10_FFFF, 0x378])
        .filter_map(char::from_u32)
        .map(String::from)
        .filter(|c| old.is_match(c) || new.is_match(c))
        .collect();
    let classes = "alnum alpha ascii blank cntrl digit graph lower print punct space upper word xdigit";
    categories
        .split_ascii_whitespace()
        .chain(scripts.split_ascii_whitespace())
        .flat_map(|n| {
            [format!("\\p{{{n}}}"), format!("(?i)\\P{{{n}}}"), format!("[^\\p{{^{n}}}]"), format!("(?i)\\p{{{n}}}")]
        })
        .chain(
            classes.split(' ').flat_map(|n| [format!("[[:{n}:]]"), format!("(?i)[[:^{n}:]]"), format!("[^[:{n}:]]")]),
        )
        .chain("dDsSwWbB".chars().flat_map(|c| [format!("\\{c}."), format!("(?i)\\{c}."), format!("[^\\{c}].?")]))
        .map(|source| Case { source, template: String::new(), values: values.clone() })
        .collect()
}

/// Every letter of Unicode 15 that has another case, on the letters that differ from it by case or nearly so.
fn foldings() -> Vec<Case> {
    let old = regex_automata::meta::Regex::new(r"^\p{age=15.0}+$").unwrap();
    let letters = (0..0x1_F000u32).filter_map(char::from_u32).filter(|c| old.is_match(c.to_string().as_str()));
    letters
        .filter_map(|c| {
            let lower: String = c.to_lowercase().collect();
            let upper: String = c.to_uppercase().collect();
            let once = c.to_string();
            if lower == once && upper == once {
                return None;
            }
            let again: String = upper.to_lowercase();
            let mut values = vec![once, lower, upper, again];
            values.retain(|v| old.is_match(v.as_str())); // capitals that came later
            Some(Case { source: format!("(?i){c}"), template: String::new(), values })
        })
        .collect()
}

/// A small generator of random numbers (xorshift), so that a seed repeats a run on any machine.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % n as u64).unwrap()
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn value(&mut self) -> String {
        let n = self.below(7);
        (0..n).map(|_| self.pick(LETTERS)).collect()
    }

    fn template(&mut self) -> String {
        let n = self.below(5);
        (0..n).map(|_| self.pick(TEMPLATE)).collect()
    }

    /// A few values; the given one is what the expression should match, more or less.
    fn values(&mut self, likely: &str) -> Vec<String> {
        let mut values = vec![likely.to_owned(), format!("{likely}{}", self.pick(LETTERS)), self.value(), self.value()];
        if self.below(2) == 0 {
            values.push(likely.to_uppercase());
        }
        values
    }

    /// Pieces of syntax in any order: mostly errors.
    fn soup(&mut self) -> Case {
        let n = 1 + self.below(8);
        let source: String = (0..n).map(|_| self.pick(SOUP)).collect();
        let values = vec![self.value(), self.value(), String::new()];
        Case { source, template: self.template(), values }
    }

    /// An expression that is right by construction.
    fn case(&mut self) -> Case {
        let depth = 1 + self.below(4);
        let (source, likely) = self.expression(depth);
        let values = self.values(&likely);
        Case { source, template: self.template(), values }
    }

    /// An expression and a value it is likely to match.
    fn expression(&mut self, depth: usize) -> (String, String) {
        if depth == 0 {
            return match self.below(12) {
                0 => (".".to_owned(), self.pick(LETTERS).to_owned()),
                1 => (
                    self.pick(&["^", "$", r"\b", r"\B", r"\A", r"\z", "(?m:^)", "(?m:$)", ""]).to_owned(),
                    String::new(),
                ),
                2 => {
                    let (class, one) = self.class();
                    (class, one)
                }
                3 => (self.pick(&[".*", ".+", ".*?", "(?-s:.*)"]).to_owned(), self.value()),
                4 => {
                    let c = self.pick(&["a", "K", "é", "1"]);
                    (format!("(?i:{c})"), self.pick(&[c, "A", "k", "É"]).to_owned())
                }
                5 => {
                    let pair = [
                        ("\\.", "."),
                        ("\\x41", "A"),
                        ("\\101", "A"),
                        ("\\n", "\n"),
                        ("\\Qa.\\E", "a."),
                        ("\\x{e9}", "é"),
                    ][self.below(6)];
                    (pair.0.to_owned(), pair.1.to_owned())
                }
                _ => {
                    let n = 1 + self.below(3);
                    let text: String = (0..n).map(|_| self.pick(LETTERS)).collect();
                    (text.replace('.', "\\."), text)
                }
            };
        }
        match self.below(9) {
            0..=2 => {
                let n = 1 + self.below(4);
                (0..n).fold((String::new(), String::new()), |(mut s, mut v), _| {
                    let (source, value) = self.expression(depth - 1);
                    s.push_str(&source);
                    v.push_str(&value);
                    (s, v)
                })
            }
            3..=5 => {
                let n = 1 + self.below(4);
                let branches: Vec<_> = (0..n).map(|_| self.expression(depth - 1)).collect();
                let chosen = branches[self.below(n)].1.clone();
                let all: Vec<_> = branches.into_iter().map(|(s, _)| s).collect();
                let open = self.pick(&["(", "(?:", "(?P<n>", "(?<m>", "(?i:", "(?U:", "(?s-i:", "(?-s:", "(?m:"]);
                (format!("{open}{})", all.join("|")), chosen)
            }
            6 | 7 => {
                let (source, value) = self.expression(depth - 1);
                let operator =
                    self.pick(&["*", "+", "?", "*?", "+?", "??", "{2}", "{0,2}", "{1,3}?", "{2,}", "{0}", "{1}"]);
                let open = self.pick(&["(", "(?:"]);
                let times = if operator.starts_with("{2") { 2 } else { self.below(2) };
                (format!("{open}{source}){operator}"), value.repeat(times))
            }
            _ => self.expression(0),
        }
    }

    fn class(&mut self) -> (String, String) {
        let n = 1 + self.below(3);
        let mut inside = String::new();
        let mut one = String::new();
        for _ in 0..n {
            let (text, member) = [
                ("a", "a"),
                ("a-k", "b"),
                ("\\d", "1"),
                ("\\W", "é"),
                ("[:upper:]", "K"),
                ("[:^digit:]", "k"),
                ("\\pL", "é"),
                ("\\P{Lu}", "1"),
                ("\\x{e9}", "é"),
                ("&&", "&"),
                ("~", "~"),
                ("^", "^"),
                ("[", "["),
                ("\\n", "\n"),
                ("ſ", "s"),
            ][self.below(15)];
            inside.push_str(text);
            one = member.to_owned();
        }
        let not = self.pick(&["", "", "^"]);
        (format!("{}[{not}{inside}]", self.pick(&["", "", "(?i)"])), one)
    }
}

const LETTERS: &[&str] =
    &["a", "b", "k", "K", "A", "s", "ſ", "\u{212a}", "é", "É", "\n", "1", "-", ".", "σ", "ς", "Σ", "日"];

const TEMPLATE: &[&str] = &["$1", "${1}", "$2", "$n", "${m}", "$$", "$", "-", "$1x", "${", "}", "$0", "é", "$é", "$10"];

const SOUP: &[&str] = &[
    "a",
    "b",
    "K",
    "é",
    "1",
    ".",
    "*",
    "+",
    "?",
    "|",
    "(",
    ")",
    ")",
    "[",
    "]",
    "^",
    "$",
    "-",
    "{",
    "}",
    ",",
    "{1}",
    "{2,1}",
    "{1,2}",
    "{,2}",
    "{3,}",
    "{1001}",
    "{01}",
    "{99999999999}",
    "{500}",
    "(?",
    "(?i)",
    "(?:",
    "(?P<n>",
    "(?<n>",
    "(?P<",
    "(?<",
    "(?P=n)",
    "(?-)",
    "(?i-s:",
    "(?--i)",
    "(?x)",
    "(?=",
    "(?!",
    "(?<=",
    ">",
    "\\",
    "\\d",
    "\\pL",
    "\\p{Greek}",
    "\\p{^Lu}",
    "\\p{Foo}",
    "\\p{",
    "\\p",
    "\\P",
    "\\x",
    "\\x4",
    "\\x41",
    "\\x{41}",
    "\\x{",
    "\\x{110000}",
    "\\x{}",
    "\\0",
    "\\1",
    "\\12",
    "\\8",
    "\\377",
    "\\Q",
    "\\E",
    "\\b",
    "\\B",
    "\\A",
    "\\z",
    "\\Z",
    "\\C",
    "\\q",
    "\\_",
    "\\é",
    "\\n",
    "[a",
    "[^",
    "[]",
    "[a-]",
    "[b-a]",
    "[a-\\d]",
    "[[:alpha:]]",
    "[[:foo:]]",
    "[:word:]",
    "[[:^word:]",
    "&&",
    "[a&&b]",
    "\n",
    " ",
    "#",
    "\u{212a}",
];
