//! Short cuts: what needs no automaton.
//!
//! One shape covers them all: literals with gaps between them, where each literal may be one of several. Without a gap
//! that is a set of values (`a|b|c`, `foo[12]`), with gaps it is `foo.*`, `.*foo`, `.*foo.*`, `.+`, `a.*b.+c`.
//! If cases don't matter, literals are kept folded to lower case, and so is the value before it is compared.

use super::class;
use super::tree::Node;
use hashbrown::HashTable;
use memchr::memmem::Finder;
use regex_syntax::hir::Look;
use std::borrow::Cow;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of literals we are ready to write out, beside four times the length of the expression.
const BUDGET: usize = 16 << 10;
/// Alternatives with gaps, and alternatives at one place beside a gap; more of them are better off in an automaton.
const MAX_ALTERNATIVES: usize = 16;
/// Characters of a class we write out.
const MAX_CLASS: usize = 256;
/// Values into which we write out a set without cases.
const MAX_UNFOLDED: usize = 256;
/// Sets up to this size are searched one by one.
const SMALL: usize = 8;

/// An expression that needs no automaton.
pub(super) struct Fast {
    fold: bool,
    shape: Shape,
    /// For a folded set: the values in all their cases, if few.
    unfolded: Option<Vec<String>>,
}

enum Shape {
    Set(LiteralSet),
    Globs(Vec<Glob>),
}

impl Fast {
    /// The short cut for a tree whose text was `length` bytes, if it has one.
    pub(super) fn of(tree: &Node, length: usize) -> Option<Self> {
        let fold = has_fold(tree);
        let mut writer = Writer { fold, budget: BUDGET + 4 * length };
        let sequences = writer.write(tree, true, true)?;
        let mut values = Vec::new();
        let mut globs = Vec::new();
        for sequence in sequences {
            if sequence.gaps.is_empty() {
                values.extend(sequence.texts.into_iter().flatten());
            } else {
                globs.push(Glob::new(sequence)?);
            }
        }
        if globs.is_empty() {
            let set = LiteralSet::new(values);
            let unfolded = if fold { unfold(&set.values) } else { None };
            return Some(Self { fold, shape: Shape::Set(set), unfolded });
        }
        if values.len() > MAX_ALTERNATIVES {
            return None;
        }
        if !values.is_empty() {
            globs.push(Glob { head: values, gaps: Vec::new(), tail: None });
        }
        (globs.len() <= MAX_ALTERNATIVES).then_some(Self { fold, shape: Shape::Globs(globs), unfolded: None })
    }

    pub(super) fn is_match(&self, value: &str) -> bool {
        let value = if self.fold { fold_text(value) } else { Cow::Borrowed(value) };
        match &self.shape {
            Shape::Set(set) => set.contains(&value),
            Shape::Globs(globs) => globs.iter().any(|g| g.is_match(&value)),
        }
    }

    /// Memory that it holds, bytes.
    pub(super) fn held_bytes(&self) -> usize {
        let texts = |all: &[String]| all.iter().map(|t| size_of::<String>() + t.len()).sum::<usize>();
        let shape = match &self.shape {
            // The table has a place and a byte per value, and at most as much in reserve.
            Shape::Set(set) => {
                texts(&set.values) + set.table.as_ref().map_or(0, |t| t.capacity() * 2 * (size_of::<u32>() + 1))
            }
            Shape::Globs(globs) => globs.iter().map(Glob::held_bytes).sum(),
        };
        shape + self.unfolded.as_deref().map_or(0, texts)
    }

    /// All values, if it is a set.
    pub(super) fn values(&self) -> Option<&[String]> {
        match &self.shape {
            Shape::Set(_) if self.fold => self.unfolded.as_deref(),
            Shape::Set(set) => Some(&set.values),
            Shape::Globs(_) => None,
        }
    }
}

/// Sorted values with a table over them once they are many.
struct LiteralSet {
    values: Vec<String>,
    table: Option<HashTable<u32>>,
}

