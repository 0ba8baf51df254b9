//! The parser: RE2 syntax with Perl's flags, dot matching newline, one pass with a stack of open groups.

use super::RegexError;
use super::class;
use super::lex::{bracket_char, counts, escape, next, taken};
use super::tree::Node;
use regex_syntax::hir::{ClassUnicode, ClassUnicodeRange, Look};

/// Go's bounds: copies a counted repetition may make, height of the tree, instructions of its program.
const MAX_REPEAT: u64 = 1000;
const MAX_HEIGHT: u32 = 1000;
const MAX_SIZE: u64 = (128 << 20) / 40;
/// Our own bounds: groups open at once (Go has none), ranges in all classes, characters looked at to fold cases.
const MAX_OPEN: usize = 1000;
const MAX_RANGES: usize = 2 << 20;
const MAX_FOLD: usize = 16 << 20;
/// Pieces of the tree (about 300 bytes each while it is made into an automaton): so many, and one more per 16 bytes.
const FREE_PIECES: usize = 32 << 10;
const BYTES_PER_PIECE: usize = 16;

/// The result of parsing.
pub(super) struct Parsed {
    /// The expression, without the anchors.
    pub(super) tree: Node,
    /// The height of the tree, at most 1000.
    pub(super) height: u32,
    /// Named groups in order, with their numbers.
    pub(super) names: Vec<(String, usize)>,
    /// How many groups there are, with names or without.
    pub(super) groups: usize,
}

/// Reads an expression.
pub(super) fn parse(source: &str) -> Result<Parsed, RegexError> {
    let flags = Flags { dot_newline: true, ..Flags::default() };
    let root = Frame { outer: flags, group: None, branches: Vec::new(), items: Vec::new() };
    let mut parser =
        Parser { source, flags, open: vec![root], groups: 0, names: Vec::new(), ranges: 0, folded: 0, pieces: 0 };
    parser.run()?;
    let (root, inner) = (parser.open.pop(), parser.open.len());
    match root {
        Some(frame) if inner == 0 => {
            let Item { node: tree, height, .. } = parser.close(frame)?;
            Ok(Parsed { tree, height, names: parser.names, groups: parser.groups as usize })
        }
        _ => Err(RegexError::new("missing closing )", source)),
    }
}

#[derive(Clone, Copy, Default)]
struct Flags {
    fold: bool,
    multi_line: bool,
    dot_newline: bool,
    swap_greed: bool,
}

/// A finished piece with what is needed to bound the whole.
struct Item {
    node: Node,
    height: u32,
    /// Instructions in Go's program.
    size: u64,
    /// The most copies nested counted repetitions make of anything within.
    copies: u64,
}

/// An open group (or the whole).
struct Frame {
    /// The flags to return to.
    outer: Flags,
    /// Its number, if it captures.
    group: Option<u32>,
    /// Alternatives that are complete.
    branches: Vec<Item>,
    /// Pieces of the alternative being read.
    items: Vec<Item>,
}

struct Parser<'s> {
    source: &'s str,
    flags: Flags,
    /// Open groups, outermost first; the first is the whole and always there.
    open: Vec<Frame>,
    groups: u32,
    names: Vec<(String, usize)>,
    ranges: usize,
    folded: usize,
    /// Pieces so far, but those that became one with others.
    pieces: usize,
}

