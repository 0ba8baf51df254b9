//! The four types of a PromQL value.

use std::fmt;

/// The type of an expression's value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ValueType {
    /// One number per evaluation time.
    Scalar,
    /// One sample per series and evaluation time: "instant vector".
    Vector,
    /// A window of samples per series and evaluation time: "range vector".
    Matrix,
    /// A string literal.
    String,
}

impl ValueType {
    /// The name on the wire (`resultType`) and in the AST JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Vector => "vector",
            Self::Matrix => "matrix",
            Self::String => "string",
        }
    }

    /// The name that users know from the documentation; used in most error texts.
    pub fn documented(self) -> &'static str {
        match self {
            Self::Vector => "instant vector",
            Self::Matrix => "range vector",
            other => other.as_str(),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
