//! The tree of a parsed expression.

use super::class;
use regex_syntax::hir::{Capture, Class, ClassUnicode, Hir, Look, Repetition};

/// One node. Literals are merged, lists within lists of the same kind are hoisted, so that the height of the tree is
/// what the parser bounds.
#[derive(Debug, Clone)]
pub(super) enum Node {
    /// Matches the empty text.
    Empty,
    /// A run of characters; with `fold`, each of them has other cases and those match as well.
    Literal { text: String, fold: bool },
    /// One character out of a class, which may be empty (then nothing matches).
    Class(ClassUnicode),
    /// Any one character.
    Any,
    /// A condition on the place, without width.
    Look(Look),
    /// A numbered group.
    Group { number: u32, sub: Box<Node> },
    /// `sub` between `min` and `max` times, without end if there is no `max`.
    Repeat { min: u32, max: Option<u32>, greedy: bool, sub: Box<Node> },
    /// One after the other, at least two.
    Concat(Vec<Node>),
    /// One or the other, at least two.
    Alternate(Vec<Node>),
}

impl Node {
    /// The same for `regex_automata`.
    pub(super) fn to_hir(&self) -> Hir {
        match self {
            Self::Empty => Hir::empty(),
            Self::Literal { text, fold: false } => Hir::literal(text.as_bytes()),
            Self::Literal { text, fold: true } => {
                Hir::concat(text.chars().map(|c| Hir::class(Class::Unicode(class::orbit(c)))).collect())
            }
            Self::Class(c) => Hir::class(Class::Unicode(c.clone())),
            Self::Any => Hir::class(Class::Unicode(class::range(0, 0x10_FFFF))),
            Self::Look(look) => Hir::look(*look),
            Self::Group { number, sub } => {
                Hir::capture(Capture { index: *number, name: None, sub: Box::new(sub.to_hir()) })
            }
            Self::Repeat { min, max, greedy, sub } => {
                Hir::repetition(Repetition { min: *min, max: *max, greedy: *greedy, sub: Box::new(sub.to_hir()) })
            }
            Self::Concat(subs) => Hir::concat(subs.iter().map(Self::to_hir).collect()),
            Self::Alternate(subs) => Hir::alternation(subs.iter().map(Self::to_hir).collect()),
        }
    }

    /// What every matching text begins with; empty if nothing is known.
    pub(super) fn prefix(&self) -> String {
        self.known_prefix().0
    }

    /// The prefix, and whether it is the whole of what this node takes.
    fn known_prefix(&self) -> (String, bool) {
        match self {
            // A condition takes no text; leaving it out only makes the prefix a weaker statement.
            Self::Empty | Self::Look(_) => (String::new(), true),
            Self::Literal { text, fold: false } => (text.clone(), true),
            Self::Literal { fold: true, .. } | Self::Class(_) | Self::Any => (String::new(), false),
            Self::Group { sub, .. } => sub.known_prefix(),
            Self::Repeat { min, max, sub, .. } => match (min, max) {
                (_, Some(0)) => (String::new(), true),
                (0, _) => (String::new(), false),
                (1, Some(1)) => sub.known_prefix(),
                _ => (sub.known_prefix().0, false),
            },
            Self::Concat(subs) => {
                let mut all = String::new();
                for sub in subs {
                    let (text, whole) = sub.known_prefix();
                    all.push_str(&text);
                    if !whole {
                        return (all, false);
                    }
                }
                (all, true)
            }
            Self::Alternate(subs) => {
                let mut common: Option<(String, bool)> = None;
                for sub in subs {
                    let (text, whole) = sub.known_prefix();
                    common = Some(match common {
                        None => (text, whole),
                        Some((c, w)) if c == text => (c, w && whole),
                        Some((c, _)) => {
                            let end: usize = c
                                .chars()
                                .zip(text.chars())
                                .take_while(|(a, b)| a == b)
                                .map(|(a, _)| a.len_utf8())
                                .sum();
                            (c.get(..end).unwrap_or_default().to_owned(), false)
                        }
                    });
                    if common.as_ref().is_some_and(|(c, _)| c.is_empty()) {
                        return (String::new(), false);
                    }
                }
                common.unwrap_or_default()
            }
        }
    }
}