impl<'s> Parser<'s> {
    fn run(&mut self) -> Result<(), RegexError> {
        let mut rest = self.source;
        // Where the repetition that ended just before began: repetitions don't stack.
        let mut last_repeat: Option<&str> = None;
        while !rest.is_empty() {
            let start = rest;
            let (c, after) = next(rest);
            let mut repeat = None;
            rest = after;
            match c {
                '(' if after.starts_with('?') => rest = self.group_or_flags(start)?,
                '(' => self.open_group(true)?,
                '|' => self.branch()?,
                ')' => self.close_group()?,
                '^' => self.look(if self.flags.multi_line { Look::StartLF } else { Look::Start })?,
                '$' => self.look(if self.flags.multi_line { Look::EndLF } else { Look::End })?,
                '.' if self.flags.dot_newline => self.push(Node::Any)?,
                '.' => self.push(Node::Class(class::negate(class::range(0x0A, 0x0A))))?,
                '[' => rest = self.bracket(start)?,
                '*' | '+' | '?' => {
                    let (min, max) = match c {
                        '*' => (0, None),
                        '+' => (1, None),
                        _ => (0, Some(1)),
                    };
                    rest = self.repeat(min, max, false, start, after, last_repeat)?;
                    repeat = Some(start);
                }
                '{' => match counts(start) {
                    None => self.literal('{')?,
                    Some((Some((min, max)), after))
                        if u64::from(min) <= MAX_REPEAT
                            && max.is_none_or(|max| u64::from(max) <= MAX_REPEAT && min <= max) =>
                    {
                        rest = self.repeat(min, max, true, start, after, last_repeat)?;
                        repeat = Some(start);
                    }
                    Some((_, after)) => return Err(RegexError::new("invalid repeat count", taken(start, after))),
                },
                '\\' => rest = self.backslash(start)?,
                c => self.literal(c)?,
            }
            last_repeat = repeat;
        }
        Ok(())
    }

