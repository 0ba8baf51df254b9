//! From words to a tree: recursive descent with operator precedence.
//!
//! Prometheus reports only the first error of a query, so parsing stops at the first one. Where an error is noticed,
//! before or after the next word is read, follows Prometheus' grammar, because either can fail.

use super::ast::*;
use super::error::ParseError;
use super::functions::{Gate, function};
use super::lexer::Lexer;
use super::literal;
use super::options::Options;
use super::text::{quote, unquote};
use super::token::{Keyword, Kind, Preprocessor, Token};
use model::matcher::Compiled;
use model::protection::off;
use model::{MatchOp, Matcher};

/// How deep parentheses, calls and signs may nest. A deeper query would risk the stack of whoever walks the tree.
pub const MAX_NESTING: u32 = 128;
/// How high a tree may grow: `a + b + c` has height 3, because operators of one rank lean to the left.
pub const MAX_HEIGHT: u32 = 500;

/// What the tree of any query may take, bytes, and how many times its text on top: a text that is made to be dear has many
/// nodes in few bytes.
const FREE_BYTES: usize = 768 << 10;
const FACTOR: usize = 12;

/// What has been parsed, and the height of its tree.
pub(super) type Parsed<T> = Result<(T, u32), ParseError>;

/// `by (…)` or `without (…)`: whether it is the latter, the labels, the end.
type Grouping = (bool, Vec<String>, Span);

/// The state of the parser.
pub(super) struct Parser<'a> {
    pub(super) input: &'a str,
    pub(super) options: &'a Options,
    lexer: Lexer<'a>,
    /// The word that was looked at, but not taken.
    ahead: Option<Token>,
    /// How many aggregations are open: a misplaced word is blamed on the innermost.
    aggregations: u32,
    nesting: u32,
    /// The last word that was taken.
    last: Span,
    /// What the tree takes so far, bytes, with what lists hold in reserve.
    bytes: usize,
    /// The regular expressions so far.
    compiled: Compiled,
}

/// The strength of an operator; the sign binds like `*`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Or,
    And,
    Compare,
    Add,
    Mul,
    Pow,
}

impl Rank {
    pub(super) fn of(op: BinaryOp) -> Self {
        match op {
            BinaryOp::Or => Self::Or,
            BinaryOp::And | BinaryOp::Unless => Self::And,
            BinaryOp::Eq
            | BinaryOp::Ne
            | BinaryOp::Gt
            | BinaryOp::Lt
            | BinaryOp::Ge
            | BinaryOp::Le
            | BinaryOp::TrimUpper
            | BinaryOp::TrimLower => Self::Compare,
            BinaryOp::Add | BinaryOp::Sub => Self::Add,
            BinaryOp::Mul | BinaryOp::Div | BinaryOp::Mod | BinaryOp::Atan2 => Self::Mul,
            BinaryOp::Pow => Self::Pow,
        }
    }

    /// The weakest operator that may stand in the right operand of this one.
    pub(super) fn right(self) -> Self {
        match self {
            Self::Or => Self::And,
            Self::And => Self::Compare,
            Self::Compare => Self::Add,
            Self::Add => Self::Mul,
            // The power leans to the right.
            Self::Mul | Self::Pow => Self::Pow,
        }
    }
}

impl<'a> Parser<'a> {
    pub(super) fn new(input: &'a str, options: &'a Options, series_description: bool) -> Result<Self, ParseError> {
        if u32::try_from(input.len()).is_err() {
            return Err(ParseError::new("", Span::default(), "the query is longer than 4 GiB"));
        }
        Ok(Self {
            input,
            options,
            lexer: Lexer::new(input, series_description),
            ahead: None,
            aggregations: 0,
            nesting: 0,
            last: Span::default(),
            bytes: 0,
            compiled: Compiled::default(),
        })
    }

    // Words.

    pub(super) fn peek(&mut self) -> Result<Token, ParseError> {
        if let Some(token) = self.ahead {
            return Ok(token);
        }
        match self.lexer.next() {
            Ok(token) => {
                self.ahead = Some(token);
                Ok(token)
            }
            Err(e) => Err(self.error(Span::new(e.start, self.input.len() as u32), e.message)),
        }
    }

