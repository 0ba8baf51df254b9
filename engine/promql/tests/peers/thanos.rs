//! Thanos's x-functions beside a real Thanos querier with its own engine.

use crate::compare::{difference, ours, theirs};
use crate::data::{self, LENGTH, START};
use crate::queries::pick;
use crate::server::{read_back, start};
use promql::exec::{EngineOptions, Plan, Stop, Times};
use promql::parse::Options;
use std::time::Duration;
use testkit::goal::Rng;
use testkit::thanos::Thanos;

#[test]
fn x_functions_equal_thanos() {
    if testkit::peers::skip(&["prometheus", "thanos"]) {
        return;
    }
    let mut r = Rng(7);
    let series: Vec<_> = data::generate(&mut r)
        .into_iter()
        .filter(|(l, _)| matches!(l.metric_name(), Some("requests_total" | "errors_total" | "load" | "hist")))
        .collect();
    let peer = start(&series, "");
    let source = read_back(&peer, START - 7_200_000, START + 2 * LENGTH);
    let sidecar = Thanos::sidecar(&peer).unwrap();
    let args = [
        format!("--endpoint={}", sidecar.grpc_address()),
        "--query.promql-engine=thanos".to_owned(),
        "--query.enable-x-functions".to_owned(),
    ];
    let querier = Thanos::start("query", &args).unwrap();
    testkit::wait::until("Thanos to see its store", Duration::from_secs(30), Duration::from_millis(100), || {
        let stores = querier.get("/api/v1/stores")?;
        anyhow::ensure!(stores["data"]["sidecar"].is_array(), "{stores}");
        Ok(())
    })
    .unwrap();
    let options = EngineOptions { parser: Options::ALL, ..EngineOptions::default() };
    let (mut values, mut asked) = (0, 0);
    for _ in 0..300 {
        let function = pick(&mut r, &["xrate", "xincrease", "xdelta"]);
        // Below the others Thanos's stores add up falls as they read, which makes nonsense of negative values.
        let gauge = if function == "xdelta" { "load" } else { "errors_total" };
        let name = pick(&mut r, &["requests_total", "errors_total", gauge, "requests_total{a=\"x\"}"]);
        let window = pick(&mut r, &["1m", "2m", "5m", "90s", "10m", "1500ms"]);
        let moved = pick(&mut r, &["", "", " offset 1m"]);
        let (before, after) = *r.choose(&[("", ""), ("sum by (a) (", ")"), ("", " * 2")]).unwrap();
        let query = format!("{before}{function}({name}[{window}]{moved}){after}");
        let begin = START + r.below(40) as i64 * 60_000;
        // A step that is wider than the window makes Thanos forget the sample before it.
        let when = Times::Range { start: begin, end: begin + 600_000, step: 1000 };
        let url = format!(
            "{}/api/v1/query_range?start={}&end={}&step=1&query={}",
            querier.url(),
            begin / 1000,
            begin / 1000 + 600,
            testkit::http::encode(&query)
        );
        let mut a = theirs(&serde_json::from_str(&testkit::http::get(&url).unwrap().body).unwrap());
        // Thanos adds the external labels.
        a.series = a
            .series
            .into_iter()
            .map(|(l, p)| {
                (
                    l.replace("\"cluster\":\"c\",", "")
                        .replace(",\"cluster\":\"c\"", "")
                        .replace("\"cluster\":\"c\"", ""),
                    p,
                )
            })
            .collect();
        let mut b = ours(&query, Plan::new(&query, when, &options).and_then(|p| p.execute(&source, &Stop::new())));
        for x in [&mut a, &mut b] {
            (x.warnings, x.infos) = (Vec::new(), Vec::new());
        }
        values += b.series.values().map(Vec::len).sum::<usize>();
        asked += 1;
        if let Some(d) = difference(&a, &b) {
            let near = |(t, _): &(i64, _)| *t > begin - 60_000 && *t < begin + 700_000;
            let mut data = String::new();
            for (l, samples) in series.iter().filter(|(l, _)| query.contains(l.metric_name().unwrap_or_default())) {
                let all: Vec<String> = samples
                    .iter()
                    .map(|s| (s.t, &s.v))
                    .filter(|p| near(&(p.0, ())))
                    .map(|p| format!("{}:{:?}", p.0, p.1))
                    .collect();
                data += &format!("\n{l} {}", all.join(" "));
            }
            panic!("{query} from {begin}: {d}{data}");
        }
    }
    assert!(values > 10 * asked, "{values} values in {asked} answers");
    let query = "xrate(hist[5m])";
    let when = Times::Instant(START + 1_200_000);
    let error = Plan::new(query, when, &options).and_then(|p| p.execute(&source, &Stop::new())).unwrap_err();
    let url = format!("{}/api/v1/query?time={}&query={query}", querier.url(), START / 1000 + 1200);
    let said = testkit::http::get(&url).unwrap().body;
    assert!(said.contains(&error.to_string()), "{said} against {error}");
}
