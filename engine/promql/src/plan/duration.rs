//! Durations that are computed when the query's step and range are known.

use crate::exec::QueryError;
use crate::parse::{BinaryOp, DurationExpr, DurationKind, Sign};

/// What `step()` and `range()` stand for, milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    pub(super) step: i64,
    pub(super) range: i64,
}

impl Extent {
    /// The value of `expr` in milliseconds.
    pub(super) fn resolve(&self, expr: &DurationExpr, may_be_negative: bool) -> Result<i64, QueryError> {
        let seconds = self.evaluate(expr)?;
        let fail = |what: &str| Err(positioned(expr, what));
        if !seconds.is_finite() {
            return fail("duration is NaN or infinite");
        }
        if seconds <= 0.0 && !may_be_negative {
            return fail("duration must be greater than 0");
        }
        // A duration is counted in 63 bits of nanoseconds.
        if seconds.abs() > i64::MAX as f64 / 1e9 {
            return fail("duration is out of range");
        }
        Ok((seconds * 1000.0) as i64)
    }

    fn evaluate(&self, expr: &DurationExpr) -> Result<f64, QueryError> {
        Ok(match &expr.kind {
            DurationKind::Literal(n) => n.value,
            DurationKind::Step => self.step as f64 / 1000.0,
            DurationKind::Range => self.range as f64 / 1000.0,
            DurationKind::Unary(Sign::Plus, e) => self.evaluate(e)?,
            DurationKind::Unary(Sign::Minus, e) => -self.evaluate(e)?,
            DurationKind::MinOf(a, b) => crate::functions::math::min(self.evaluate(a)?, self.evaluate(b)?),
            DurationKind::MaxOf(a, b) => crate::functions::math::max(self.evaluate(a)?, self.evaluate(b)?),
            DurationKind::Binary(op, a, b) => {
                let (a, b) = (self.evaluate(a)?, self.evaluate(b)?);
                match op {
                    BinaryOp::Add => a + b,
                    BinaryOp::Sub => a - b,
                    BinaryOp::Mul => a * b,
                    BinaryOp::Div if b == 0.0 => return Err(positioned(expr, "division by zero")),
                    BinaryOp::Div => a / b,
                    BinaryOp::Mod if b == 0.0 => return Err(positioned(expr, "modulo by zero")),
                    BinaryOp::Mod => a % b,
                    BinaryOp::Pow => a.powf(b),
                    other => return Err(positioned(expr, &format!("unexpected duration operator {other}"))),
                }
            }
        })
    }
}

/// Prometheus names byte offsets here, and no "parse error".
fn positioned(expr: &DurationExpr, what: &str) -> QueryError {
    QueryError::BadRequest(format!("{}:{}: {what}", expr.span.start, expr.span.end))
}