    pub(super) fn take(&mut self) -> Result<Token, ParseError> {
        let token = self.peek()?;
        self.ahead = None;
        self.last = token.span;
        Ok(token)
    }

    /// Takes the next word if it is of this kind.
    pub(super) fn eat(&mut self, kind: Kind) -> Result<Option<Token>, ParseError> {
        if self.peek()?.kind == kind { self.take().map(Some) } else { Ok(None) }
    }

    /// Takes the next word, which must be of this kind.
    fn expect(&mut self, kind: Kind) -> Result<Token, ParseError> {
        match self.eat(kind)? {
            Some(token) => Ok(token),
            None => Err(self.unexpected_here()),
        }
    }

    /// Where the last word that was taken stands.
    pub(super) fn last_span(&self) -> Span {
        self.last
    }

    pub(super) fn text(&self, span: Span) -> &'a str {
        self.input.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    // Errors.

    pub(super) fn error(&self, span: Span, message: impl Into<String>) -> ParseError {
        ParseError::new(self.input, span, message)
    }

    /// The next word can't stand here.
    pub(super) fn unexpected(&mut self, context: &str, expected: &str) -> ParseError {
        let token = match self.peek() {
            Ok(token) => token,
            Err(e) => return e,
        };
        let mut message = format!("unexpected {}", token.kind.describe(self.text(token.span)));
        if !context.is_empty() {
            message.push_str(" in ");
            message.push_str(context);
        }
        if !expected.is_empty() {
            message.push_str(", expected ");
            message.push_str(expected);
        }
        self.error(token.span, message)
    }

    /// The next word can't stand here, in the middle of an expression.
    fn unexpected_here(&mut self) -> ParseError {
        let context = if self.aggregations > 0 { "aggregation" } else { "" };
        self.unexpected(context, "")
    }

    /// Counts one level of recursion; [`Self::leave`] takes it back.
    pub(super) fn enter(&mut self) -> Result<(), ParseError> {
        if self.nesting == MAX_NESTING {
            let span = self.peek()?.span;
            return Err(self.error(span, too_deep("nested", MAX_NESTING)));
        }
        self.nesting += 1;
        Ok(())
    }

    /// The end of a level of recursion. An error ends the parse, so it need not be reached then.
    pub(super) fn leave(&mut self) {
        self.nesting -= 1;
    }

    /// Counts a `T` that the tree holds, and the texts in it.
    pub(super) fn charge<T>(&mut self, text: usize) -> Result<(), ParseError> {
        self.bytes = self.bytes.saturating_add(size_of::<T>()).saturating_add(text);
        if self.bytes <= FREE_BYTES.saturating_add(self.input.len().saturating_mul(FACTOR)) || off("parse-memory") {
            return Ok(());
        }
        let span = self.last;
        Err(self.error(span, "expression is too large for its length: split it, for example by recording rules"))
    }

    /// The height of a node `T` over children of this height.
    pub(super) fn above<T>(&mut self, height: u32, span: Span) -> Result<u32, ParseError> {
        self.charge::<T>(0)?;
        if height < MAX_HEIGHT { Ok(height + 1) } else { Err(self.error(span, too_deep("chained", MAX_HEIGHT))) }
    }

    // Entry points.

    /// A whole query.
    pub(super) fn query(&mut self) -> Result<Expr, ParseError> {
        if self.peek()?.kind == Kind::Eof {
            return Err(self.error(Span::default(), "no expression found in input"));
        }
        let (expr, _) = self.expression(Rank::Or)?;
        self.end()?;
        Ok(expr)
    }

    /// A selector and nothing else.
    pub(super) fn lone_selector(&mut self) -> Result<VectorSelector, ParseError> {
        let kind = self.peek()?.kind;
        if kind != Kind::LeftBrace && !kind.is_metric_name() {
            return Err(self.unexpected("", ""));
        }
        let selector = self.selector()?;
        self.end()?;
        Ok(selector)
    }

    pub(super) fn end(&mut self) -> Result<(), ParseError> {
        if self.peek()?.kind == Kind::Eof { Ok(()) } else { Err(self.unexpected("", "")) }
    }

    // Expressions.