impl LiteralSet {
    fn new(mut values: Vec<String>) -> Self {
        values.sort_unstable();
        values.dedup();
        let table = (values.len() > SMALL).then(|| {
            let hash = |at: &u32| values.get(*at as usize).map_or(0, |v| xxh3_64(v.as_bytes()));
            let mut table = HashTable::with_capacity(values.len());
            for (at, value) in (0..).zip(&values) {
                table.insert_unique(xxh3_64(value.as_bytes()), at, hash);
            }
            table
        });
        Self { values, table }
    }

    fn contains(&self, value: &str) -> bool {
        let Some(table) = &self.table else { return self.values.iter().any(|v| v == value) };
        table.find(xxh3_64(value.as_bytes()), |&at| self.values.get(at as usize).is_some_and(|v| v == value)).is_some()
    }
}

/// Literals with gaps between them.
struct Glob {
    /// One of these begins the value.
    head: Vec<String>,
    /// Then, each after at least so many characters, one of these.
    gaps: Vec<(usize, Vec<Finder<'static>>)>,
    /// After at least so many characters one of these ends the value. Without it the head is all of the value.
    tail: Option<(usize, Vec<String>)>,
}

impl Glob {
    fn new(sequence: Sequence) -> Option<Self> {
        if sequence.texts.iter().any(|texts| texts.len() > MAX_ALTERNATIVES) {
            return None;
        }
        let mut texts = sequence.texts.into_iter();
        let head = texts.next()?;
        let mut rest: Vec<_> = sequence.gaps.into_iter().zip(texts).collect();
        let tail = rest.pop();
        let finders = |texts: Vec<String>| texts.iter().map(|t| Finder::new(t.as_bytes()).into_owned()).collect();
        Some(Self { head, gaps: rest.into_iter().map(|(gap, texts)| (gap, finders(texts))).collect(), tail })
    }