    /// A backslash outside of brackets. Returns the rest.
    fn backslash(&mut self, start: &'s str) -> Result<&'s str, RegexError> {
        let (c, after) = next(start.get(1..).unwrap_or_default());
        match c {
            'A' => self.look(Look::Start)?,
            'z' => self.look(Look::End)?,
            'b' => self.look(Look::WordAscii)?,
            'B' => self.look(Look::WordAsciiNegate)?,
            'Q' => {
                let (text, rest) = after.split_once("\\E").unwrap_or((after, ""));
                for c in text.chars() {
                    self.literal(c)?;
                }
                return Ok(rest);
            }
            'p' | 'P' => {
                let (class, rest) = self.unicode_class(start)?;
                self.class(class)?;
                return Ok(rest);
            }
            _ => {
                if let Some(class) = self.perl_class(c)? {
                    self.class(class)?;
                } else {
                    let (code, rest) = escape(start)?;
                    match char::from_u32(code) {
                        Some(c) => self.literal(c)?,
                        None => self.push(Node::Class(ClassUnicode::empty()))?, // a surrogate: no text holds one
                    }
                    return Ok(rest);
                }
            }
        }
        Ok(after)
    }

    /// `(?…`: flags, a group without number, a named group. Returns the rest.
    fn group_or_flags(&mut self, start: &'s str) -> Result<&'s str, RegexError> {
        let head = if start.len() > 4 && start.starts_with("(?P<") {
            Some(4)
        } else if start.len() > 3 && start.starts_with("(?<") {
            Some(3)
        } else {
            None
        };
        if let Some(head) = head {
            let end = start.find('>').ok_or_else(|| RegexError::new("invalid named capture", start))?;
            let name = start.get(head..end).unwrap_or_default();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                let whole = start.get(..=end).unwrap_or(start);
                return Err(RegexError::new("invalid named capture", whole));
            }
            self.open_group(true)?;
            self.names.push((name.to_owned(), self.groups as usize));
            return Ok(start.get(end + 1..).unwrap_or_default());
        }

        let mut flags = self.flags;
        let mut on = true;
        let mut seen = false;
        let mut rest = start.get(2..).unwrap_or_default();
        while !rest.is_empty() {
            let (c, after) = next(rest);
            rest = after;
            match c {
                'i' => flags.fold = on,
                'm' => flags.multi_line = on,
                's' => flags.dot_newline = on,
                'U' => flags.swap_greed = on,
                '-' if on => {
                    on = false;
                    seen = false;
                    continue;
                }
                ':' | ')' if on || seen => {
                    if c == ':' {
                        self.open_group(false)?;
                    }
                    self.flags = flags;
                    return Ok(rest);
                }
                _ => break,
            }
            seen = true;
        }
        Err(RegexError::new("invalid or unsupported Perl syntax", taken(start, rest)))
    }

    /// `[…]`. Returns the rest.
    fn bracket(&mut self, start: &'s str) -> Result<&'s str, RegexError> {
        let mut rest = start.get(1..).unwrap_or_default();
        let negated = rest.strip_prefix('^');
        rest = negated.unwrap_or(rest);
        let mut ranges: Vec<ClassUnicodeRange> = Vec::new();
        let mut first = true; // a closing bracket at the very start is a character
        while first || !rest.starts_with(']') {
            first = false;
            if rest.starts_with("[:")
                && let Some(end) = rest.get(2..).and_then(|r| r.find(":]"))
            {
                let (name, after) = rest.split_at(end + 4);
                let inner = name.get(2..end + 2).unwrap_or_default();
                let (plain, not) = inner.strip_prefix('^').map_or((inner, false), |n| (n, true));
                let class =
                    class::posix(plain).ok_or_else(|| RegexError::new("invalid character class range", name))?;
                ranges.extend(self.folded(class, not)?.iter());
                rest = after;
                continue;
            }
            if rest.starts_with("\\p") || rest.starts_with("\\P") {
                let (class, after) = self.unicode_class(rest)?;
                ranges.extend(class.iter());
                rest = after;
                continue;
            }
            if let Some(after) = rest.strip_prefix('\\') {
                let (c, after) = next(after);
                if let Some(class) = self.perl_class(c)? {
                    ranges.extend(class.iter());
                    rest = after;
                    continue;
                }
            }
            let item = rest;
            let (low, after) = bracket_char(rest, start)?;
            rest = after;
            let mut high = low;
            if let Some(after) = rest.strip_prefix('-')
                && !after.is_empty()
                && !after.starts_with(']')
            {
                (high, rest) = bracket_char(after, start)?;
                if high < low {
                    return Err(RegexError::new("invalid character class range", taken(item, rest)));
                }
            }
            ranges.extend(class::ranges(low, high));
        }
        // Folding what is already folded (and its complement) adds nothing, so that once for all of it is right.
        let class = self.folded(ClassUnicode::new(ranges), negated.is_some())?;
        self.class(class)?;
        Ok(rest.get(1..).unwrap_or_default())
    }

    /// `\pN`, `\p{Name}`, `\P…`, `\p{^…}`. Returns the class and the rest.
    fn unicode_class(&mut self, start: &'s str) -> Result<(ClassUnicode, &'s str), RegexError> {
        let mut not = start.starts_with("\\P");
        let (c, after) = next(start.get(2..).unwrap_or_default());
        let (name, rest) = if c == '{' {
            let end = start.find('}').ok_or_else(|| RegexError::new("invalid character class range", start))?;
            (start.get(3..end).unwrap_or_default(), start.get(end + 1..).unwrap_or_default())
        } else {
            (taken(start, after).get(2..).unwrap_or_default(), after)
        };
        let plain = name.strip_prefix('^').inspect(|_| not = !not).unwrap_or(name);
        let class = class::unicode(plain)
            .ok_or_else(|| RegexError::new("invalid character class range", taken(start, rest)))?;
        Ok((self.folded(class, not)?, rest))
    }

    /// `\d`, `\D` and so on, by the letter.
    fn perl_class(&mut self, c: char) -> Result<Option<ClassUnicode>, RegexError> {
        class::perl(c.to_ascii_lowercase()).map(|class| self.folded(class, c.is_ascii_uppercase())).transpose()
    }

    /// The class under the present flags: all cases first, then negation.
    fn folded(&mut self, mut class: ClassUnicode, not: bool) -> Result<ClassUnicode, RegexError> {
        if self.flags.fold {
            self.folded += class::fold(&mut class);
        }
        if not {
            class = class::negate(class);
        }
        self.ranges += class.ranges().len();
        if self.ranges > MAX_RANGES || self.folded > MAX_FOLD {
            return Err(self.too_large());
        }
        Ok(class)
    }

    fn too_large(&self) -> RegexError {
        RegexError::new("expression too large", self.source)
    }

    fn too_deep(&self) -> RegexError {
        RegexError::new("expression nests too deeply", self.source)
    }

    fn look(&mut self, look: Look) -> Result<(), RegexError> {
        self.push(Node::Look(look))
    }

    fn literal(&mut self, c: char) -> Result<(), RegexError> {
        let fold = self.flags.fold && class::has_case(c);
        self.push(Node::Literal { text: c.to_string(), fold })
    }

    fn class(&mut self, class: ClassUnicode) -> Result<(), RegexError> {
        self.push(match class::single(&class) {
            Some(c) => Node::Literal { text: c.to_string(), fold: false },
            None if class::is_full(&class) => Node::Any,
            None => Node::Class(class),
        })
    }

    /// A new piece without parts.
    fn push(&mut self, node: Node) -> Result<(), RegexError> {
        self.append(Item { node, height: 1, size: 1, copies: 1 })
    }

    /// A finished piece after the others. Literals before it grow together: a repetition can't reach them any more.
    fn append(&mut self, item: Item) -> Result<(), RegexError> {
        let item = self.bounded(item)?;
        if let Some(frame) = self.open.last_mut() {
            let before = frame.items.len();
            merge_literals(&mut frame.items);
            self.pieces += 1;
            self.pieces -= before - frame.items.len();
            frame.items.push(item);
        }
        if self.pieces > FREE_PIECES + self.source.len() / BYTES_PER_PIECE {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn bounded(&self, item: Item) -> Result<Item, RegexError> {
        if item.size > MAX_SIZE {
            return Err(self.too_large());
        }
        if item.height > MAX_HEIGHT {
            return Err(self.too_deep());
        }
        Ok(item)
    }

    /// A repetition of the last piece. Returns the rest after the operator and its `?`.
    fn repeat(
        &mut self,
        min: u32,
        max: Option<u32>,
        counted: bool,
        start: &'s str,
        after: &'s str,
        last: Option<&'s str>,
    ) -> Result<&'s str, RegexError> {
        let lazy = after.strip_prefix('?');
        let rest = lazy.unwrap_or(after);
        if let Some(last) = last {
            return Err(RegexError::new("invalid nested repetition operator", taken(last, rest)));
        }
        let Some(sub) = self.open.last_mut().and_then(|f| f.items.pop()) else {
            return Err(RegexError::new("missing argument to repetition operator", taken(start, rest)));
        };
        // Go's count of instructions: x{2,5} is xx(x(x(x)?)?)?, x{2,} is xx+.
        let (low, high) = (u64::from(min), max.map(u64::from));
        let size = match (counted, low, high) {
            (false, 0, None) | (true, 0, None) => 2 + sub.size,
            (false, ..) => 1 + sub.size,
            (true, _, None) => 1 + low * sub.size,
            (true, _, Some(high)) => high * sub.size + (high - low),
        };
        let copies = match if counted { high.unwrap_or(low.max(1)) } else { 1 } {
            0 => 0,
            n => n * sub.copies,
        };
        let invalid = counted && (min >= 2 || max.is_some_and(|m| m >= 2)) && copies > MAX_REPEAT;
        let greedy = lazy.is_none() != self.flags.swap_greed;
        let node = Node::Repeat { min, max, greedy, sub: Box::new(sub.node) };
        let item = self.bounded(Item { node, height: sub.height + 1, size: size.max(1), copies })?;
        if invalid {
            return Err(RegexError::new("invalid repeat count", taken(start, rest)));
        }
        if let Some(frame) = self.open.last_mut() {
            frame.items.push(item);
        }
        Ok(rest)
    }

    fn open_group(&mut self, captures: bool) -> Result<(), RegexError> {
        if self.open.len() > MAX_OPEN {
            return Err(self.too_deep());
        }
        if captures {
            self.groups += 1;
        }
        let group = captures.then_some(self.groups);
        self.open.push(Frame { outer: self.flags, group, branches: Vec::new(), items: Vec::new() });
        Ok(())
    }

    /// `|`
    fn branch(&mut self) -> Result<(), RegexError> {
        if let Some(frame) = self.open.last_mut() {
            let items = std::mem::take(&mut frame.items);
            let done = concat(items);
            let done = self.bounded(done)?;
            if let Some(frame) = self.open.last_mut() {
                frame.branches.push(done);
            }
        }
        Ok(())
    }

    /// `)`
    fn close_group(&mut self) -> Result<(), RegexError> {
        if self.open.len() < 2 {
            return Err(RegexError::new("unexpected )", self.source));
        }
        let Some(frame) = self.open.pop() else { return Ok(()) };
        self.flags = frame.outer;
        let group = frame.group;
        let inner = self.close(frame)?;
        self.append(match group {
            None => inner,
            Some(number) => Item {
                node: Node::Group { number, sub: Box::new(inner.node) },
                height: inner.height + 1,
                size: inner.size + 2,
                copies: inner.copies,
            },
        })
    }

    /// All alternatives of a group as one piece.
    fn close(&self, frame: Frame) -> Result<Item, RegexError> {
        let last = self.bounded(concat(frame.items))?;
        if frame.branches.is_empty() {
            return Ok(last);
        }
        let mut branches = frame.branches;
        branches.push(last);
        let extra = branches.len() as u64 - 1;
        let all = join(branches, Node::Alternate, |node| match node {
            Node::Alternate(subs) => Ok(subs),
            other => Err(other),
        });
        self.bounded(Item { size: all.size + extra, ..all })
    }
}

/// Makes one literal of the last two, if both are.
fn merge_literals(items: &mut Vec<Item>) {
    if let [.., Item { node: Node::Literal { fold: a, .. }, .. }, Item { node: Node::Literal { fold: b, .. }, .. }] =
        items.as_slice()
        && a == b
        && let Some(Item { node: Node::Literal { text: tail, .. }, size: more, .. }) = items.pop()
        && let Some(Item { node: Node::Literal { text, .. }, size, .. }) = items.last_mut()
    {
        text.push_str(&tail);
        *size += more;
    }
}

/// Pieces one after the other as one piece.
fn concat(mut items: Vec<Item>) -> Item {
    merge_literals(&mut items);
    join(items, Node::Concat, |node| match node {
        Node::Concat(subs) => Ok(subs),
        other => Err(other),
    })
}

/// Pieces under one node; lists of the same kind (`hoist` gives their parts) are taken apart.
fn join(items: Vec<Item>, node: fn(Vec<Node>) -> Node, hoist: fn(Node) -> Result<Vec<Node>, Node>) -> Item {
    let mut items = items;
    match items.len() {
        0 => return Item { node: Node::Empty, height: 1, size: 1, copies: 1 },
        1 => {
            if let Some(only) = items.pop() {
                return only;
            }
        }
        _ => {}
    }
    let mut subs = Vec::with_capacity(items.len());
    let (mut height, mut size, mut copies) = (0, 0, 1);
    for item in items {
        size += item.size;
        copies = item.copies.max(copies);
        match hoist(item.node) {
            Ok(parts) => {
                height = item.height.saturating_sub(1).max(height);
                subs.extend(parts);
            }
            Err(node) => {
                height = item.height.max(height);
                subs.push(node);
            }
        }
    }
    Item { node: node(subs), height: height + 1, size, copies }
}
