//! The reloader beside a real Prometheus: expansion, refusal, the way back to the last good configuration.

use super::common::{Sidecar, until};
use args::SidecarArgs;
use model::world::World;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::str::FromStr;
use testkit::prometheus::{Options, Prometheus};
use tokio_util::sync::CancellationToken;

fn config(interval: &str) -> String {
    format!(
        "global:\n  scrape_interval: {interval}\n  external_labels: {{cluster: ops, replica: $(PANOPTES_TEST_POD)}}\n\
         rule_files: [RULES/*.yaml]\nscrape_configs: []\n"
    )
}

fn hash(text: &str) -> String {
    args::files::hex(&Sha256::digest(text.as_bytes()))
}

struct Setup {
    dir: tempfile::TempDir,
    prometheus: Prometheus,
}

impl Setup {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("rules")).unwrap();
        let options = Options { config: Some("scrape_configs: []".into()), ..Options::default() };
        let prometheus = Prometheus::start(&options).unwrap();
        Self { dir, prometheus }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn text(&self, interval: &str) -> String {
        config(interval).replace("RULES", &self.path("rules"))
    }

    fn args(&self) -> SidecarArgs {
        SidecarArgs {
            prometheus_url: self.prometheus.url(),
            config_file: self.path("next.yaml"),
            last_good_file: self.path("last-good.yaml"),
            config_envsubst_file: self.prometheus.config_path().display().to_string(),
            rule_dirs: vec![self.path("rules")],
            watch_interval: args::Millis::from_str("100ms").unwrap(),
            retry_interval: args::Millis::from_str("1s").unwrap(),
            ..SidecarArgs::default()
        }
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn active(&self) -> String {
        let v = tokio::task::block_in_place(|| self.prometheus.get("/api/v1/status/config")).unwrap();
        v["data"]["yaml"].as_str().unwrap().to_owned()
    }

    fn on_disk(&self) -> String {
        std::fs::read_to_string(self.prometheus.config_path()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_refuses_and_goes_back() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    // The variable is read at every expansion; cargo's own environment has one that is always there.
    let setup = tokio::task::block_in_place(Setup::new);
    let text = |i: &str| setup.text(i).replace("PANOPTES_TEST_POD", "CARGO_PKG_NAME");
    let first = text("21s");
    setup.put("next.yaml", &first);
    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    let configuration = || sidecar.state().configuration.unwrap();
    until("the first load", async || configuration().loaded == Some(hash(&first))).await;
    let c = configuration();
    assert!(c.wanted == hash(&first) && c.error.is_none() && c.loaded_at_ms.is_some(), "{c:?}");
    assert!(setup.active().contains("scrape_interval: 21s"));
    assert!(setup.active().contains("replica: engine"), "the variable is replaced: {}", setup.active());
    until("the external labels", async || sidecar.state().prometheus.unwrap().external_labels.len() == 2).await;

    // The operator promotes it; then somebody breaks the configuration.
    setup.put("last-good.yaml", &first);
    let bad = text("22s").replace("scrape_configs: []", "scrape_configs: [{job_name: x}, {job_name: x}]");
    setup.put("next.yaml", &bad);
    until("the refusal", async || configuration().error.is_some_and(|e| e.contains("found multiple scrape configs")))
        .await;
    until("the good one to be back", async || configuration().loaded == Some(hash(&first))).await;
    let c = configuration();
    assert_eq!(c.wanted, hash(&bad));
    assert!(c.error.is_some(), "the failure stays visible");
    // A restart of Prometheus starts on the good one.
    until("the good text on disk", async || setup.on_disk().contains("scrape_interval: 21s")).await;
    let metrics = sidecar.metrics();
    assert!(metrics.contains("thanos_sidecar_reloader_reloads_failed_total"), "{metrics}");
    assert!(!setup.dir.path().join("prometheus.yml.tmp").exists());

    // A corrected one is taken at once.
    let third = text("23s");
    setup.put("next.yaml", &third);
    until("the corrected one", async || configuration().loaded == Some(hash(&third))).await;
    assert!(configuration().error.is_none());
    assert!(setup.active().contains("scrape_interval: 23s"));

    // An unset variable: told by name, nothing is touched.
    setup.put("next.yaml", &third.replace("CARGO_PKG_NAME", "PANOPTES_NOT_SET"));
    until("the unset variable", async || {
        configuration().error.is_some_and(|e| e.contains("$(PANOPTES_NOT_SET) is not set"))
    })
    .await;
    assert!(setup.on_disk().contains("scrape_interval: 23s"));
    assert_eq!(configuration().loaded, Some(hash(&third)));
    setup.put("next.yaml", &third);
    until("back to what is loaded", async || configuration().error.is_none()).await;

    // Rules: any change of content reloads.
    let rules = configuration().rules;
    let group = "groups:\n- {name: g, rules: [{record: a, expr: vector(1)}]}\n";
    setup.put("rules/a.yaml", group);
    until("the rules", async || configuration().rules != rules).await;
    let loaded = tokio::task::block_in_place(|| setup.prometheus.get("/api/v1/rules")).unwrap();
    assert_eq!(loaded["data"]["groups"][0]["name"], "g");
    setup.put("rules/a.yaml", "groups: [{name: g, rules: [{record: a, expr: 'sum('}]}]");
    until("the refused rules", async || configuration().error.is_some()).await;
    setup.put("rules/a.yaml", group);
    until("the rules again", async || configuration().error.is_none()).await;

    // Prometheus is away: said so, and made good when it is back.
    setup.prometheus.process().signal("STOP").unwrap();
    let fourth = text("24s");
    setup.put("next.yaml", &fourth);
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    setup.prometheus.process().signal("CONT").unwrap();
    until("the fourth", async || configuration().loaded == Some(hash(&fourth))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_prometheus_does_not_serve_only_the_last_good_configuration_lies_in_its_place() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let mut setup = tokio::task::block_in_place(Setup::new);
    let text = |setup: &Setup, i: &str| setup.text(i).replace("PANOPTES_TEST_POD", "CARGO_PKG_NAME");
    let good = text(&setup, "21s");
    setup.put("next.yaml", &good);
    let sidecar = Sidecar::start(setup.args());
    sidecar.ready().await;
    let configuration = || sidecar.state().configuration.unwrap();
    until("the first load", async || configuration().loaded == Some(hash(&good))).await;
    setup.put("last-good.yaml", &good);

    // It ends, perhaps over this very text, in the middle of a try; and what is wanted now would be refused.
    tokio::task::block_in_place(|| setup.prometheus.crash()).unwrap();
    let bad = text(&setup, "22s").replace("scrape_configs: []", "scrape_configs: [{job_name: x}, {job_name: x}]");
    setup.prometheus.write_config(&bad).unwrap();
    setup.put("next.yaml", &bad);
    until("the good text on disk", async || setup.on_disk().contains("scrape_interval: 21s")).await;
    // Nothing is tried and nothing is blamed: the state document tells of Prometheus itself.
    let applies = |m: String| {
        let line = m.lines().find(|l| l.starts_with("thanos_sidecar_reloader_config_apply_operations_total")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = applies(sidecar.metrics());
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(applies(sidecar.metrics()), before);
    assert!(setup.on_disk().contains("scrape_interval: 21s"), "{}", setup.on_disk());
    assert_eq!(configuration().error, None);
    until("Prometheus to be missed", async || sidecar.state().prometheus.unwrap().error.is_some()).await;
    assert_eq!(configuration().error, None);

    // So it comes up, and then the refusal is told.
    tokio::task::block_in_place(|| {
        setup.prometheus.start_again()?;
        setup.prometheus.wait_ready()
    })
    .unwrap();
    until("the refusal", async || configuration().error.is_some_and(|e| e.contains("found multiple scrape configs")))
        .await;
    until("the good one", async || setup.on_disk().contains("scrape_interval: 21s")).await;
}

/// Takes our check and not Prometheus's: the number does not fit.
const REFUSED: &str =
    "groups:\n- {name: refused, limit: 10000000000000000000, rules: [{record: r, expr: vector(1)}]}\n";

fn group(name: &str, value: u32) -> String {
    format!("groups:\n- {{name: {name}, rules: [{{record: {name}, expr: vector({value})}}]}}\n")
}

impl Setup {
    /// Prometheus reads its rules from a folder of the sidecar's.
    fn with_rule_folder(&self) -> SidecarArgs {
        SidecarArgs { rule_output_dir: self.path("shared"), ..self.args() }
    }

    fn text_with_rule_folder(&self, interval: &str) -> String {
        config(interval).replace("RULES", &self.path("shared/current")).replace("PANOPTES_TEST_POD", "CARGO_PKG_NAME")
    }

    /// The loaded rules: group and expression.
    fn rules(&self) -> Vec<(String, String)> {
        let Ok(v) = tokio::task::block_in_place(|| self.prometheus.get("/api/v1/rules")) else { return Vec::new() };
        let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
        let groups = v["data"]["groups"].as_array().unwrap();
        groups.iter().map(|g| (text(&g["name"]), text(&g["rules"][0]["query"]))).collect()
    }
}

fn loaded(name: &str, value: u32) -> (String, String) {
    (name.to_owned(), format!("vector({value})"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_file_that_prometheus_refuses_costs_only_itself() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let mut setup = tokio::task::block_in_place(Setup::new);
    let first = setup.text_with_rule_folder("21s");
    setup.put("next.yaml", &first);
    setup.put("rules/a.yaml", &group("a", 1));
    let sidecar = Sidecar::start(setup.with_rule_folder());
    sidecar.ready().await;
    let configuration = || sidecar.state().configuration.unwrap();
    until("the first rules", async || setup.rules() == [loaded("a", 1)]).await;
    until("no error", async || configuration().error.is_none()).await;
    setup.put("last-good.yaml", &first);

    // A good one and a refused one come together; then a known one becomes a refused one.
    setup.put("rules/b.yaml", REFUSED);
    setup.put("rules/c.yaml", &group("c", 2));
    until("the file to be named", async || configuration().error.is_some_and(|e| e.contains("rule file b.yaml;")))
        .await;
    until("all others", async || setup.rules() == [loaded("a", 1), loaded("c", 2)]).await;
    setup.put("rules/c.yaml", REFUSED);
    until("both to be named", async || configuration().error.is_some_and(|e| e.contains("b.yaml, c.yaml;"))).await;
    until("the last good content", async || setup.rules() == [loaded("a", 1), loaded("c", 2)]).await;
    assert_eq!(configuration().loaded, Some(hash(&first)), "the configuration is not to blame");
    let in_effect = configuration().rules.unwrap();

    // The configuration goes on.
    let second = setup.text_with_rule_folder("22s");
    setup.put("next.yaml", &second);
    until("the next configuration", async || configuration().loaded == Some(hash(&second))).await;
    until("it to be in effect", async || setup.active().contains("scrape_interval: 22s")).await;
    assert_eq!(configuration().rules, Some(in_effect));
    assert!(configuration().error.is_some_and(|e| e.contains("b.yaml, c.yaml;")));

    // A configuration and rules that are refused, both.
    let broken = second.replace("scrape_configs: []", "scrape_configs: [{job_name: x}, {job_name: x}]");
    setup.put("next.yaml", &broken);
    until("the configuration's refusal", async || {
        configuration().error.is_some_and(|e| e.contains("found multiple scrape configs"))
    })
    .await;
    until("the last good pair", async || configuration().loaded == Some(hash(&first))).await;
    until("its rules", async || setup.rules() == [loaded("a", 1), loaded("c", 2)]).await;
    setup.put("next.yaml", &second);
    until("the good configuration", async || configuration().loaded == Some(hash(&second))).await;

    // A container that is started anew begins with what is good.
    until("a quiet moment", async || setup.rules() == [loaded("a", 1), loaded("c", 2)]).await;
    tokio::task::block_in_place(|| {
        setup.prometheus.crash()?;
        setup.prometheus.start_again()?;
        setup.prometheus.wait_ready()
    })
    .unwrap();
    until("the rules after the restart", async || setup.rules() == [loaded("a", 1), loaded("c", 2)]).await;

    // Corrected.
    setup.put("rules/b.yaml", &group("b", 3));
    std::fs::remove_file(setup.path("rules/c.yaml")).unwrap();
    until("the corrected ones", async || setup.rules() == [loaded("a", 1), loaded("b", 3)]).await;
    until("no error", async || configuration().error.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rules_of_which_nothing_better_is_known_do_not_keep_prometheus_from_starting() {
    if testkit::peers::skip(&["prometheus"]) {
        return;
    }
    let mut setup = tokio::task::block_in_place(Setup::new);
    tokio::task::block_in_place(|| setup.prometheus.crash()).unwrap();
    let text = setup.text_with_rule_folder("21s");
    setup.put("next.yaml", &text);
    setup.put("last-good.yaml", &text);
    setup.put("rules/a.yaml", &group("a", 1));
    setup.put("rules/b.yaml", REFUSED);
    // A new pod: the init container knows nothing of rules, Prometheus ends over them.
    let once = SidecarArgs { once: args::Switch(true), ..setup.with_rule_folder() };
    engine::sidecar::run(once, World::real(), CancellationToken::new()).await.unwrap();
    setup.prometheus.start_again().unwrap();
    until("it to end", async || !setup.prometheus.is_running()).await;
    let sidecar = Sidecar::start(setup.with_rule_folder());
    let folder = setup.path("shared/current");
    until("the rules to go", async || std::fs::read_dir(&folder).unwrap().count() == 0).await;
    tokio::task::block_in_place(|| {
        setup.prometheus.start_again()?;
        setup.prometheus.wait_ready()
    })
    .unwrap();
    until("the rules that it takes", async || setup.rules() == [loaded("a", 1)]).await;
    let told = async || sidecar.state().configuration.unwrap().error.is_some_and(|e| e.contains("rule file b.yaml;"));
    until("the refused one to be told", told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn once_prefers_the_last_good_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: &str| dir.path().join(n).display().to_string();
    let args = SidecarArgs {
        once: args::Switch(true),
        config_file: path("next.yaml"),
        last_good_file: path("last-good.yaml"),
        config_envsubst_file: path("out.yaml"),
        ..SidecarArgs::default()
    };
    let run = || engine::sidecar::run(args.clone(), World::real(), CancellationToken::new());
    let error = format!("{:#}", run().await.unwrap_err());
    assert!(error.contains("next.yaml"), "{error}");
    std::fs::write(path("next.yaml"), "a: $(CARGO_PKG_NAME)").unwrap();
    run().await.unwrap();
    assert_eq!(std::fs::read_to_string(path("out.yaml")).unwrap(), "a: engine");
    std::fs::write(path("last-good.yaml"), "good: 1").unwrap();
    run().await.unwrap();
    assert_eq!(std::fs::read_to_string(path("out.yaml")).unwrap(), "good: 1");
    // A last good one that can't be used is no reason not to start.
    std::fs::write(path("last-good.yaml"), "good: $(PANOPTES_NOT_SET)").unwrap();
    run().await.unwrap();
    assert_eq!(std::fs::read_to_string(path("out.yaml")).unwrap(), "a: engine");
    assert!(!Path::new(&path("out.yaml.tmp")).exists());
}