    fn held_bytes(&self) -> usize {
        let ends = self.head.iter().chain(self.tail.iter().flat_map(|(_, texts)| texts));
        let texts = ends.map(|t| size_of::<String>() + t.len()).sum::<usize>();
        let gap = |(_, finders): &(usize, Vec<Finder<'static>>)| {
            size_of::<(usize, Vec<Finder<'static>>)>()
                + finders.iter().map(|f| size_of::<Finder<'static>>() + f.needle().len()).sum::<usize>()
        };
        size_of::<Self>() + texts + self.gaps.iter().map(gap).sum::<usize>()
    }

    /// Taking each literal where it ends first leaves the most room for the others, so that no choice is ever undone.
    fn is_match(&self, value: &str) -> bool {
        let Some((last_gap, tail)) = &self.tail else { return self.head.iter().any(|h| h == value) };
        let Some(mut at) = self.head.iter().filter(|h| value.starts_with(h.as_str())).map(String::len).min() else {
            return false;
        };
        for (gap, finders) in &self.gaps {
            let Some(from) = skip(value, at, *gap) else { return false };
            let rest = value.as_bytes().get(from..).unwrap_or_default();
            let Some(end) = finders.iter().filter_map(|f| Some(f.find(rest)? + f.needle().len())).min() else {
                return false;
            };
            at = from + end;
        }
        let Some(from) = skip(value, at, *last_gap) else { return false };
        tail.iter().any(|t| value.len() >= from + t.len() && value.ends_with(t.as_str()))
    }
}

/// The place `count` characters after `at`.
fn skip(value: &str, at: usize, count: usize) -> Option<usize> {
    let rest = value.get(at..)?;
    match count {
        0 => Some(at),
        n => rest.char_indices().nth(n - 1).map(|(i, c)| at + i + c.len_utf8()),
    }
}

/// Places with alternatives, and the gaps between them (at least so many characters): one gap fewer than places.
#[derive(Clone)]
struct Sequence {
    texts: Vec<Vec<String>>,
    gaps: Vec<usize>,
}

impl Sequence {
    fn one_of(texts: Vec<String>) -> Self {
        Self { texts: vec![texts], gaps: Vec::new() }
    }

    fn gap(min: usize) -> Self {
        Self { texts: vec![vec![String::new()], vec![String::new()]], gaps: vec![min] }
    }
}

/// Writes a tree out as alternatives of sequences.
struct Writer {
    fold: bool,
    /// Bytes still to spend; every alternative counts as one more.
    budget: usize,
}

impl Writer {
    /// `starts`, `ends`: nothing is before or after this node, so that anchors hold. Nothing if the shape doesn't fit.
    fn write(&mut self, node: &Node, starts: bool, ends: bool) -> Option<Vec<Sequence>> {
        match node {
            Node::Empty => self.one_of(vec![String::new()]),
            Node::Literal { text, fold } => {
                let text = self.literal(text, *fold)?;
                self.one_of(vec![text])
            }
            Node::Class(c) => {
                let texts = self.class(c)?;
                self.one_of(texts)
            }
            Node::Any => None,
            Node::Look(Look::Start | Look::StartLF) if starts => self.one_of(vec![String::new()]),
            Node::Look(Look::End | Look::EndLF) if ends => self.one_of(vec![String::new()]),
            Node::Look(_) => None,
            Node::Group { sub, .. } => self.write(sub, starts, ends),
            Node::Repeat { min, max: None, sub, .. } if matches!(sub.as_ref(), Node::Any) => {
                Some(vec![Sequence::gap(*min as usize)])
            }
            Node::Repeat { max: None, .. } => None,
            Node::Repeat { min, max: Some(max), sub, .. } => {
                let once = *max == 1;
                let sub = if *max == 0 { Vec::new() } else { self.write(sub, starts && once, ends && once)? };
                let mut power = self.one_of(vec![String::new()])?;
                let mut all = Vec::new();
                for n in 0..=*max {
                    if n >= *min {
                        all.extend(power.iter().cloned());
                        self.spend(power.iter().flat_map(|s| &s.texts).flatten())?;
                    }
                    if n < *max {
                        power = self.concat(power, &sub)?;
                    }
                }
                self.alternate(all)
            }
            Node::Concat(subs) => {
                let first_wide = subs.iter().position(|s| !is_zero_width(s)).unwrap_or(subs.len());
                let last_wide = subs.iter().rposition(|s| !is_zero_width(s)).unwrap_or(0);
                let mut all = self.one_of(vec![String::new()])?;
                for (i, sub) in subs.iter().enumerate() {
                    let sub = self.write(sub, starts && i <= first_wide, ends && i >= last_wide)?;
                    all = self.concat(all, &sub)?;
                }
                Some(all)
            }
            Node::Alternate(subs) => {
                let mut all = Vec::with_capacity(subs.len());
                for sub in subs {
                    all.extend(self.write(sub, starts, ends)?);
                }
                self.alternate(all)
            }
        }
    }

    fn spend<'t>(&mut self, texts: impl Iterator<Item = &'t String>) -> Option<()> {
        for text in texts {
            self.budget = self.budget.checked_sub(text.len() + 1)?;
        }
        Some(())
    }

    fn one_of(&mut self, texts: Vec<String>) -> Option<Vec<Sequence>> {
        self.spend(texts.iter())?;
        Some(vec![Sequence::one_of(texts)])
    }

    /// The literal as it is compared: folded if cases don't matter anywhere. Mixed expressions don't fit.
    fn literal(&self, text: &str, fold: bool) -> Option<String> {
        if !self.fold {
            return Some(text.to_owned());
        }
        let cased = |c: char| fold_char(c).is_ascii_alphabetic();
        if fold {
            text.chars().all(cased).then(|| text.chars().map(fold_char).collect())
        } else {
            (!text.chars().any(cased)).then(|| text.to_owned())
        }
    }

    /// The characters of a small class, likewise.
    fn class(&self, c: &regex_syntax::hir::ClassUnicode) -> Option<Vec<String>> {
        if class::len(c) > MAX_CLASS {
            return None;
        }
        let mut texts = Vec::new();
        for ch in class::chars(c) {
            let folded = fold_char(ch);
            if self.fold && folded.is_ascii_alphabetic() {
                if !cases(folded).all(|other| class::contains(c, other)) {
                    return None;
                }
                if ch != folded {
                    continue; // comes, or came, by its folded form
                }
            }
            texts.push(ch.to_string());
        }
        Some(texts)
    }

    fn concat(&mut self, left: Vec<Sequence>, right: &[Sequence]) -> Option<Vec<Sequence>> {
        if left.len() * right.len() > MAX_ALTERNATIVES {
            return None;
        }
        let mut all = Vec::with_capacity(left.len() * right.len());
        for l in &left {
            for r in right {
                all.push(self.chain(l, r)?);
            }
        }
        Some(all)
    }

    /// One sequence after another: the last place of the one and the first of the other become one.
    fn chain(&mut self, left: &Sequence, right: &Sequence) -> Option<Sequence> {
        let (seam_left, before) = left.texts.split_last()?;
        let (seam_right, after) = right.texts.split_first()?;
        let mut seam = Vec::new();
        for l in seam_left {
            for r in seam_right {
                self.budget = self.budget.checked_sub(l.len() + r.len() + 1)?;
                seam.push(format!("{l}{r}"));
            }
        }
        self.spend(before.iter().chain(after).flatten())?;
        let mut texts = before.to_vec();
        let mut gaps = left.gaps.clone();
        match (gaps.last_mut(), right.gaps.split_first()) {
            // Nothing between two gaps: they are one.
            (Some(gap), Some((more, rest))) if matches!(seam.as_slice(), [s] if s.is_empty()) => {
                *gap = gap.saturating_add(*more);
                gaps.extend(rest);
            }
            _ => {
                texts.push(seam);
                gaps.extend(&right.gaps);
            }
        }
        texts.extend_from_slice(after);
        Some(Sequence { texts, gaps })
    }

    /// Alternatives; those without gaps become one.
    fn alternate(&mut self, all: Vec<Sequence>) -> Option<Vec<Sequence>> {
        let (flat, mut rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|s| s.gaps.is_empty());
        let mut texts: Vec<String> = flat.into_iter().flat_map(|s| s.texts).flatten().collect();
        texts.sort_unstable();
        texts.dedup();
        if !texts.is_empty() || rest.is_empty() {
            rest.push(Sequence::one_of(texts));
        }
        (rest.len() <= MAX_ALTERNATIVES).then_some(rest)
    }
}

/// True if any literal stands without regard to case.
fn has_fold(node: &Node) -> bool {
    match node {
        Node::Literal { fold, .. } => *fold,
        Node::Group { sub, .. } | Node::Repeat { sub, .. } => has_fold(sub),
        Node::Concat(subs) | Node::Alternate(subs) => subs.iter().any(has_fold),
        Node::Empty | Node::Class(_) | Node::Any | Node::Look(_) => false,
    }
}

/// True if the node never takes text.
fn is_zero_width(node: &Node) -> bool {
    match node {
        Node::Empty | Node::Look(_) => true,
        Node::Group { sub, .. } | Node::Repeat { sub, .. } => is_zero_width(sub),
        Node::Concat(subs) | Node::Alternate(subs) => subs.iter().all(is_zero_width),
        Node::Literal { .. } | Node::Class(_) | Node::Any => false,
    }
}

/// Folding for literals in ASCII: besides the capitals, two foreign letters have an ASCII letter as another case.
fn fold_char(c: char) -> char {
    match c {
        'ſ' => 's',
        '\u{212A}' => 'k', // Kelvin
        c => c.to_ascii_lowercase(),
    }
}

/// A folded ASCII letter in all its cases.
fn cases(c: char) -> impl Iterator<Item = char> {
    let foreign = match c {
        's' => Some('ſ'),
        'k' => Some('\u{212A}'),
        _ => None,
    };
    let upper = c.to_ascii_uppercase();
    (upper != c).then_some(upper).into_iter().chain([c]).chain(foreign)
}

fn fold_text(value: &str) -> Cow<'_, str> {
    if value.bytes().any(|b| b.is_ascii_uppercase() || !b.is_ascii()) {
        Cow::Owned(value.chars().map(fold_char).collect())
    } else {
        Cow::Borrowed(value)
    }
}

/// Folded values in all their cases, sorted; nothing if they are many.
fn unfold(values: &[String]) -> Option<Vec<String>> {
    let mut all = Vec::new();
    for value in values {
        let mut done = vec![String::with_capacity(value.len())];
        for c in value.chars() {
            done = done
                .iter()
                .flat_map(|start| {
                    cases(c).map(move |c| {
                        let mut text = start.clone();
                        text.push(c);
                        text
                    })
                })
                .collect();
            if all.len() + done.len() > MAX_UNFOLDED {
                return None;
            }
        }
        all.append(&mut done);
    }
    all.sort_unstable();
    Some(all)
}
