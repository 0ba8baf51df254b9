//! Syntax of the templates in alerts' labels and annotations (Go's text/template). Prometheus does not start on a rule file
//! with a broken one, so it must be found here. Only what Go's parser finds is looked for, nothing is evaluated.

use std::iter::Peekable;
use std::vec::IntoIter;

/// Functions of text/template, then Prometheus's.
const FUNCTIONS: &[&str] = &[
    "and",
    "call",
    "eq",
    "ge",
    "gt",
    "html",
    "index",
    "js",
    "le",
    "len",
    "lt",
    "ne",
    "not",
    "or",
    "print",
    "printf",
    "println",
    "slice",
    "urlquery", //
    "args",
    "externalURL",
    "first",
    "graphLink",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "label",
    "match",
    "now",
    "parseDuration",
    "pathPrefix",
    "query",
    "reReplaceAll",
    "safeHtml",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "title",
    "toDuration",
    "toLower",
    "toTime",
    "toUpper",
    "urlQueryEscape",
    "value",
];
/// Variables that Prometheus declares before the text.
const VARIABLES: &[&str] = &["$", "$labels", "$externalLabels", "$externalURL", "$value"];
/// Nesting that no sensible template has.
const MAX_DEPTH: usize = 100;

/// Whether Prometheus would read the text; else why not.
pub(super) fn check(text: &str) -> Result<(), String> {
    let variables = VARIABLES.iter().map(|name| (*name).to_owned()).collect();
    let mut blocks = Blocks { variables, open: Vec::new(), in_range: false };
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("{{") {
        let (tokens, after) = lex(after)?;
        rest = after;
        if let Some(tokens) = tokens {
            blocks.action(tokens)?;
        }
    }
    match blocks.open.last() {
        Some(block) => Err(format!("{{{{{}}}}} has no {{{{end}}}}", block.keyword)),
        None => Ok(()),
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Space,
    Word(String),
    Variable(String),
    Field,
    Dot,
    Text,
    Number,
    Open,
    Close,
    Pipe,
    Comma,
    Declare,
    Assign,
}

/// The tokens of one action (none for a comment), and what follows it.
fn lex(text: &str) -> Result<(Option<Vec<Token>>, &str), String> {
    let unclosed = || "an action {{ is not closed".to_owned();
    let trimmed = text.strip_prefix('-').filter(|rest| rest.starts_with(|c: char| c.is_ascii_whitespace()));
    let mut rest = trimmed.unwrap_or(text);
    if let Some(comment) = rest.trim_start().strip_prefix("/*") {
        let (_, after) = comment.split_once("*/").ok_or("a comment is not closed")?;
        let end = after.strip_prefix("}}").or_else(|| after.trim_start().strip_prefix("-}}"));
        return end.map(|after| (None, after)).ok_or_else(|| "a comment must fill its action".to_owned());
    }
    let mut tokens = Vec::new();
    loop {
        let c = rest.chars().next().ok_or_else(unclosed)?;
        if let Some(after) = rest.strip_prefix("}}") {
            return Ok((Some(tokens), after));
        }
        if c.is_ascii_whitespace() {
            let after = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
            if let Some(after) = after.strip_prefix("-}}") {
                return Ok((Some(tokens), after));
            }
            tokens.push(Token::Space);
            rest = after;
            continue;
        }
        let word = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
        let (token, length) = match c {
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            '|' => (Token::Pipe, 1),
            ',' => (Token::Comma, 1),
            '=' => (Token::Assign, 1),
            ':' if rest.starts_with(":=") => (Token::Declare, 2),
            '"' | '\'' => (Token::Text, quoted(rest, c)?),
            '`' => (Token::Text, rest[1..].find('`').ok_or("a raw string is not closed")? + 2),
            '$' => {
                let end = 1 + word(&rest[1..]);
                (Token::Variable(rest[..end].to_owned()), end)
            }
            '.' if rest[1..].starts_with(|c: char| c.is_ascii_digit()) => (Token::Number, number(rest)?),
            '.' => match word(&rest[1..]) {
                0 => (Token::Dot, 1),
                length => (Token::Field, 1 + length),
            },
            '0'..='9' | '+' | '-' => (Token::Number, number(rest)?),
            c if c.is_alphabetic() || c == '_' => {
                let end = word(rest);
                (Token::Word(rest[..end].to_owned()), end)
            }
            other => return Err(format!("the character {other:?} has no place in an action")),
        };
        tokens.push(token);
        rest = &rest[length..];
    }
}

/// Length of a quoted string, or of a single character in single quotes, with Go's escapes.
fn quoted(text: &str, quote: char) -> Result<usize, String> {
    let mut rest = &text[1..];
    let mut length = 0usize;
    loop {
        let c = rest.chars().next().filter(|c| *c != '\n').ok_or("a string is not closed")?;
        rest = &rest[c.len_utf8()..];
        if c == quote {
            break;
        }
        length += 1;
        if c != '\\' {
            continue;
        }
        let escape = rest.chars().next().ok_or("a string is not closed")?;
        let digits = match escape {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => 1,
            c if c == quote => 1,
            'x' => 3,
            '0'..='7' => 3,
            'u' => 5,
            'U' => 9,
            other => return Err(format!("a string holds the unknown escape \\{other}")),
        };
        let escaped = rest.get(..digits).ok_or("a string holds a broken escape")?;
        let good = match escape {
            'x' | 'u' | 'U' => escaped[1..].chars().all(|c| c.is_ascii_hexdigit()),
            '0'..='7' => escaped.chars().all(|c| matches!(c, '0'..='7')),
            _ => true,
        };
        if !good {
            return Err("a string holds a broken escape".to_owned());
        }
        rest = &rest[digits..];
    }
    if quote == '\'' && length != 1 {
        return Err("single quotes hold one character".to_owned());
    }
    Ok(text.len() - rest.len())
}

/// Length of a number.
fn number(text: &str) -> Result<usize, String> {
    let end = text
        .char_indices()
        .find(|(at, c)| {
            let sign = matches!(c, '+' | '-') && (*at == 0 || text[..*at].ends_with(['e', 'E', 'p', 'P']));
            !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_') || sign)
        })
        .map_or(text.len(), |(at, _)| at);
    let digits = text[..end].trim_start_matches(['+', '-']).replace('_', "");
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let good = hexadecimal.map_or_else(
        || digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && digits.parse::<f64>().is_ok(),
        |digits| !digits.is_empty() && digits.chars().all(|c| c.is_ascii_hexdigit()),
    );
    if good { Ok(end) } else { Err(format!("{:?} is no number", &text[..end])) }
}

struct Block {
    keyword: &'static str,
    has_else: bool,
    variables: usize,
}

struct Blocks {
    variables: Vec<String>,
    open: Vec<Block>,
    /// The pipeline of a range, which may declare two variables.
    in_range: bool,
}

impl Blocks {
    fn action(&mut self, tokens: Vec<Token>) -> Result<(), String> {
        let mut tokens = Tokens(tokens.into_iter().peekable());
        tokens.skip_space();
        let keyword = match tokens.0.peek() {
            Some(Token::Word(word)) => word.clone(),
            _ => String::new(),
        };
        let keyword = keyword.as_str();
        if matches!(
            keyword,
            "if" | "with" | "range" | "end" | "else" | "define" | "template" | "block" | "break" | "continue"
        ) {
            tokens.0.next();
        }
        match keyword {
            "if" => self.begin("if", &mut tokens),
            "with" => self.begin("with", &mut tokens),
            "range" => self.begin("range", &mut tokens),
            "end" => {
                let block = self.open.pop().ok_or("{{end}} ends nothing")?;
                self.variables.truncate(block.variables);
                tokens.end()
            }
            "else" => self.otherwise(&mut tokens),
            "define" if !self.open.is_empty() => Err("{{define}} is inside of another block".to_owned()),
            "define" => {
                tokens.name()?;
                self.push("define")?;
                tokens.end()
            }
            "block" => {
                tokens.name()?;
                let variables = self.variables.len();
                self.pipeline(&mut tokens, 0)?;
                tokens.end()?;
                self.variables.truncate(variables);
                self.push("block")
            }
            "template" => {
                tokens.name()?;
                if tokens.is_empty() { Ok(()) } else { self.pipeline(&mut tokens, 0).and_then(|()| tokens.end()) }
            }
            "break" | "continue" if self.open.iter().any(|block| block.keyword == "range") => tokens.end(),
            "break" | "continue" => Err(format!("{{{{{keyword}}}}} is outside of {{{{range}}}}")),
            _ => self.pipeline(&mut tokens, 0).and_then(|()| tokens.end()),
        }
    }

    fn push(&mut self, keyword: &'static str) -> Result<(), String> {
        if self.open.len() >= MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        self.open.push(Block { keyword, has_else: false, variables: self.variables.len() });
        Ok(())
    }

    fn begin(&mut self, keyword: &'static str, tokens: &mut Tokens) -> Result<(), String> {
        self.push(keyword)?;
        self.in_range = keyword == "range";
        let found = self.pipeline(tokens, 0);
        self.in_range = false;
        found?;
        tokens.end()
    }

    /// `{{else}}`, or `{{else if …}}`, which ends with its parent.
    fn otherwise(&mut self, tokens: &mut Tokens) -> Result<(), String> {
        let block =
            self.open.last_mut().filter(|block| !block.has_else && !matches!(block.keyword, "define" | "block"));
        let block = block.ok_or("{{else}} has no place here")?;
        tokens.skip_space();
        if tokens.is_empty() {
            block.has_else = true;
            return Ok(());
        }
        match tokens.0.next() {
            Some(Token::Word(word)) if word == block.keyword && word != "range" => {
                self.pipeline(tokens, 0)?;
                tokens.end()
            }
            _ => Err("{{else}} takes nothing, or the word of its block".to_owned()),
        }
    }

    fn known(&self, variable: &str) -> Result<(), String> {
        if self.variables.iter().any(|name| name == variable) {
            return Ok(());
        }
        Err(format!("the variable {variable} is not defined"))
    }

    fn pipeline(&mut self, tokens: &mut Tokens, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err("it is nested too deeply".to_owned());
        }
        tokens.skip_space();
        let declared = self.declarations(tokens)?;
        let mut stage = 0;
        loop {
            tokens.skip_space();
            self.command(tokens, depth, stage)?;
            stage += 1;
            tokens.skip_space();
            if tokens.0.next_if_eq(&Token::Pipe).is_none() {
                break;
            }
        }
        // a variable is known only after its own pipeline
        self.variables.extend(declared);
        Ok(())
    }

    /// `$x :=`, `$x =` or `$i, $x :=`; gives the new names.
    fn declarations(&self, tokens: &mut Tokens) -> Result<Vec<String>, String> {
        let mut ahead = tokens.clone();
        let mut names = Vec::new();
        loop {
            ahead.skip_space();
            let Some(Token::Variable(name)) = ahead.0.next() else { return Ok(Vec::new()) };
            names.push(name);
            ahead.skip_space();
            match ahead.0.next() {
                Some(Token::Comma) if self.in_range && names.len() == 1 => {}
                Some(Token::Declare) => break,
                Some(Token::Assign) => {
                    names.iter().try_for_each(|name| self.known(name))?;
                    names.clear();
                    break;
                }
                _ => return Ok(Vec::new()),
            }
        }
        *tokens = ahead;
        Ok(names)
    }

    fn command(&mut self, tokens: &mut Tokens, depth: usize, stage: usize) -> Result<(), String> {
        let mut operands = 0;
        loop {
            tokens.skip_space();
            let Some(token) = tokens.0.next_if(|token| !matches!(token, Token::Pipe | Token::Close)) else { break };
            let chains = match token {
                Token::Word(word) if matches!(word.as_str(), "true" | "false") => {
                    literal(stage, operands)?;
                    false
                }
                Token::Word(word) if word == "nil" => {
                    if operands == 0 {
                        return Err("nil is not a command".to_owned());
                    }
                    false
                }
                Token::Word(word) => {
                    if !FUNCTIONS.contains(&word.as_str()) {
                        return Err(format!("the function {word:?} is not defined"));
                    }
                    false
                }
                Token::Variable(name) => {
                    self.known(&name)?;
                    true
                }
                Token::Field => true,
                Token::Dot => {
                    literal(stage, operands)?;
                    false
                }
                Token::Text | Token::Number => {
                    literal(stage, operands)?;
                    false
                }
                Token::Open => {
                    self.pipeline(tokens, depth + 1)?;
                    if tokens.0.next() != Some(Token::Close) {
                        return Err("a parenthesis is not closed".to_owned());
                    }
                    true
                }
                _ => return Err("an operand is missing".to_owned()),
            };
            while chains && tokens.0.next_if_eq(&Token::Field).is_some() {}
            operands += 1;
            if !matches!(tokens.0.peek(), None | Some(Token::Space | Token::Pipe | Token::Close)) {
                return Err("two operands have no space between them".to_owned());
            }
        }
        if operands == 0 { Err("an action or a pipeline is empty".to_owned()) } else { Ok(()) }
    }
}

