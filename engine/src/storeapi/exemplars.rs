//! The query of an Exemplars request: only its selectors count.

use model::Matcher;
use tonic::Status;

/// The selectors of a query, in the order of the text. Whatever any querier may have been allowed to ask is read.
pub fn selectors(query: &str) -> Result<Vec<Vec<Matcher>>, Status> {
    let expr = promql::parse::parse_expr(query, &promql::parse::Options::ALL)
        .map_err(|e| Status::invalid_argument(e.to_string()))?;
    Ok(expr.selectors().into_iter().map(<[Matcher]>::to_vec).collect())
}

/// A query with these selectors and nothing else.
pub fn query(selectors: &[Vec<Matcher>]) -> String {
    let one = |matchers: &Vec<Matcher>| {
        let all: Vec<String> = matchers.iter().map(ToString::to_string).collect();
        format!("{{{}}}", all.join(","))
    };
    selectors.iter().map(one).collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_survive_the_way_through_a_query() {
        let asked = r#"histogram_quantile(0.9, sum by (le) (rate(a_bucket{b=~"x\"|y"}[5m]))) / on () up offset 1h"#;
        let found = selectors(asked).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(selectors(&query(&found)).unwrap(), found);
        assert_eq!(selectors("rate(").unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
