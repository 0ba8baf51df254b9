//! Binary operators: values, and a vector with a scalar. Joins of two vectors are in [`super::join`].

use super::QueryError;
use super::annotations::Annotations;
use super::column::{Bits, Column, Point, ScalarColumn};
use super::eval::{Exec, Sink};
use crate::functions::window::Value;
use crate::histogram::{Accumulator, compact, divide, equals, scale, trim};
use crate::parse::{BinaryOp, Span, ValueType};
use crate::plan::{Binary, Grid, Node};
use model::FloatHistogram;
use model::histogram::ResetHint;
use std::collections::BTreeMap;

/// The arithmetic of two floats, and whether a comparison holds.
pub(crate) fn scalar_operation(op: BinaryOp) -> Result<fn(f64, f64) -> f64, QueryError> {
    fn truth(b: bool) -> f64 {
        f64::from(u8::from(b))
    }
    Ok(match op {
        BinaryOp::Add => |a, b| a + b,
        BinaryOp::Sub => |a, b| a - b,
        BinaryOp::Mul => |a, b| a * b,
        BinaryOp::Div => |a, b| a / b,
        BinaryOp::Mod => |a, b| a % b,
        BinaryOp::Pow => f64::powf,
        BinaryOp::Atan2 => f64::atan2,
        BinaryOp::Eq => |a, b| truth(a == b),
        BinaryOp::Ne => |a, b| truth(a != b),
        BinaryOp::Gt => |a, b| truth(a > b),
        BinaryOp::Lt => |a, b| truth(a < b),
        BinaryOp::Ge => |a, b| truth(a >= b),
        BinaryOp::Le => |a, b| truth(a <= b),
        BinaryOp::And | BinaryOp::Or | BinaryOp::Unless | BinaryOp::TrimUpper | BinaryOp::TrimLower => {
            return Err(QueryError::execution(format!("operator \"{op}\" not allowed for Scalar operations")));
        }
    })
}

/// True if the operator makes something else of the metric, so that its name no longer fits.
pub(super) fn changes_metric(op: BinaryOp) -> bool {
    !(op.is_comparison() || op.is_set() || matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower))
}

/// An operator with where it stands.
#[derive(Clone, Copy)]
pub(super) struct Operator {
    pub(super) op: BinaryOp,
    pub(super) return_bool: bool,
    pub(super) span: Span,
}

