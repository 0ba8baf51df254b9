//! Cuts a query into words. Which words exist depends on where the reader stands: at the top level, inside braces,
//! inside the brackets of a range, or in the values of a series description.

use super::ast::{BinaryOp, Span};
use super::text::{code_point, quote, quote_char};
use super::token::{Keyword, Kind, Token, duration_keyword, histogram_key, keyword};
use model::histogram::ResetHint;

/// A text that is no word, blamed on everything from `start` on.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct LexError {
    pub(super) start: u32,
    pub(super) message: String,
}

/// Where the reader stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// At the top level, and behind the first number in brackets.
    Top,
    /// Inside the braces of a selector.
    Braces,
    /// Inside the brackets of a range.
    Brackets,
    /// In the values of a series description.
    Values,
    /// Inside `{{…}}`.
    Histogram,
    /// Inside the brackets of a histogram's list.
    Buckets,
    /// Behind `}}` with an operator next.
    AfterHistogram,
    /// Behind the last word.
    Done,
}

/// The state of the reader.
pub(super) struct Lexer<'a> {
    input: &'a str,
    /// Next byte to read.
    pos: usize,
    /// First byte of the word being read.
    start: usize,
    mode: Mode,
    open_parens: u32,
    brace_open: bool,
    bracket_open: bool,
    got_colon: bool,
    got_duration: bool,
    in_histogram: bool,
    series_description: bool,
}

type Lexed = Result<Token, LexError>;

impl<'a> Lexer<'a> {
    /// A reader of a query, or of a series description.
    pub(super) fn new(input: &'a str, series_description: bool) -> Self {
        Self {
            input,
            pos: 0,
            start: 0,
            mode: Mode::Top,
            open_parens: 0,
            brace_open: false,
            bracket_open: false,
            got_colon: false,
            got_duration: false,
            in_histogram: false,
            series_description,
        }
    }

    /// The next word; at the end [`Kind::Eof`], again and again.
    pub(super) fn next(&mut self) -> Lexed {
        match self.mode {
            Mode::Top if self.in_histogram => self.histogram(),
            Mode::Top if self.brace_open => self.braces(),
            Mode::Top => self.top(),
            Mode::Braces => self.braces(),
            Mode::Brackets => self.brackets(),
            Mode::Values => self.values(),
            Mode::Histogram => self.histogram(),
            Mode::Buckets => self.buckets(),
            Mode::AfterHistogram => self.after_histogram(),
            Mode::Done => Ok(self.emit(Kind::Eof)),
        }
    }

    fn rest(&self) -> &'a str {
        self.input.get(self.pos..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.pos += c.len_utf8();
        Some(c)
    }

    /// Steps over the next character if `want` likes it.
    fn accept(&mut self, want: impl Fn(char) -> bool) -> bool {
        let yes = self.peek().is_some_and(want);
        if yes {
            self.bump();
        }
        yes
    }

    fn skip_while(&mut self, want: impl Fn(char) -> bool) {
        while self.accept(&want) {}
    }

