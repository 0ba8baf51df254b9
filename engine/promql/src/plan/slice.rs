//! Which subtrees treat each series by itself. Such a subtree can be evaluated for parts of its select apart, on
//! several threads, and the parts put together in the order of the series.

use super::{Kind, Node, RangeArg};
use crate::functions::elementwise::unary;
use crate::parse::{AggregateOp, BinaryOp, FunctionId, ValueType};

/// Numbers all nodes and marks those that can be sliced. Returns the number of nodes.
pub(super) fn mark(node: &mut Node, delayed_name_removal: bool, next: usize) -> usize {
    node.id = next;
    let mut next = next + 1;
    for child in node.children_mut() {
        next = mark(child, delayed_name_removal, next);
    }
    node.sliced = sliceable(node, delayed_name_removal);
    if let Kind::Aggregate(a) = &mut node.kind
        && a.op == AggregateOp::Sum
        && let Kind::Call(call) = &mut a.arg.kind
    {
        call.rows = true;
    }
    next
}

/// True if it reads nothing.
fn reads_nothing(node: &Node) -> bool {
    node.first_selector().is_none()
}

fn sliceable(node: &Node, delayed: bool) -> bool {
    // Dropping names can't make two series equal.
    let apart = |n: &Node| n.sliced && (n.injective || delayed);
    match &node.kind {
        Kind::Instant(_) => true,
        Kind::Invariant(n) | Kind::Plus(n) => n.sliced,
        Kind::Negate(n) => apart(n),
        Kind::Call(c) => {
            let range = |n: &Node| match &n.kind {
                Kind::Range(RangeArg::Selector { .. }) => true,
                Kind::Range(RangeArg::Subquery(s)) => s.child.sliced,
                _ => false,
            };
            if c.func.arg_types.contains(&ValueType::Matrix) {
                return c.func.id != FunctionId::AbsentOverTime
                    && c.args.iter().filter(|a| range(a)).count() == 1
                    && c.args.iter().all(|a| range(a) || reads_nothing(a));
            }
            let Some((first, rest)) = c.args.split_first() else { return false };
            match c.func.id {
                FunctionId::Round | FunctionId::Clamp | FunctionId::ClampMin | FunctionId::ClampMax => {
                    apart(first) && rest.iter().all(reads_nothing)
                }
                FunctionId::Timestamp
                | FunctionId::HistogramCount
                | FunctionId::HistogramSum
                | FunctionId::HistogramAvg
                | FunctionId::HistogramStddev
                | FunctionId::HistogramStdvar => first.sliced && first.injective,
                id => unary(id).is_some() && apart(first),
            }
        }
        Kind::Binary(b) => {
            // Trims tell several kinds of notes per step, of which the last counts.
            if matches!(b.op, BinaryOp::TrimLower | BinaryOp::TrimUpper) {
                return false;
            }
            let (vector, scalar) = match (b.lhs.value_type, b.rhs.value_type) {
                (ValueType::Scalar, ValueType::Vector) => (&b.rhs, &b.lhs),
                (ValueType::Vector, ValueType::Scalar) => (&b.lhs, &b.rhs),
                _ => return false,
            };
            let keeps_name = b.op.is_comparison() && !b.return_bool;
            reads_nothing(scalar) && if keeps_name { vector.sliced } else { apart(vector) }
        }
        _ => false,
    }
}
