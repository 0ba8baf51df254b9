//! The functions of the language with their signatures.

use super::value_type::ValueType;
use super::value_type::ValueType::{Matrix as M, Scalar as S, String as T, Vector as V};
use std::collections::HashMap;
use std::sync::LazyLock;

/// A function's signature.
#[derive(PartialEq, Eq, Debug)]
pub struct Function {
    /// Which one, for matching.
    pub id: FunctionId,
    /// As written in a query; case-sensitive.
    pub name: &'static str,
    /// The types of the arguments. With `variadic` ≠ 0 the last one is optional and may repeat.
    pub arg_types: &'static [ValueType],
    /// 0: exactly `arg_types`. n > 0: the last type occurs 0 to n times. −1: any number of times.
    pub variadic: i32,
    /// What it returns.
    pub return_type: ValueType,
    /// Which gate must be open.
    pub gate: Gate,
}

/// What must be switched on before a function may be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gate {
    /// Nothing.
    Stable,
    /// Prometheus' `promql-experimental-functions`.
    Experimental,
    /// Thanos' `--query.enable-x-functions`.
    Extended,
}

macro_rules! functions {
    ($($id:ident = $name:literal($($arg:ident),*; $variadic:literal) -> $ret:ident, $gate:ident;)*) => {
        /// Every function.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum FunctionId {
            $(#[doc = concat!("`", $name, "`")] $id,)*
        }

        /// The signatures of all functions, sorted by name.
        pub static FUNCTIONS: &[Function] = &[$(Function {
            id: FunctionId::$id,
            name: $name,
            arg_types: &[$($arg),*],
            variadic: $variadic,
            return_type: $ret,
            gate: Gate::$gate,
        },)*];
    };
}

