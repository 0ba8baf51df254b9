//! Functions of one number: mathematics, trigonometry, the calendar.

use crate::exec::calendar::{Civil, days_in_month};
use crate::parse::FunctionId;
use std::f64::consts::{LN_2, LN_10};

/// From here on `x + sqrt(x² ± 1)` is 2x, which the standard library computes as such and so overflows where the
/// logarithm of it does not.
const LARGE: f64 = (1u64 << 28) as f64;

/// The function of a float that `id` is, if it is one without further arguments.
pub(crate) fn unary(id: FunctionId) -> Option<fn(f64) -> f64> {
    Some(match id {
        FunctionId::Abs => f64::abs,
        FunctionId::Ceil => f64::ceil,
        FunctionId::Floor => f64::floor,
        FunctionId::Exp => f64::exp,
        FunctionId::Sqrt => f64::sqrt,
        FunctionId::Ln => f64::ln,
        FunctionId::Log2 => log2,
        FunctionId::Log10 => |v| log2(v) * (LN_2 / LN_10),
        FunctionId::Sgn => |v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        },
        FunctionId::Sin => f64::sin,
        FunctionId::Cos => f64::cos,
        FunctionId::Tan => f64::tan,
        FunctionId::Asin => f64::asin,
        FunctionId::Acos => f64::acos,
        FunctionId::Atan => f64::atan,
        FunctionId::Sinh => f64::sinh,
        FunctionId::Cosh => f64::cosh,
        FunctionId::Tanh => f64::tanh,
        FunctionId::Asinh => |v| if v.abs() > LARGE { (v.abs().ln() + LN_2).copysign(v) } else { v.asinh() },
        FunctionId::Acosh => |v| if v > LARGE { v.ln() + LN_2 } else { v.acosh() },
        FunctionId::Atanh => f64::atanh,
        FunctionId::Rad => |v| v * std::f64::consts::PI / 180.0,
        FunctionId::Deg => |v| v * 180.0 / std::f64::consts::PI,
        _ => return calendar(id),
    })
}

/// As Go computes it: exact for powers of two, otherwise by the natural logarithm of the fraction.
fn log2(v: f64) -> f64 {
    let (fraction, exponent) = split(v);
    // Even if it has no fraction.
    if fraction == 0.5 { exponent - 1.0 } else { fraction.ln() * (1.0 / LN_2) + exponent }
}

/// A fraction from 0.5 up to 1 and the power of two that it is multiplied with; numbers without one are all fraction.
fn split(v: f64) -> (f64, f64) {
    if v == 0.0 || !v.is_finite() {
        return (v, 0.0);
    }
    // Numbers below the normal ones are brought up first.
    let (v, lifted) = if v.abs() < f64::MIN_POSITIVE { (v * (1u64 << 52) as f64, 52.0) } else { (v, 0.0) };
    let bits = v.to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as f64 - 1022.0 - lifted;
    (f64::from_bits(bits & !(0x7ff << 52) | (1022 << 52)), exponent)
}

/// The part of a date (seconds since the epoch) that `id` asks for.
pub(crate) fn calendar(id: FunctionId) -> Option<fn(f64) -> f64> {
    // A number that is no time at all reads as Go's conversion has it.
    fn civil(v: f64) -> Civil {
        Civil::from_seconds(if v.is_nan() { i64::MIN } else { v as i64 })
    }
    Some(match id {
        FunctionId::Year => |v| civil(v).year as f64,
        FunctionId::Month => |v| civil(v).month as f64,
        FunctionId::DayOfMonth => |v| civil(v).day as f64,
        FunctionId::DayOfWeek => |v| civil(v).weekday as f64,
        FunctionId::DayOfYear => |v| civil(v).year_day as f64,
        FunctionId::Hour => |v| civil(v).hour as f64,
        FunctionId::Minute => |v| civil(v).minute as f64,
        FunctionId::DaysInMonth => |v| {
            let c = civil(v);
            days_in_month(c.year, c.month) as f64
        },
        _ => return None,
    })
}

/// `round`: to a multiple of `1 / inverse`, half up.
pub(crate) fn round(v: f64, inverse: f64) -> f64 {
    (v * inverse + 0.5).floor() / inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_values() {
        let f = |id, v| unary(id).unwrap()(v);
        assert_eq!(f(FunctionId::Sgn, -3.0), -1.0);
        assert_eq!(f(FunctionId::Deg, std::f64::consts::PI), 180.0);
        assert_eq!(f(FunctionId::DaysInMonth, 1_709_210_096.0), 29.0);
        assert_eq!(f(FunctionId::DayOfWeek, 0.0), 4.0);
        assert_eq!(f(FunctionId::Log2, 8.0), 3.0);
        assert_eq!(f(FunctionId::Log2, 5e-324), -1074.0);
        assert!((f(FunctionId::Log10, 1e5) - 5.0).abs() < 1e-14);
        assert_eq!(f(FunctionId::Log10, 0.0), f64::NEG_INFINITY);
        assert!(f(FunctionId::Log2, -1.0).is_nan());
        assert_eq!(round(2.5, 1.0), 3.0);
        assert_eq!(round(-2.5, 1.0), -2.0);
        assert!(unary(FunctionId::Rate).is_none());
        // Twice the argument would overflow, its logarithm does not.
        let huge = f64::MAX.ln() + LN_2;
        assert_eq!(f(FunctionId::Acosh, f64::MAX), huge);
        assert_eq!(f(FunctionId::Asinh, f64::MIN), -huge);
        assert!((f(FunctionId::Asinh, LARGE) - f(FunctionId::Asinh, LARGE * 1.000_000_1)).abs() < 1e-6);
    }
}
