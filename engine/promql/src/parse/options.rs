//! Which experimental parts of the language are open.

/// The parser's gates. The default is Prometheus 3.14's: everything experimental closed, duration expressions open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// `promql-experimental-functions`: `info`, `limitk`, `sort_by_label`, `start()`, …
    pub experimental_functions: bool,
    /// Arithmetic in durations: `x[step() * 2]`.
    pub duration_expressions: bool,
    /// `promql-extended-range-selectors`: `anchored`, `smoothed`.
    pub extended_range_selectors: bool,
    /// `promql-binop-fill-modifiers`: `fill`, `fill_left`, `fill_right`.
    pub fill_modifiers: bool,
    /// Thanos' `--query.enable-x-functions`: `xrate`, `xincrease`, `xdelta`.
    pub x_functions: bool,
}

impl Options {
    /// Everything open, as in Prometheus' own test runner (and Thanos' x-functions too).
    pub const ALL: Self = Self {
        experimental_functions: true,
        duration_expressions: true,
        extended_range_selectors: true,
        fill_modifiers: true,
        x_functions: true,
    };
}

impl Default for Options {
    fn default() -> Self {
        Self {
            experimental_functions: false,
            duration_expressions: true,
            extended_range_selectors: false,
            fill_modifiers: false,
            x_functions: false,
        }
    }
}
