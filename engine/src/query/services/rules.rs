//! Rules and alerts of all clusters.

use super::{Answers, Services, instant, of_its_cluster, pairs, strip};
use crate::query::fanout::{Failed, Fanout, Terms, strategy};
use crate::query::gather::{Message, Part, method};
use crate::query::store::Offer;
use crate::query::warning::Warning;
use crate::server::RECEIVE_MAX;
use crate::storeapi::wire::compare;
use model::Matcher;
use proto::thanos::rules_client::RulesClient;
use proto::thanos::rules_server::Rules;
use proto::thanos::{LabelSet, Rule, RuleGroup, RulesRequest, RulesResponse, rule, rules_response};
use std::cmp::{Ordering, Reverse};
use tonic::{Request, Response, Status};

impl Message for RulesResponse {
    type Data = RuleGroup;
    fn part(self) -> Part<RuleGroup> {
        match self.result {
            Some(rules_response::Result::Group(g)) => Part::Data(g),
            Some(rules_response::Result::Warning(w)) => Part::Warning(w),
            None => Part::Nothing,
        }
    }
}

/// Which rules are wanted.
#[derive(Clone, Debug, Default)]
pub(in crate::query) struct Filter {
    /// Labels must pass one of these, if there are any. A label whose value is a template passes as if it were absent.
    pub(in crate::query) matchers: Vec<Vec<Matcher>>,
    /// Names of rules; empty: all.
    pub(in crate::query) names: Vec<String>,
    /// Names of groups; empty: all.
    pub(in crate::query) groups: Vec<String>,
    /// Files; empty: all.
    pub(in crate::query) files: Vec<String>,
}

/// All groups as endpoints have them, and what is missing.
pub(in crate::query) async fn gather(
    fanout: &Fanout,
    request: RulesRequest,
    terms: &Terms,
) -> Result<(Vec<RuleGroup>, Vec<Warning>), Failed> {
    let request = RulesRequest { partial_response_strategy: strategy(terms.partial).into(), ..request };
    let ask = move |asking: std::sync::Arc<crate::query::gather::Asking>| {
        let request = request.clone();
        async move {
            let mut client = RulesClient::new(asking.channel()).max_decoding_message_size(RECEIVE_MAX);
            asking.drain(client.rules(asking.request(request)).await?.into_inner()).await
        }
    };
    let gathered = fanout.gather(Offer::Rules, method("thanos.Rules", "Rules"), terms, ask).await?;
    let groups = gathered.found.into_iter().filter_map(|(store, mut group)| {
        let before = group.rules.len();
        group.rules.retain(|r| r.result.is_some() && of_its_cluster(&store, labels(r)));
        // A group that has been empty before is worth telling of.
        (before == 0 || !group.rules.is_empty()).then_some(group)
    });
    Ok((groups.collect(), gathered.warnings))
}

fn labels(r: &Rule) -> Option<&LabelSet> {
    match r.result.as_ref()? {
        rule::Result::Recording(r) => r.labels.as_ref(),
        rule::Result::Alert(a) => a.labels.as_ref(),
    }
}

fn name(r: &Rule) -> &str {
    match &r.result {
        Some(rule::Result::Recording(r)) => &r.name,
        Some(rule::Result::Alert(a)) => &a.name,
        None => "",
    }
}

/// Leaves what is wanted, joins groups of the same file and name, and takes replicas out: of equal rules the most critical
/// stays, then the one evaluated last.
pub(in crate::query) fn merge(mut groups: Vec<RuleGroup>, filter: &Filter, replica: &[String]) -> Vec<RuleGroup> {
    let wanted = |list: &[String], name: &str| list.is_empty() || list.iter().any(|l| l == name);
    groups.retain(|g| wanted(&filter.groups, &g.name) && wanted(&filter.files, &g.file));
    if !filter.names.is_empty() || !filter.matchers.is_empty() {
        for g in &mut groups {
            g.rules.retain(|r| wanted(&filter.names, name(r)) && passes(r, &filter.matchers));
        }
        groups.retain(|g| !g.rules.is_empty());
    }
    groups.sort_by(|a, b| (&a.file, &a.name).cmp(&(&b.file, &b.name)));
    let mut merged: Vec<RuleGroup> = Vec::new();
    for g in groups {
        match merged.last_mut() {
            Some(last) if last.file == g.file && last.name == g.name => last.rules.extend(g.rules),
            _ => merged.push(g),
        }
    }
    for g in &mut merged {
        for r in &mut g.rules {
            match &mut r.result {
                Some(rule::Result::Recording(r)) => strip(&mut r.labels, replica),
                Some(rule::Result::Alert(a)) => strip(&mut a.labels, replica),
                None => {}
            }
        }
        // The one to keep comes first among equals.
        g.rules.sort_by(|a, b| same(a, b).then_with(|| rank(a).cmp(&rank(b))));
        g.rules.dedup_by(|b, a| same(a, b) == Ordering::Equal);
    }
    merged
}

fn passes(r: &Rule, sets: &[Vec<Matcher>]) -> bool {
    let pairs = pairs(labels(r));
    let value = |name: &str| {
        let pair = pairs.iter().find(|l| l.name.as_ref() == name.as_bytes());
        let value = pair.and_then(|l| std::str::from_utf8(&l.value).ok());
        value.filter(|v| !v.contains("{{")).unwrap_or_default()
    };
    sets.is_empty() || sets.iter().any(|set| set.iter().all(|m| m.matches(value(&m.name))))
}