    /// An expression of operators of at least this rank.
    fn expression(&mut self, least: Rank) -> Parsed<Expr> {
        self.enter()?;
        let mut found = self.operand()?;
        while let Kind::Operator(op) = self.peek()?.kind
            && Rank::of(op) >= least
        {
            found = self.operation(op, found)?;
        }
        self.leave();
        Ok(found)
    }

    /// An operator, which is next, and its right operand.
    fn operation(&mut self, op: BinaryOp, (lhs, left_height): (Expr, u32)) -> Parsed<Expr> {
        self.take()?;
        let (return_bool, matching) = self.matching()?;
        let (rhs, right_height) = self.expression(Rank::of(op).right())?;
        let span = lhs.span().to(rhs.span());
        if !self.options.fill_modifiers && (matching.fill_left.is_some() || matching.fill_right.is_some()) {
            return Err(self.error(span, "binop fill modifiers are experimental and not enabled"));
        }
        let height = self.above::<BinaryExpr>(left_height.max(right_height), span)?;
        let node = BinaryExpr { op, lhs, rhs, matching: Some(matching), return_bool, span };
        Ok((Expr::Binary(Box::new(node)), height))
    }

    /// A signed or primary expression with everything that may follow it.
    fn operand(&mut self) -> Parsed<Expr> {
        let token = self.peek()?;
        match sign(token.kind) {
            Some(sign) => self.signed_expression(sign, token),
            None => {
                let (primary, height) = self.primary()?;
                self.suffixes(primary, height)
            }
        }
    }

    fn signed_expression(&mut self, sign: Sign, token: Token) -> Parsed<Expr> {
        self.take()?;
        let (expr, height) = self.expression(Rank::Pow)?;
        let span = token.span.to(expr.span());
        if let Expr::Number(mut n) = expr {
            if sign == Sign::Minus {
                n.value = -n.value;
            }
            n.span = span;
            return Ok((Expr::Number(n), height));
        }
        let height = self.above::<UnaryExpr>(height, span)?;
        Ok((Expr::Unary(Box::new(UnaryExpr { op: sign, expr, span })), height))
    }

    fn primary(&mut self) -> Parsed<Expr> {
        let token = self.peek()?;
        match token.kind {
            Kind::LeftParen => self.parenthesis(),
            kind if kind.is_metric_name() => {
                self.take()?;
                let next = self.peek()?.kind;
                let modifier = matches!(next, Kind::Keyword(Keyword::By | Keyword::Without));
                match kind {
                    Kind::Aggregate(op) if next == Kind::LeftParen || modifier => self.aggregation(op, token),
                    Kind::Identifier | Kind::Preprocessor(_) if next == Kind::LeftParen => self.call(token),
                    _ => self.leaf(token),
                }
            }
            _ => self.leaf(token),
        }
    }

    /// A literal or a selector that begins with this word. The name of a selector has been taken.
    fn leaf(&mut self, first: Token) -> Parsed<Expr> {
        let leaf = match first.kind {
            Kind::Number | Kind::Duration => Expr::Number(self.number()?),
            Kind::String => Expr::String(self.string()?),
            Kind::LeftBrace => Expr::Vector(self.selector()?),
            kind if kind.is_metric_name() => Expr::Vector(self.selector_named(first)?),
            _ => return Err(self.unexpected_here()),
        };
        Ok((leaf, 1))
    }

    fn parenthesis(&mut self) -> Parsed<Expr> {
        let open = self.take()?;
        let (expr, height) = self.expression(Rank::Or)?;
        let close = self.expect(Kind::RightParen)?;
        let span = open.span.to(close.span);
        Ok((Expr::Paren(Box::new(ParenExpr { expr, span })), self.above::<ParenExpr>(height, span)?))
    }

    /// A string, which is known to be next.
    fn string(&mut self) -> Result<StringLiteral, ParseError> {
        let span = self.take()?.span;
        let (value, raw) = match String::from_utf8(unquote(self.text(span))) {
            Ok(value) => (value, None),
            Err(e) => (String::from_utf8_lossy(e.as_bytes()).into_owned(), Some(e.into_bytes())),
        };
        Ok(StringLiteral { value, raw, span })
    }

