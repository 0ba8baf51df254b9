//! Evaluation: a [`Plan`] is made from the text, its selects are fetched, then it is executed against a [`Source`].
//!
//! Everything here is synchronous and runs on a CPU thread; the async side knows all selects beforehand
//! ([`Plan::selects`]) and may fill the source while the evaluation already reads from it.

pub mod annotations;
mod calendar;
pub mod error;
pub mod memory;
pub mod options;
pub mod result;
pub mod source;

pub use annotations::Annotations;
pub use error::QueryError;
pub use options::{EngineOptions, Stop, Times};
pub use result::{QueryResult, QueryStats, QueryValue, Series, VectorSample};
pub use source::{Samples, SelectHints, SelectRequest, SeriesSet, Source};

use crate::parse::ValueType;

/// A query that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    query: String,
    times: Times,
    selects: Vec<SelectRequest>,
    value_type: ValueType,
}

impl Plan {
    /// Parses and plans `query`.
    pub fn new(query: &str, times: Times, options: &EngineOptions) -> Result<Self, QueryError> {
        let _ = (query, times, options);
        Err(QueryError::BadRequest("the evaluator is being built".to_owned()))
    }

    /// The text.
    pub fn query(&self) -> &str {
        &self.query
    }

    /// When it is evaluated.
    pub fn times(&self) -> Times {
        self.times
    }

    /// All that will be selected, in the order of the text; `id` is the index.
    pub fn selects(&self) -> &[SelectRequest] {
        &self.selects
    }

    /// The type of the expression; a range query answers with a matrix whatever it is.
    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// Runs it. May be called more than once.
    pub fn execute(&self, source: &dyn Source, stop: &Stop) -> Result<QueryResult, QueryError> {
        let _ = source;
        stop.check()?;
        Err(QueryError::BadRequest("the evaluator is being built".to_owned()))
    }
}