/// What makes two rules the same, as Thanos orders them: alerts first, then by name, labels, query and duration.
fn same(a: &Rule, b: &Rule) -> Ordering {
    fn key(r: &Rule) -> (bool, &str, &str, f64) {
        match &r.result {
            Some(rule::Result::Alert(a)) => (false, &a.name, &a.query, a.duration_seconds),
            Some(rule::Result::Recording(r)) => (true, &r.name, &r.query, 0.0),
            None => (true, "", "", 0.0),
        }
    }
    let (x, y) = (key(a), key(b));
    (x.0, x.1)
        .cmp(&(y.0, y.1))
        .then_with(|| compare(pairs(labels(a)), pairs(labels(b))))
        .then_with(|| x.2.cmp(y.2))
        .then_with(|| x.3.total_cmp(&y.3))
}

/// Among the same: the most critical state first, then the youngest evaluation.
fn rank(r: &Rule) -> (Reverse<i32>, Reverse<(i64, i32)>) {
    match &r.result {
        Some(rule::Result::Alert(a)) => (Reverse(a.state), Reverse(instant(a.last_evaluation.as_ref()))),
        Some(rule::Result::Recording(r)) => (Reverse(0), Reverse(instant(r.last_evaluation.as_ref()))),
        None => (Reverse(0), Reverse((i64::MIN, 0))),
    }
}

#[tonic::async_trait]
impl Rules for Services {
    type RulesStream = Answers<RulesResponse>;
    async fn rules(&self, r: Request<RulesRequest>) -> Result<Response<Self::RulesStream>, Status> {
        let strategy = r.get_ref().partial_response_strategy;
        let message = |result| RulesResponse { result: Some(result) };
        self.pass(
            r,
            strategy,
            gather,
            |g| message(rules_response::Result::Group(g)),
            |w| message(rules_response::Result::Warning(w)),
        )
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::{Labels, MatchOp};
    use proto::Timestamp;
    use proto::thanos::{Alert, RecordingRule};

    fn set(pairs: &[(&str, &str)]) -> Option<LabelSet> {
        Some(proto::labels::encode_set(&Labels::from_pairs(pairs.iter().copied())))
    }

    fn alert(labels: &[(&str, &str)], state: i32, at: i64) -> Rule {
        let last_evaluation = Some(Timestamp { seconds: at, nanos: 0 });
        let a = Alert { name: "a".into(), state, labels: set(labels), last_evaluation, ..Alert::default() };
        Rule { result: Some(rule::Result::Alert(a)) }
    }

    fn recording(name: &str, labels: &[(&str, &str)]) -> Rule {
        let r = RecordingRule { name: name.into(), labels: set(labels), ..RecordingRule::default() };
        Rule { result: Some(rule::Result::Recording(r)) }
    }

    fn group(rules: Vec<Rule>) -> RuleGroup {
        RuleGroup { name: "g".into(), file: "f".into(), rules, ..RuleGroup::default() }
    }

    #[test]
    fn replicas_become_one_and_the_most_critical_stays() {
        let one = group(vec![recording("z", &[("replica", "a")]), alert(&[("replica", "a"), ("s", "1")], 1, 50)]);
        let two = group(vec![alert(&[("replica", "b"), ("s", "1")], 3, 40), recording("z", &[("replica", "b")])]);
        let three = group(vec![alert(&[("replica", "c"), ("s", "1")], 3, 60), alert(&[("s", "2")], 1, 1)]);
        let merged = merge(vec![one, two, three], &Filter::default(), &["replica".to_owned()]);
        assert_eq!(merged.len(), 1);
        let shown: Vec<String> = merged[0]
            .rules
            .iter()
            .map(|r| match r.result.as_ref().unwrap() {
                rule::Result::Alert(a) => format!("{} {} {}", a.name, a.state, a.last_evaluation.unwrap().seconds),
                rule::Result::Recording(r) => r.name.clone(),
            })
            .collect();
        assert_eq!(shown, ["a 3 60", "a 1 1", "z"]);
    }

    #[test]
    fn filters_leave_what_was_asked_for() {
        let all = || {
            vec![group(vec![recording("x", &[("team", "a"), ("t", "{{ $value }}")]), recording("y", &[("team", "b")])])]
        };
        let names = |f: Filter| -> Vec<String> {
            merge(all(), &f, &[]).iter().flat_map(|g| &g.rules).map(|r| name(r).to_owned()).collect()
        };
        let m = |n: &str, v: &str| Matcher::new(MatchOp::Equal, n, v).unwrap();
        assert_eq!(names(Filter { names: vec!["y".into()], ..Filter::default() }), ["y"]);
        assert_eq!(
            names(Filter { matchers: vec![vec![m("team", "a")], vec![m("team", "b")]], ..Filter::default() }),
            ["x", "y"]
        );
        assert_eq!(
            names(Filter { matchers: vec![vec![m("t", "{{ $value }}")]], ..Filter::default() }),
            Vec::<String>::new()
        );
        assert!(names(Filter { groups: vec!["other".into()], ..Filter::default() }).is_empty());
        assert!(names(Filter { files: vec!["other".into()], ..Filter::default() }).is_empty());
    }
}