    /// A number or duration, which is known to be next.
    pub(super) fn number(&mut self) -> Result<NumberLiteral, ParseError> {
        let token = self.take()?;
        let text = self.text(token.span);
        let duration = token.kind == Kind::Duration;
        let value = if duration { literal::duration_seconds(text) } else { literal::number(text) };
        match value {
            Ok(value) => Ok(NumberLiteral { value, duration, span: token.span }),
            Err(message) => Err(self.error(token.span, message)),
        }
    }

    // Calls and aggregations.

    fn call(&mut self, name: Token) -> Parsed<Expr> {
        let (args, height, close) = self.arguments()?;
        let text = self.text(name.span);
        let found = function(text).filter(|f| f.gate != Gate::Extended || self.options.x_functions);
        let Some(func) = found else {
            return Err(self.error(name.span, format!("unknown function with name {}", quote(text))));
        };
        if func.gate == Gate::Experimental && !self.options.experimental_functions {
            return Err(self.error(name.span, format!("function {} is not enabled", quote(text))));
        }
        let span = name.span.to(close);
        Ok((Expr::Call(Call { func, args, span }), self.above::<Call>(height, span)?))
    }

    /// `(a, b)`: the arguments, the height of the highest, and the closing parenthesis.
    fn arguments(&mut self) -> Result<(Vec<Expr>, u32, Span), ParseError> {
        self.expect(Kind::LeftParen)?;
        let (mut args, mut height) = (Vec::new(), 0);
        if let Some(close) = self.eat(Kind::RightParen)? {
            return Ok((args, height, close.span));
        }
        loop {
            let (arg, h) = self.expression(Rank::Or)?;
            self.charge::<[Expr; 2]>(0)?;
            args.push(arg);
            height = height.max(h);
            let Some(comma) = self.eat(Kind::Comma)? else { break };
            if !self.peek()?.kind.starts_expression() {
                return Err(self.error(comma.span, "trailing commas not allowed in function call args"));
            }
        }
        let close = self.expect(Kind::RightParen)?;
        Ok((args, height, close.span))
    }

    fn aggregation(&mut self, op: AggregateOp, name: Token) -> Parsed<Expr> {
        // An error ends the parse, so the count need not be taken back then.
        self.aggregations += 1;
        let modifier = self.aggregation_modifier()?;
        let args = self.arguments()?;
        let aggregation = self.aggregation_of(op, name, modifier, args)?;
        self.aggregations -= 1;
        Ok(aggregation)
    }

    /// An aggregation, of which the arguments have been read.
    fn aggregation_of(
        &mut self,
        op: AggregateOp,
        name: Token,
        mut modifier: Option<Grouping>,
        (mut args, height, close): (Vec<Expr>, u32, Span),
    ) -> Parsed<Expr> {
        let mut span = name.span.to(close);
        if modifier.is_none() {
            modifier = self.aggregation_modifier()?;
            if let Some((_, _, end)) = &modifier {
                span = span.to(*end);
            }
        }
        let (without, grouping) = modifier.map(|(without, labels, _)| (without, labels)).unwrap_or_default();
        if args.is_empty() {
            return Err(self.error(span, "no arguments for aggregate expression provided"));
        }
        if op.is_experimental() && !self.options.experimental_functions {
            return Err(self.error(
                span,
                format!(
                    "{op}() is experimental and must be enabled with --enable-feature=promql-experimental-functions"
                ),
            ));
        }
        let (got, want) = (args.len(), if op.has_param() { 2 } else { 1 });
        let (Some(expr), true) = (args.pop(), got == want) else {
            return Err(self.error(
                span,
                format!("wrong number of arguments for aggregate expression provided, expected {want}, got {got}"),
            ));
        };
        let node = AggregateExpr { op, expr, param: args.pop(), grouping, without, span };
        Ok((Expr::Aggregate(Box::new(node)), self.above::<AggregateExpr>(height, span)?))
    }

    fn aggregation_modifier(&mut self) -> Result<Option<Grouping>, ParseError> {
        let without = match self.peek()?.kind {
            Kind::Keyword(Keyword::By) => false,
            Kind::Keyword(Keyword::Without) => true,
            _ => return Ok(None),
        };
        self.take()?;
        let (labels, end) = self.grouping_labels()?;
        Ok(Some((without, labels, end)))
    }

