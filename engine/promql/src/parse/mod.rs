//! The language: lexer, parser, type check, printer.

pub mod ast;
pub mod error;
pub mod functions;
pub mod options;
pub mod value_type;

pub use ast::*;
pub use error::ParseError;
pub use functions::{Function, FunctionId, Gate, function};
pub use options::Options;
pub use value_type::ValueType;