/// What is to be told about a pair of values.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Note {
    /// These kinds of values don't go together.
    Types(&'static str, &'static str),
    /// Exponential and custom buckets don't.
    Layout,
    /// Reset hints contradict each other.
    Collision(&'static str),
    /// Custom bounds differed.
    Reconciled(&'static str),
}

/// The notes of one operator. As in Prometheus the last one of a step hides the others.
#[derive(Default)]
pub(super) struct StepNotes(BTreeMap<usize, Note>);

impl StepNotes {
    fn set(&mut self, step: usize, note: Note) {
        self.0.insert(step, note);
    }

    pub(super) fn tell(&self, operator: &Operator, notes: &mut Annotations) {
        let mut told: Vec<Note> = Vec::new();
        let (op, span) = (operator.op.as_str(), operator.span);
        for note in self.0.values() {
            if told.contains(note) {
                continue;
            }
            told.push(*note);
            match note {
                Note::Types(a, b) => notes.incompatible_types(a, op, b, span),
                Note::Layout => notes.incompatible_bucket_layout(op, span),
                Note::Collision(operation) => notes.reset_collision(operation, span),
                Note::Reconciled(operation) => notes.mismatched_custom_buckets(operation, span),
            }
        }
    }
}

/// What an operator makes of a pair of values.
pub(super) enum Outcome {
    /// This value.
    Value(Value),
    /// Nothing: the comparison does not hold.
    Filtered,
    /// Nothing: these kinds of values don't go together, which has been told.
    Unfit,
}

impl Operator {
    /// Applies it to two values of one step.
    pub(super) fn apply(&self, step: usize, a: Point<'_>, b: Point<'_>, notes: &mut StepNotes) -> Outcome {
        let mut unfit = |a: &'static str, b: &'static str| {
            notes.set(step, Note::Types(a, b));
            Outcome::Unfit
        };
        match (a, b) {
            (Point::Float(a), Point::Float(b)) => self.floats(a, b).unwrap_or_else(|| unfit("float", "float")),
            (Point::Float(a), Point::Histogram(h)) => match self.op {
                BinaryOp::Mul => Outcome::Value(with(h, |h| scale(h, a))),
                _ => unfit("float", "histogram"),
            },
            (Point::Histogram(h), Point::Float(b)) => match self.op {
                BinaryOp::Mul => Outcome::Value(with(h, |h| scale(h, b))),
                BinaryOp::Div => Outcome::Value(with(h, |h| divide(h, b))),
                BinaryOp::TrimUpper => Outcome::Value(with(h, |h| trim(h, b, true))),
                BinaryOp::TrimLower => Outcome::Value(with(h, |h| trim(h, b, false))),
                _ => unfit("histogram", "float"),
            },
            (Point::Histogram(a), Point::Histogram(b)) => match self.op {
                BinaryOp::Add | BinaryOp::Sub => self.combine(step, a, b, notes),
                BinaryOp::Eq | BinaryOp::Ne => {
                    let holds = equals(a, b) == (self.op == BinaryOp::Eq);
                    if self.return_bool {
                        Outcome::Value(Value::Float(f64::from(u8::from(holds))))
                    } else if holds {
                        Outcome::Value(Value::Histogram(a.clone()))
                    } else {
                        Outcome::Filtered
                    }
                }
                _ => unfit("histogram", "histogram"),
            },
        }
    }

    fn floats(&self, a: f64, b: f64) -> Option<Outcome> {
        let v = scalar_operation(self.op).ok()?(a, b);
        Some(if !self.op.is_comparison() || self.return_bool {
            Outcome::Value(Value::Float(v))
        } else if v == 1.0 {
            Outcome::Value(Value::Float(a))
        } else {
            Outcome::Filtered
        })
    }

    fn combine(&self, step: usize, a: &FloatHistogram, b: &FloatHistogram, notes: &mut StepNotes) -> Outcome {
        let mut sum = Accumulator::new(a);
        let subtract = self.op == BinaryOp::Sub;
        let Ok(added) = (if subtract { sum.sub(b) } else { sum.add(b) }) else {
            notes.set(step, Note::Layout);
            return Outcome::Unfit;
        };
        let operation = if subtract { "subtraction" } else { "addition" };
        if added.reset_collision {
            // As in Prometheus nothing comes of it.
            notes.set(step, Note::Collision(operation));
            return Outcome::Unfit;
        }
        if added.bounds_reconciled {
            notes.set(step, Note::Reconciled(operation));
        }
        let mut h = sum.finish();
        if subtract {
            h.reset_hint = ResetHint::Gauge;
        }
        Outcome::Value(h.into())
    }

    /// Applies it to two columns. Returns the values, and the steps where both sides had values that fit.
    pub(super) fn columns(&self, a: &Column, b: &Column, notes: &mut StepNotes) -> (Column, Bits) {
        if let (None, None, Ok(f)) = (&a.histograms, &b.histograms, scalar_operation(self.op)) {
            let mut both = a.present.clone();
            both.and(&b.present);
            let mut out = Column { floats: Vec::new(), present: both.clone(), histograms: None, rows: None };
            if self.op.is_comparison() && !self.return_bool {
                out.floats.clone_from(&a.floats);
                for i in both.iter() {
                    if let (Some(x), Some(y)) = (a.float(i), b.float(i))
                        && f(x, y) != 1.0
                    {
                        out.present.clear(i);
                    }
                }
            } else {
                out.floats = zip_floats(self.op, &a.floats, &b.floats, f);
            }
            return (out, both);
        }
        let mut both = a.occupied();
        both.and(&b.occupied());
        let mut out = Column::empty(a.len());
        let mut matched = both.clone();
        for i in both.iter() {
            if let (Some(x), Some(y)) = (a.point(i), b.point(i)) {
                match self.apply(i, x, y, notes) {
                    Outcome::Value(Value::Float(v)) => out.set(i, v),
                    Outcome::Value(Value::Histogram(h)) => out.set_histogram(i, h),
                    Outcome::Filtered => {}
                    Outcome::Unfit => matched.clear(i),
                }
            }
        }
        (out, matched)
    }
}

/// The four basic operations are worth a loop of their own.
fn zip_floats(op: BinaryOp, a: &[f64], b: &[f64], f: fn(f64, f64) -> f64) -> Vec<f64> {
    let pairs = a.iter().zip(b);
    match op {
        BinaryOp::Add => pairs.map(|(a, b)| a + b).collect(),
        BinaryOp::Sub => pairs.map(|(a, b)| a - b).collect(),
        BinaryOp::Mul => pairs.map(|(a, b)| a * b).collect(),
        BinaryOp::Div => pairs.map(|(a, b)| a / b).collect(),
        _ => pairs.map(|(a, b)| f(*a, *b)).collect(),
    }
}

fn with(h: &FloatHistogram, f: impl FnOnce(&mut FloatHistogram)) -> Value {
    let mut h = h.clone();
    f(&mut h);
    compact(&mut h);
    h.into()
}

impl Exec<'_> {
    #[inline(never)]
    pub(super) fn stream_binary(
        &self,
        node: &Node,
        b: &Binary,
        grid: &Grid,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let operator = Operator { op: b.op, return_bool: b.return_bool, span: node.span };
        let mut notes = StepNotes::default();
        match (b.lhs.value_type, b.rhs.value_type) {
            (ValueType::Scalar, _) => {
                let scalar = self.scalar(&b.lhs, grid)?;
                self.vector_scalar(operator, &b.rhs, (&scalar, true), grid, &mut notes, sink)?;
            }
            (_, ValueType::Scalar) => {
                let scalar = || self.scalar(&b.rhs, grid);
                self.both(true, &b.lhs, grid, scalar, |scalar| {
                    self.vector_scalar(operator, &b.lhs, (&scalar, false), grid, &mut notes, sink)
                })?;
            }
            _ => return self.stream_join(node, operator, b, grid, sink),
        }
        notes.tell(&operator, &mut self.notes.borrow_mut());
        Ok(())
    }

    /// A vector with a scalar, which stands on the left if `swapped`.
    fn vector_scalar(
        &self,
        operator: Operator,
        vector: &Node,
        (scalar, swapped): (&ScalarColumn, bool),
        grid: &Grid,
        notes: &mut StepNotes,
        sink: &mut Sink<'_>,
    ) -> Result<(), QueryError> {
        let mut map = |column: &mut Column| operator.column_scalar(column, scalar, swapped, notes);
        if changes_metric(operator.op) || operator.return_bool {
            self.renamed(vector, grid, sink, &mut map)
        } else {
            self.stream(vector, grid, &mut |mut series| {
                map(&mut series.column);
                if series.column.is_empty() { Ok(()) } else { sink(series) }
            })
        }
    }
}