    /// `(a, "b")`: the names and the closing parenthesis.
    fn grouping_labels(&mut self) -> Result<(Vec<String>, Span), ParseError> {
        let mut labels = Vec::new();
        if self.eat(Kind::LeftParen)?.is_none() {
            return Err(self.unexpected("grouping opts", "\"(\""));
        }
        if let Some(close) = self.eat(Kind::RightParen)? {
            return Ok((labels, close.span));
        }
        loop {
            let label = self.grouping_label()?;
            self.charge::<[String; 2]>(label.len())?;
            labels.push(label);
            let comma = self.eat(Kind::Comma)?.is_some();
            if let Some(close) = self.eat(Kind::RightParen)? {
                return Ok((labels, close.span));
            }
            if !comma {
                return Err(self.unexpected("grouping opts", "\",\" or \")\""));
            }
        }
    }

    fn grouping_label(&mut self) -> Result<String, ParseError> {
        let token = self.peek()?;
        let text = self.text(token.span);
        let name = match token.kind {
            Kind::String => unquote(text),
            kind if kind.is_grouping_label() => text.as_bytes().to_vec(),
            _ => return Err(self.unexpected("grouping opts", "label")),
        };
        self.take()?;
        match String::from_utf8(name) {
            Ok(name) if !name.is_empty() => Ok(name),
            Ok(name) => Err(self.invalid_label(token.span, name.as_bytes())),
            Err(e) => Err(self.invalid_label(token.span, e.as_bytes())),
        }
    }

    fn invalid_label(&self, span: Span, name: &[u8]) -> ParseError {
        self.error(span, format!("invalid label name for grouping: {}", super::text::quote_bytes(name)))
    }

    // Modifiers of binary operators.