functions! {
    Abs = "abs"(V; 0) -> V, Stable;
    Absent = "absent"(V; 0) -> V, Stable;
    AbsentOverTime = "absent_over_time"(M; 0) -> V, Stable;
    Acos = "acos"(V; 0) -> V, Stable;
    Acosh = "acosh"(V; 0) -> V, Stable;
    Asin = "asin"(V; 0) -> V, Stable;
    Asinh = "asinh"(V; 0) -> V, Stable;
    Atan = "atan"(V; 0) -> V, Stable;
    Atanh = "atanh"(V; 0) -> V, Stable;
    AvgOverTime = "avg_over_time"(M; 0) -> V, Stable;
    Ceil = "ceil"(V; 0) -> V, Stable;
    Changes = "changes"(M; 0) -> V, Stable;
    Clamp = "clamp"(V, S, S; 0) -> V, Stable;
    ClampMax = "clamp_max"(V, S; 0) -> V, Stable;
    ClampMin = "clamp_min"(V, S; 0) -> V, Stable;
    Cos = "cos"(V; 0) -> V, Stable;
    Cosh = "cosh"(V; 0) -> V, Stable;
    CountOverTime = "count_over_time"(M; 0) -> V, Stable;
    DayOfMonth = "day_of_month"(V; 1) -> V, Stable;
    DayOfWeek = "day_of_week"(V; 1) -> V, Stable;
    DayOfYear = "day_of_year"(V; 1) -> V, Stable;
    DaysInMonth = "days_in_month"(V; 1) -> V, Stable;
    Deg = "deg"(V; 0) -> V, Stable;
    Delta = "delta"(M; 0) -> V, Stable;
    Deriv = "deriv"(M; 0) -> V, Stable;
    DoubleExponentialSmoothing = "double_exponential_smoothing"(M, S, S; 0) -> V, Experimental;
    End = "end"(; 0) -> S, Experimental;
    Exp = "exp"(V; 0) -> V, Stable;
    FirstOverTime = "first_over_time"(M; 0) -> V, Stable;
    Floor = "floor"(V; 0) -> V, Stable;
    HistogramAvg = "histogram_avg"(V; 0) -> V, Stable;
    HistogramCount = "histogram_count"(V; 0) -> V, Stable;
    HistogramFraction = "histogram_fraction"(S, S, V; 0) -> V, Stable;
    HistogramQuantile = "histogram_quantile"(S, V; 0) -> V, Stable;
    HistogramQuantiles = "histogram_quantiles"(V, T, S, S; 9) -> V, Experimental;
    HistogramStddev = "histogram_stddev"(V; 0) -> V, Stable;
    HistogramStdvar = "histogram_stdvar"(V; 0) -> V, Stable;
    HistogramSum = "histogram_sum"(V; 0) -> V, Stable;
    Hour = "hour"(V; 1) -> V, Stable;
    Idelta = "idelta"(M; 0) -> V, Stable;
    Increase = "increase"(M; 0) -> V, Stable;
    Info = "info"(V, V; 1) -> V, Experimental;
    Irate = "irate"(M; 0) -> V, Stable;
    LabelJoin = "label_join"(V, T, T, T; -1) -> V, Stable;
    LabelReplace = "label_replace"(V, T, T, T, T; 0) -> V, Stable;
    LastOverTime = "last_over_time"(M; 0) -> V, Stable;
    Ln = "ln"(V; 0) -> V, Stable;
    Log10 = "log10"(V; 0) -> V, Stable;
    Log2 = "log2"(V; 0) -> V, Stable;
    MadOverTime = "mad_over_time"(M; 0) -> V, Experimental;
    MaxOf = "max_of"(S, S; 0) -> S, Experimental;
    MaxOverTime = "max_over_time"(M; 0) -> V, Stable;
    MinOf = "min_of"(S, S; 0) -> S, Experimental;
    MinOverTime = "min_over_time"(M; 0) -> V, Stable;
    Minute = "minute"(V; 1) -> V, Stable;
    Month = "month"(V; 1) -> V, Stable;
    Pi = "pi"(; 0) -> S, Stable;
    PredictLinear = "predict_linear"(M, S; 0) -> V, Stable;
    PresentOverTime = "present_over_time"(M; 0) -> V, Stable;
    QuantileOverTime = "quantile_over_time"(S, M; 0) -> V, Stable;
    Rad = "rad"(V; 0) -> V, Stable;
    Range = "range"(; 0) -> S, Experimental;
    Rate = "rate"(M; 0) -> V, Stable;
    Resets = "resets"(M; 0) -> V, Stable;
    Round = "round"(V, S; 1) -> V, Stable;
    Scalar = "scalar"(V; 0) -> S, Stable;
    Sgn = "sgn"(V; 0) -> V, Stable;
    Sin = "sin"(V; 0) -> V, Stable;
    Sinh = "sinh"(V; 0) -> V, Stable;
    Sort = "sort"(V; 0) -> V, Stable;
    SortByLabel = "sort_by_label"(V, T; -1) -> V, Experimental;
    SortByLabelDesc = "sort_by_label_desc"(V, T; -1) -> V, Experimental;
    SortDesc = "sort_desc"(V; 0) -> V, Stable;
    Sqrt = "sqrt"(V; 0) -> V, Stable;
    Start = "start"(; 0) -> S, Experimental;
    StartTimestamp = "start_timestamp"(V; 0) -> V, Experimental;
    StddevOverTime = "stddev_over_time"(M; 0) -> V, Stable;
    StdvarOverTime = "stdvar_over_time"(M; 0) -> V, Stable;
    Step = "step"(; 0) -> S, Experimental;
    SumOverTime = "sum_over_time"(M; 0) -> V, Stable;
    Tan = "tan"(V; 0) -> V, Stable;
    Tanh = "tanh"(V; 0) -> V, Stable;
    Time = "time"(; 0) -> S, Stable;
    Timestamp = "timestamp"(V; 0) -> V, Stable;
    TsOfFirstOverTime = "ts_of_first_over_time"(M; 0) -> V, Experimental;
    TsOfLastOverTime = "ts_of_last_over_time"(M; 0) -> V, Experimental;
    TsOfMaxOverTime = "ts_of_max_over_time"(M; 0) -> V, Experimental;
    TsOfMinOverTime = "ts_of_min_over_time"(M; 0) -> V, Experimental;
    Vector = "vector"(S; 0) -> V, Stable;
    Xdelta = "xdelta"(M; 0) -> V, Extended;
    Xincrease = "xincrease"(M; 0) -> V, Extended;
    Xrate = "xrate"(M; 0) -> V, Extended;
    Year = "year"(V; 1) -> V, Stable;
}

/// The signature of the function of that name.
pub fn function(name: &str) -> Option<&'static Function> {
    static BY_NAME: LazyLock<HashMap<&'static str, &'static Function>> =
        LazyLock::new(|| FUNCTIONS.iter().map(|f| (f.name, f)).collect());
    BY_NAME.get(name).copied()
}