    fn word(&self) -> &'a str {
        self.input.get(self.start..self.pos).unwrap_or("")
    }

    fn emit(&mut self, kind: Kind) -> Token {
        let token = Token { kind, span: Span::new(self.start as u32, self.pos as u32) };
        self.start = self.pos;
        token
    }

    fn emit_in(&mut self, kind: Kind, mode: Mode) -> Lexed {
        self.mode = mode;
        Ok(self.emit(kind))
    }

    fn fail(&mut self, message: String) -> Lexed {
        self.mode = Mode::Done;
        Err(LexError { start: self.start as u32, message })
    }

    /// Steps over blanks and comments.
    fn skip_blank(&mut self) {
        loop {
            self.skip_while(is_space);
            if !self.rest().starts_with('#') {
                break;
            }
            self.skip_while(|c| c != '\n' && c != '\r');
        }
        self.start = self.pos;
    }

    fn top(&mut self) -> Lexed {
        self.skip_blank();
        let Some(c) = self.bump() else {
            if self.open_parens != 0 {
                return self.fail("unclosed left parenthesis".to_owned());
            }
            if self.bracket_open {
                return self.fail("unclosed left bracket".to_owned());
            }
            return self.emit_in(Kind::Eof, Mode::Done);
        };
        let kind = match c {
            ',' => Kind::Comma,
            '*' => Kind::Operator(BinaryOp::Mul),
            '/' => Kind::Operator(BinaryOp::Div),
            '%' => Kind::Operator(BinaryOp::Mod),
            '+' => Kind::Operator(BinaryOp::Add),
            '-' => Kind::Operator(BinaryOp::Sub),
            '^' => Kind::Operator(BinaryOp::Pow),
            '@' => Kind::At,
            '=' => match self.peek() {
                Some('=') => {
                    self.bump();
                    Kind::Operator(BinaryOp::Eq)
                }
                Some('~') => return self.fail("unexpected character after '=': '~'".to_owned()),
                _ => Kind::Assign,
            },
            '!' => {
                if !self.accept(|c| c == '=') {
                    let next = quote_char(self.peek());
                    return self.fail(format!("unexpected character after '!': {next}"));
                }
                Kind::Operator(BinaryOp::Ne)
            }
            '<' if self.accept(|c| c == '=') => Kind::Operator(BinaryOp::Le),
            '<' if self.accept(|c| c == '/') => Kind::Operator(BinaryOp::TrimUpper),
            '<' => Kind::Operator(BinaryOp::Lt),
            '>' if self.accept(|c| c == '=') => Kind::Operator(BinaryOp::Ge),
            '>' if self.accept(|c| c == '/') => Kind::Operator(BinaryOp::TrimLower),
            '>' => Kind::Operator(BinaryOp::Gt),
            c if self.begins_number(c) => return self.number_or_duration(),
            '"' | '\'' => return self.string(c),
            '`' => return self.raw_string(),
            c if is_alpha(c) || c == ':' => return self.top_word(c),
            '(' => {
                self.open_parens += 1;
                Kind::LeftParen
            }
            ')' => return self.right_paren(Mode::Top),
            '{' => {
                self.brace_open = true;
                return self.emit_in(Kind::LeftBrace, Mode::Braces);
            }
            '[' => {
                if self.bracket_open {
                    return self.fail("unexpected left bracket '['".to_owned());
                }
                self.got_colon = false;
                self.bracket_open = true;
                return self.emit_in(Kind::LeftBracket, Mode::Brackets);
            }
            ']' => {
                if !self.bracket_open {
                    return self.fail("unexpected right bracket ']'".to_owned());
                }
                self.bracket_open = false;
                Kind::RightBracket
            }
            c => return self.fail(format!("unexpected character: {}", quote_char(Some(c)))),
        };
        self.emit_in(kind, Mode::Top)
    }

    /// A digit, or a point with a digit behind it; steps back before it.
    fn begins_number(&mut self, c: char) -> bool {
        let yes = c.is_ascii_digit() || (c == '.' && self.peek().is_some_and(|c| c.is_ascii_digit()));
        if yes {
            self.pos = self.start;
        }
        yes
    }

    /// A closing parenthesis. One too many is blamed on what follows, as in Prometheus.
    fn right_paren(&mut self, mode: Mode) -> Lexed {
        let token = self.emit_in(Kind::RightParen, mode);
        let Some(left) = self.open_parens.checked_sub(1) else {
            return self.fail("unexpected right parenthesis ')'".to_owned());
        };
        self.open_parens = left;
        token
    }

    /// A word at the top level, of which `first` has been read.
    fn top_word(&mut self, first: char) -> Lexed {
        if !self.bracket_open {
            return self.keyword_or_identifier();
        }
        // Behind the first number in brackets.
        if first == ':' {
            if self.got_colon {
                return self.fail("unexpected colon ':'".to_owned());
            }
            self.got_colon = true;
            return self.emit_in(Kind::Colon, Mode::Top);
        }
        if let Some(kind) = self.duration_word(first) {
            return self.emit_in(kind, Mode::Top);
        }
        self.fail(format!("unexpected character: {}, expected ':'", quote_char(Some(first))))
    }

    /// `step`, `range`, `min_of` or `max_of`, of which `first` has been read.
    fn duration_word(&mut self, first: char) -> Option<Kind> {
        if !matches!(first.to_ascii_lowercase(), 's' | 'r' | 'm') {
            return None;
        }
        self.skip_while(is_alpha);
        duration_keyword(self.word())
    }

    fn keyword_or_identifier(&mut self) -> Lexed {
        self.skip_while(|c| is_alphanumeric(c) || c == ':');
        let word = self.word();
        let kind = match keyword(word) {
            // These are younger than many a metric of that name.
            Some(Kind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.rest().trim_start_matches(is_space).starts_with('(') =>
            {
                Kind::Identifier
            }
            Some(kind) => kind,
            None if word.contains(':') => Kind::MetricIdentifier,
            None => Kind::Identifier,
        };
        let values = self.series_description && self.peek() != Some('{');
        self.emit_in(kind, if values { Mode::Values } else { Mode::Top })
    }

    fn braces(&mut self) -> Lexed {
        self.skip_blank();
        let Some(c) = self.bump() else {
            return self.fail("unexpected end of input inside braces".to_owned());
        };
        let kind = match c {
            c if is_alpha(c) => {
                self.skip_while(is_alphanumeric);
                Kind::Identifier
            }
            ',' => Kind::Comma,
            '"' | '\'' => return self.string(c),
            '`' => return self.raw_string(),
            '=' if self.accept(|c| c == '~') => Kind::RegexMatch,
            '=' => Kind::Assign,
            '!' if self.accept(|c| c == '~') => Kind::RegexNoMatch,
            '!' if self.accept(|c| c == '=') => Kind::Operator(BinaryOp::Ne),
            '!' => {
                let next = quote_char(self.peek());
                return self.fail(format!("unexpected character after '!' inside braces: {next}"));
            }
            '{' => return self.fail("unexpected left brace '{'".to_owned()),
            '}' => {
                self.brace_open = false;
                let mode = if self.series_description { Mode::Values } else { Mode::Top };
                return self.emit_in(Kind::RightBrace, mode);
            }
            c => return self.fail(format!("unexpected character inside braces: {}", quote_char(Some(c)))),
        };
        self.emit_in(kind, Mode::Braces)
    }

    /// The brackets of a range, up to the first number.
    fn brackets(&mut self) -> Lexed {
        self.skip_while(is_space);
        self.start = self.pos;
        let Some(c) = self.bump() else {
            return self.fail("unexpected end of input in duration expression".to_owned());
        };
        let kind = match c {
            ']' => {
                self.bracket_open = false;
                self.got_colon = false;
                return self.emit_in(Kind::RightBracket, Mode::Top);
            }
            ':' => {
                let token = self.emit(Kind::Colon);
                if !self.got_duration {
                    return self.fail("unexpected colon before duration in duration expression".to_owned());
                }
                if self.got_colon {
                    return self.fail("unexpected repeated colon in duration expression".to_owned());
                }
                self.got_colon = true;
                return Ok(token);
            }
            '(' => {
                self.open_parens += 1;
                Kind::LeftParen
            }
            ')' => return self.right_paren(Mode::Brackets),
            '+' => Kind::Operator(BinaryOp::Add),
            '-' => Kind::Operator(BinaryOp::Sub),
            '*' => Kind::Operator(BinaryOp::Mul),
            '/' => Kind::Operator(BinaryOp::Div),
            '%' => Kind::Operator(BinaryOp::Mod),
            '^' => Kind::Operator(BinaryOp::Pow),
            ',' => Kind::Comma,
            c if self.begins_number(c) => {
                self.got_duration = true;
                return self.number_or_duration();
            }
            c => match self.duration_word(c) {
                Some(kind) => kind,
                None => {
                    let c = quote_char(Some(c));
                    return self.fail(format!("unexpected character in duration expression: {c}"));
                }
            },
        };
        self.emit_in(kind, Mode::Brackets)
    }

    /// A quoted string, of which the opening quote has been read.
    fn string(&mut self, quote: char) -> Lexed {
        loop {
            match self.bump() {
                Some('\\') => {
                    if let Err(message) = self.escape(quote) {
                        return self.fail(message);
                    }
                }
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune".to_owned()),
                None | Some('\n') => return self.fail("unterminated quoted string".to_owned()),
                Some(c) if c == quote => return self.emit_in(Kind::String, Mode::Top),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Lexed {
        loop {
            match self.bump() {
                Some('`') => return self.emit_in(Kind::String, Mode::Top),
                Some(char::REPLACEMENT_CHARACTER) => return self.fail("invalid UTF-8 rune".to_owned()),
                None => return self.fail("unterminated raw string".to_owned()),
                Some(_) => {}
            }
        }
    }

    /// An escape sequence, of which the backslash has been read.
    fn escape(&mut self, quote: char) -> Result<(), String> {
        let unterminated = || "escape sequence not terminated".to_owned();
        let first = self.bump().ok_or_else(unterminated)?;
        let (digits, base, max) = match first {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            c if c == quote => return Ok(()),
            '0'..='7' => {
                self.pos -= 1;
                (3, 8, 255)
            }
            'x' => (2, 16, 255),
            'u' => (4, 16, u32::from(char::MAX)),
            'U' => (8, 16, u32::from(char::MAX)),
            c => return Err(format!("unknown escape sequence {}", code_point(c))),
        };
        let mut value = 0u32;
        for _ in 0..digits {
            let c = self.bump().ok_or_else(unterminated)?;
            let digit =
                c.to_digit(base).ok_or_else(|| format!("illegal character {} in escape sequence", code_point(c)))?;
            value = value.wrapping_mul(base).wrapping_add(digit);
        }
        if value > max || (0xD800..0xE000).contains(&value) {
            return Err("escape sequence is an invalid Unicode code point".to_owned());
        }
        Ok(())
    }

    fn number_or_duration(&mut self) -> Lexed {
        if self.scan_number() {
            return self.emit_in(Kind::Number, Mode::Top);
        }
        if self.scan_rest_of_duration() {
            return self.emit_in(Kind::Duration, Mode::Top);
        }
        let message = format!("bad number or duration syntax: {}", quote(self.word()));
        self.fail(message)
    }

    /// A number in a series description, where hexadecimal would be ambiguous and durations don't occur.
    fn plain_number(&mut self, mode: Mode) -> Lexed {
        if self.scan_number() {
            return self.emit_in(Kind::Number, mode);
        }
        let message = format!("bad number syntax: {}", quote(self.word()));
        self.fail(message)
    }

    /// The units behind the digits that [`Self::scan_number`] has left. Bad combinations are found when the duration
    /// is computed.
    fn scan_rest_of_duration(&mut self) -> bool {
        let mut units = "smhdwy";
        loop {
            if !self.accept(|c| units.contains(c)) {
                return false;
            }
            self.accept(|c| c == 's');
            if !self.accept(|c| c.is_ascii_digit()) {
                break;
            }
            self.skip_while(|c| c.is_ascii_digit());
            units = "smhdw";
        }
        // The offending character belongs to the error text.
        !self.accept(is_alphanumeric)
    }

    /// Decimal, octal, hexadecimal or float. What it accepts is not yet a number that can be computed.
    fn scan_number(&mut self) -> bool {
        let begin = self.pos;
        let mut hex = false;
        if !self.series_description && self.accept(|c| c == '0') && self.accept(|c| matches!(c, 'x' | 'X')) {
            self.accept(|c| c == '_');
            hex = true;
        }
        let digit = |c: char| if hex { c.is_ascii_hexdigit() } else { c.is_ascii_digit() };
        self.accept(|c| c == '.');
        self.accept(digit);
        let (mut point, mut exponent) = (false, false);
        while let Some(c) = self.peek() {
            match c {
                '.' => {
                    self.bump();
                    if point || self.accept(|c| matches!(c, '_' | '.')) || hex {
                        return false;
                    }
                    point = true;
                }
                'e' | 'E' => {
                    self.bump();
                    if exponent {
                        return false;
                    }
                    exponent = true;
                    self.accept(|c| matches!(c, '+' | '-'));
                    if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                        return false;
                    }
                }
                '_' => {
                    self.bump();
                    if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                        return false;
                    }
                }
                c if digit(c) => self.skip_while(digit),
                _ => break,
            }
        }
        if self.pos == begin {
            return false;
        }
        match self.peek() {
            Some('x') if self.series_description => true,
            Some(c) => !is_alphanumeric(c),
            None => true,
        }
    }

    fn values(&mut self) -> Lexed {
        let Some(c) = self.bump() else {
            self.mode = Mode::Top;
            return self.top();
        };
        let kind = match c {
            '{' if self.accept(|c| c == '{') => {
                self.in_histogram = true;
                return self.emit_in(Kind::OpenHistogram, Mode::Histogram);
            }
            c if is_space(c) => return self.space(Mode::Values),
            '+' => Kind::Operator(BinaryOp::Add),
            '-' => Kind::Operator(BinaryOp::Sub),
            'x' => Kind::Times,
            '_' => Kind::Blank,
            c if self.begins_number(c) => return self.plain_number(Mode::Values),
            c if is_alpha(c) => return self.keyword_or_identifier(),
            c => {
                let c = quote_char(Some(c));
                return self.fail(format!("unexpected character in series sequence: {c}"));
            }
        };
        self.emit_in(kind, Mode::Values)
    }

    /// A run of blanks, of which the first has been read, as one word.
    fn space(&mut self, mode: Mode) -> Lexed {
        let token = self.emit_in(Kind::Space, mode);
        self.skip_while(is_space);
        self.start = self.pos;
        token
    }

    fn histogram(&mut self) -> Lexed {
        if self.bracket_open {
            return self.buckets();
        }
        let kind = match self.bump() {
            Some(c) if is_space(c) => return self.space(Mode::Histogram),
            Some(c) if is_alpha(c) => return self.histogram_word(),
            Some(':') => Kind::Colon,
            Some('-') => Kind::Operator(BinaryOp::Sub),
            Some(c) if c.is_ascii_digit() => {
                self.pos = self.start;
                return self.plain_number(Mode::Histogram);
            }
            Some('[') => {
                self.bracket_open = true;
                return self.emit_in(Kind::LeftBracket, Mode::Buckets);
            }
            Some('}') if self.accept(|c| c == '}') => {
                self.in_histogram = false;
                let more = matches!(self.peek(), Some('x' | '+' | '-'));
                let mode = if more { Mode::AfterHistogram } else { Mode::Values };
                return self.emit_in(Kind::CloseHistogram, mode);
            }
            c => {
                let c = quote_char(c);
                return self.fail(format!("histogram description incomplete unexpected: {c}"));
            }
        };
        self.emit_in(kind, Mode::Histogram)
    }

    fn after_histogram(&mut self) -> Lexed {
        let kind = match self.bump() {
            Some('x') => Kind::Times,
            Some('+') => Kind::Operator(BinaryOp::Add),
            _ => Kind::Operator(BinaryOp::Sub),
        };
        self.emit_in(kind, Mode::Values)
    }

    fn histogram_word(&mut self) -> Lexed {
        self.skip_while(is_alpha);
        let word = self.word();
        if let Some(key) = histogram_key(word) {
            if self.peek() != Some(':') {
                return self.fail("missing `:` for histogram descriptor".to_owned());
            }
            return self.emit_in(Kind::HistogramKey(key), Mode::Histogram);
        }
        let kind = match word.to_ascii_lowercase().as_str() {
            "inf" | "nan" => Kind::Number,
            "unknown" => Kind::ResetHint(ResetHint::Unknown),
            "reset" => Kind::ResetHint(ResetHint::Reset),
            "not_reset" => Kind::ResetHint(ResetHint::NotReset),
            "gauge" => Kind::ResetHint(ResetHint::Gauge),
            _ => {
                let message = format!("bad histogram descriptor found: {}", quote(word));
                return self.fail(message);
            }
        };
        self.emit_in(kind, Mode::Histogram)
    }

    fn buckets(&mut self) -> Lexed {
        match self.bump() {
            Some(c) if is_space(c) => self.space(Mode::Buckets),
            Some('-') => self.emit_in(Kind::Operator(BinaryOp::Sub), Mode::Buckets),
            Some(c) if c.is_ascii_digit() => {
                self.pos = self.start;
                self.plain_number(Mode::Buckets)
            }
            Some(']') => {
                self.bracket_open = false;
                self.emit_in(Kind::RightBracket, Mode::Histogram)
            }
            Some(c) if is_alpha(c) => {
                self.skip_while(is_alpha);
                if matches!(self.word().to_ascii_lowercase().as_str(), "inf" | "nan") {
                    return self.emit_in(Kind::Number, Mode::Buckets);
                }
                self.fail(format!("invalid character in buckets description: {}", quote_char(Some(c))))
            }
            c => self.fail(format!("invalid character in buckets description: {}", quote_char(c))),
        }
    }
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}