    /// `bool`, `on`, `group_left`, `fill` and friends.
    fn matching(&mut self) -> Result<(bool, VectorMatching), ParseError> {
        let return_bool = self.eat(Kind::Keyword(Keyword::Bool))?.is_some();
        let mut matching = VectorMatching {
            card: MatchCard::OneToOne,
            labels: Vec::new(),
            on: false,
            include: Vec::new(),
            fill_left: None,
            fill_right: None,
        };
        let on = self.peek()?.kind;
        if matches!(on, Kind::Keyword(Keyword::On | Keyword::Ignoring)) {
            self.take()?;
            matching.on = on == Kind::Keyword(Keyword::On);
            (matching.labels, _) = self.grouping_labels()?;
            let card = match self.peek()?.kind {
                Kind::Keyword(Keyword::GroupLeft) => Some(MatchCard::ManyToOne),
                Kind::Keyword(Keyword::GroupRight) => Some(MatchCard::OneToMany),
                _ => None,
            };
            if let Some(card) = card {
                self.take()?;
                matching.card = card;
                let next = self.peek()?.kind;
                let fill = matches!(next, Kind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight));
                if next == Kind::LeftParen || !(next.starts_expression() || fill) {
                    (matching.include, _) = self.grouping_labels()?;
                }
            }
        }
        match self.peek()?.kind {
            Kind::Keyword(Keyword::Fill) => {
                let value = self.fill_value()?;
                (matching.fill_left, matching.fill_right) = (Some(value), Some(value));
            }
            Kind::Keyword(Keyword::FillLeft) => {
                matching.fill_left = Some(self.fill_value()?);
                if self.peek()?.kind == Kind::Keyword(Keyword::FillRight) {
                    matching.fill_right = Some(self.fill_value()?);
                }
            }
            Kind::Keyword(Keyword::FillRight) => {
                matching.fill_right = Some(self.fill_value()?);
                if self.peek()?.kind == Kind::Keyword(Keyword::FillLeft) {
                    matching.fill_left = Some(self.fill_value()?);
                }
            }
            _ => {}
        }
        Ok((return_bool, matching))
    }

    /// `fill(1)`, `fill_left(-1)`
    fn fill_value(&mut self) -> Result<f64, ParseError> {
        self.take()?;
        self.expect(Kind::LeftParen)?;
        let sign = sign(self.peek()?.kind);
        if sign.is_some() {
            self.take()?;
        }
        if !matches!(self.peek()?.kind, Kind::Number | Kind::Duration) {
            return Err(self.unexpected_here());
        }
        let value = self.number()?.value;
        self.expect(Kind::RightParen)?;
        Ok(if sign == Some(Sign::Minus) { -value } else { value })
    }

    // Selectors.

    /// A selector, which is known to begin here.
    fn selector(&mut self) -> Result<VectorSelector, ParseError> {
        if self.peek()?.kind != Kind::LeftBrace {
            let name = self.take()?;
            return self.selector_named(name);
        }
        let (matchers, span) = self.matchers()?;
        Ok(VectorSelector::plain(String::new(), matchers, span))
    }

    /// A selector, of which the name has been read.
    fn selector_named(&mut self, name: Token) -> Result<VectorSelector, ParseError> {
        let (mut matchers, mut span) = (Vec::new(), name.span);
        if self.peek()?.kind == Kind::LeftBrace {
            let inside;
            (matchers, inside) = self.matchers()?;
            span = span.to(inside);
        }
        let name = self.text(name.span).to_owned();
        self.charge::<[Matcher; 4]>(2 * name.len() + "__name__".len())?;
        matchers.push(Matcher::equal("__name__", name.as_str()));
        Ok(VectorSelector::plain(name, matchers, span))
    }

    /// `{a="b", "c"}`
    fn matchers(&mut self) -> Result<(Vec<Matcher>, Span), ParseError> {
        let open = self.take()?;
        let mut matchers = Vec::new();
        if let Some(close) = self.eat(Kind::RightBrace)? {
            return Ok((matchers, open.span.to(close.span)));
        }
        loop {
            let matcher = self.matcher()?;
            self.charge::<[Matcher; 2]>(matcher.name.len() + matcher.value.len())?;
            matchers.push(matcher);
            let comma = self.eat(Kind::Comma)?.is_some();
            if let Some(close) = self.eat(Kind::RightBrace)? {
                return Ok((matchers, open.span.to(close.span)));
            }
            if !comma {
                return Err(self.unexpected("label matching", "\",\" or \"}\""));
            }
        }
    }

    fn matcher(&mut self) -> Result<Matcher, ParseError> {
        let label = self.peek()?;
        let name = match label.kind {
            Kind::Identifier => self.text(label.span).to_owned(),
            Kind::String => lossy(unquote(self.text(label.span))),
            _ => return Err(self.unexpected("label matching", "identifier or \"}\"")),
        };
        self.take()?;
        let op = match self.peek()?.kind {
            Kind::Assign => MatchOp::Equal,
            Kind::Operator(BinaryOp::Ne) => MatchOp::NotEqual,
            Kind::RegexMatch => MatchOp::Regex,
            Kind::RegexNoMatch => MatchOp::NotRegex,
            _ if label.kind == Kind::String => return Ok(Matcher::equal("__name__", name)),
            _ => return Err(self.unexpected("label matching", "label matching operator")),
        };
        self.take()?;
        let value = self.peek()?;
        if value.kind != Kind::String {
            return Err(self.unexpected("label matching", "string"));
        }
        self.take()?;
        let matcher = Matcher::new(op, name, lossy(unquote(self.text(value.span))));
        matcher
            .and_then(|matcher| self.compiled.add(&matcher).map(|()| matcher))
            .map_err(|e| self.error(label.span.to(value.span), e.to_string()))
    }
}

pub(super) fn sign(kind: Kind) -> Option<Sign> {
    match kind {
        Kind::Operator(BinaryOp::Add) => Some(Sign::Plus),
        Kind::Operator(BinaryOp::Sub) => Some(Sign::Minus),
        _ => None,
    }
}

/// `start` or `end`.
pub(super) fn query_bound(kind: Kind) -> Option<At> {
    match kind {
        Kind::Preprocessor(Preprocessor::Start) => Some(At::Start),
        Kind::Preprocessor(Preprocessor::End) => Some(At::End),
        _ => None,
    }
}

pub(super) fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

fn too_deep(how: &str, limit: u32) -> String {
    format!(
        "expression is {how} too deeply, at most {limit} levels are allowed: split it, for example by recording rules"
    )
}