impl Operator {
    fn column_scalar(&self, column: &mut Column, scalar: &ScalarColumn, swapped: bool, notes: &mut StepNotes) {
        if let (None, Ok(f)) = (&column.histograms, scalar_operation(self.op)) {
            let pick = |v: f64, s: f64| if swapped { f(s, v) } else { f(v, s) };
            if self.op.is_comparison() && !self.return_bool {
                for i in 0..column.len() {
                    if column.float(i).is_some_and(|v| pick(v, scalar.at(i)) != 1.0) {
                        column.present.clear(i);
                    }
                }
            } else if let ScalarColumn::Constant(s) = scalar {
                match (self.op, swapped) {
                    (BinaryOp::Mul, _) => column.floats.iter_mut().for_each(|v| *v *= s),
                    (BinaryOp::Add, _) => column.floats.iter_mut().for_each(|v| *v += s),
                    (BinaryOp::Sub, false) => column.floats.iter_mut().for_each(|v| *v -= s),
                    (BinaryOp::Div, false) => column.floats.iter_mut().for_each(|v| *v /= s),
                    _ => column.floats.iter_mut().for_each(|v| *v = pick(*v, *s)),
                }
            } else {
                for (i, v) in column.floats.iter_mut().enumerate() {
                    *v = pick(*v, scalar.at(i));
                }
            }
            return;
        }
        let mut out = Column::empty(column.len());
        for i in column.occupied().iter() {
            let Some(point) = column.point(i) else { continue };
            let s = Point::Float(scalar.at(i));
            let (a, b) = if swapped { (s, point) } else { (point, s) };
            let outcome = self.apply(i, a, b, notes);
            match outcome {
                // A comparison keeps the vector's value, also if that stands on the right.
                Outcome::Value(_) if self.op.is_comparison() && !self.return_bool => out.copy_point(i, column),
                Outcome::Value(Value::Float(v)) => out.set(i, v),
                Outcome::Value(Value::Histogram(h)) => out.set_histogram(i, h),
                Outcome::Filtered | Outcome::Unfit => {}
            }
        }
        *column = out;
    }
}