/// A value can start a pipeline, but not stand where the result of another command is taken.
fn literal(stage: usize, operands: usize) -> Result<(), String> {
    if stage > 0 && operands == 0 { Err("a value can't take the result of a command".to_owned()) } else { Ok(()) }
}

#[derive(Clone)]
struct Tokens(Peekable<IntoIter<Token>>);

impl Tokens {
    fn skip_space(&mut self) {
        while self.0.next_if_eq(&Token::Space).is_some() {}
    }

    fn is_empty(&mut self) -> bool {
        self.skip_space();
        self.0.peek().is_none()
    }

    fn end(&mut self) -> Result<(), String> {
        if self.is_empty() { Ok(()) } else { Err("an action goes on where it should end".to_owned()) }
    }

    fn name(&mut self) -> Result<(), String> {
        self.skip_space();
        match self.0.next() {
            Some(Token::Text) => Ok(()),
            _ => Err("a template needs a name in quotes".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    /// Texts that Go's parser takes, with Prometheus's functions.
    const GOOD: &[&str] = &[
        "",
        "plain }} text",
        "{{ $labels.instance }} of {{ $externalLabels.cluster }} is {{ printf \"%.2f\" $value }}",
        "{{ $value | humanize }}{{ .Value }}{{ . }}{{ $ }}",
        "{{- if gt $value 0.5 -}} high {{- else if eq $labels.job \"a\" -}} a {{ else }} low {{ end }}",
        "{{ range query \"up{job=\\\"x\\\"}\" }}{{ .Labels.instance }}: {{ .Value }}{{ end }}",
        "{{ range $i, $x := query \"up\" }}{{ $i }}{{ $x.Labels.job }}{{ break }}{{ else }}none{{ end }}",
        "{{ with query `up` }}{{ . | first | value | humanize1024 }}{{ end }}",
        "{{ $x := 1 }}{{ $x = 2 }}{{ $x }}",
        "{{/* a comment */}}{{- /* another */ -}}",
        "{{ define \"a\" }}x{{ end }}{{ template \"a\" . }}{{ template \"a\" }}",
        "{{ (query \"up\" | first).Labels.job }}",
        "{{ \"}}\" }}",
        "{{ if and (eq .Labels.a \"b\") (not true) }}x{{ end }}",
        "{{ 0x1F }} {{ 1e3 }} {{ -1 }} {{ .5 }}",
        "{{ label \"instance\" (query \"up\" | first) }}",
        "{{ $labels.a.b }}{{ reReplaceAll \"a(.*)\" \"$1\" $labels.x }}",
        "{{\n$value\n}}",
    ];

    /// Texts that it refuses.
    const BAD: &[&str] = &[
        "{{ $labels.instance",
        "{{ $label.instance }}",
        "{{ nosuch $value }}",
        "{{ if $value }}x",
        "{{ end }}",
        "{{ else }}",
        "{{ if true }}{{ else }}{{ else }}{{ end }}",
        "{{ }}",
        "{{ $value | }}",
        "{{ | humanize }}",
        "{{ $value | 3 }}",
        "{{ \"open }}",
        "{{ `open }}",
        "{{ (print 1 }}",
        "{{ print 1) }}",
        "{{ $value @ }}",
        "{{ 12x }}",
        "{{ break }}",
        "{{ /* open }}",
        "{{ template a }}",
        "{{ if }}x{{ end }}",
        "{{ range $x := query \"up\" }}{{ end }}{{ $x }}",
        "{{ $y = 1 }}",
        "{{ nil }}",
        "{{ print\"a\" }}",
        "{{ \"\\q\" }}",
        "{{ 'ab' }}",
        "{{ $a, $b := query \"up\" }}",
        "{{ if true }}{{ define \"x\" }}{{ end }}{{ end }}",
    ];

    #[test]
    fn takes_what_go_takes() {
        for text in GOOD {
            assert_eq!(check(text), Ok(()), "{text}");
        }
    }

    #[test]
    fn refuses_what_go_refuses() {
        for text in BAD {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn survives_depth() {
        assert!(check(&format!("{{{{ {}1 }}}}", "(".repeat(100_000))).is_err());
        assert!(check(&"{{ if true }}".repeat(100_000)).is_err());
    }
}
