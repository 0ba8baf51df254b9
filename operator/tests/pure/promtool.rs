//! A real promtool reads what is generated.

use std::process::Command;

use operator::desired::objects;
use serde_json::{Value, json};

use super::support::{EXAMPLES, cluster, valid, wish};

fn check(cluster: &operator::api::MonitoringCluster) -> anyhow::Result<()> {
    let valid = valid(cluster);
    let dir = tempfile::tempdir()?;
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules)?;
    for object in objects(&valid).iter().filter(|object| object.name().contains("-prometheus-rules-")) {
        for (name, text) in object.0["data"].as_object().into_iter().flatten() {
            std::fs::write(rules.join(name), text.as_str().unwrap_or_default())?;
        }
    }
    let account = dir.path().join("serviceaccount");
    std::fs::create_dir(&account)?;
    for file in ["token", "ca.crt"] {
        std::fs::write(account.join(file), "")?;
    }
    let text = valid
        .configuration
        .next
        .replace("/etc/prometheus/shared/rules/current", &rules.display().to_string())
        .replace("/var/run/secrets/kubernetes.io/serviceaccount", &account.display().to_string());
    let config = dir.path().join("prometheus.yaml");
    std::fs::write(&config, &text)?;
    let output = Command::new(testkit::peers::path("promtool")?).args(["check", "config"]).arg(&config).output()?;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{text}");
    if cluster.spec.rules.builtin {
        assert!(said.contains("rules found"), "{said}");
    }
    Ok(())
}

#[test]
fn every_example() -> anyhow::Result<()> {
    if testkit::peers::skip(&["promtool"]) {
        return Ok(());
    }
    EXAMPLES.iter().try_for_each(|example| check(&cluster(example)?))
}

#[test]
fn every_job_alone_and_odd_names() -> anyhow::Result<()> {
    if testkit::peers::skip(&["promtool"]) {
        return Ok(());
    }
    for job in ["apiserver", "kubelet", "cadvisor", "nodeExporter", "kubeStateMetrics", "coredns", "self", "annotated"]
    {
        let spec: Value = json!({
            "scrape": {"jobs": [job], "annotations": {"prefix": "a-b.c"}, "verifyKubelets": true},
            "externalLabels": {"version": "1.10", "on": "yes", "quote": "a\"b'c: # {d}"},
            "replicaLabel": "replica",
        });
        check(&wish(spec))?;
    }
    Ok(())
}

/// Rule files: we refuse what promtool refuses, and little else. A file that we let through and Prometheus refuses would
/// keep it from starting.
#[test]
fn rule_files_are_judged_alike() -> anyhow::Result<()> {
    if testkit::peers::skip(&["promtool"]) {
        return Ok(());
    }
    let annotation = |text: &str| {
        json!({"groups": [{"name": "g", "rules": [{"alert": "a", "expr": "up", "annotations": {"summary": text}}]}]})
            .to_string()
    };
    let mut files: Vec<(String, bool)> = Vec::new();
    let texts: Vec<String> = [
        "",
        "{{ $value }}",
        "{{ $labels.x }",
        "{{ $labels.x",
        "{{ $nope }}",
        "{{ humanise $value }}",
        "{{ if true }}",
        "{{ end }}",
        "{{- $value -}}",
        "{{-$value}}",
        "{{ $value | humanize | }}",
        "{{ ( }}",
        "{{ range query \"up\" }}{{ .Value }}{{ end }}",
        "{{ range $i, $e := query \"up\" }}{{ $e }}{{ else }}x{{ end }}",
        "{{ with $x := 1 }}{{ $x }}{{ end }}",
        "{{ $x }}",
        "{{ else }}",
        "{{ if true }}{{ else if false }}{{ end }}",
        "{{ if true }}{{ else with false }}{{ end }}",
        "{{/* c */}}",
        "{{ /* c */ }}",
        "{{/* c }}",
        "{{ \"a\\\"b\" }}",
        "{{ 'a' }}",
        "{{ 1_000 }}",
        "{{ 1.5.2 }}",
        "{{ 1i }}",
        "{{ 0b11 }}",
        "{{ 0o7 }}",
        "{{ true }}",
        "{{ nil }}",
        "{{ . | print }}",
        "{{ print . | 3 }}",
        "{{ print .x.y }}",
        "{{ (print 1).x }}",
        "{{ $.Labels }}",
        "{{ $labels. }}",
        "{{ print 1 , 2 }}",
        "{{ a }}",
        "{{ print\n1 }}",
        "{{ define \"x\" }}{{ end }}",
        "{{ if true }}{{ define \"x\" }}{{ end }}{{ end }}",
        "{{ block \"x\" . }}{{ end }}",
        "{{ template \"x\" }}",
        "{{ break }}",
        "{{ range query \"up\" }}{{ continue }}{{ end }}",
        "{{ tmpl \"x\" . }}",
        "{{ $a, $b := query \"up\" }}",
        "{{ $labels := 1 }}",
        "{{ é }}",
        "{{ .é }}",
        "{{ . }}}",
        "{ {{ }}",
        "{{ == }}",
        "{{ \"\\q\" }}",
        "{{ 'ab' }}",
        "{{ '\\n' }}",
        "{{ '\\'' }}",
        "{{ \"\\x41\\u00e9\\101\" }}",
        "{{ \"\\x4\" }}",
        "{{ if $a := 1 }}{{ $a }}{{ end }}{{ $a }}",
        "{{ range }}{{ end }}",
        "{{ with }}{{ end }}",
        "{{ else if true }}",
        "{{ end end }}",
        "{{ template }}",
        "{{ .Labels.x.y | toUpper | title }}",
    ]
    .map(str::to_owned)
    .to_vec();
    // forms that nobody writes, and that mean nothing
    let odd = ["{{ $value | humanize | }}", "{{ 1i }}", "{{ 0b11 }}", "{{ 0o7 }}", "{{ nil }}"];
    files.extend(texts.iter().map(|text| (annotation(text), odd.contains(&text.as_str()))));
    let rule = |rule: &str| format!("groups:\n- name: g\n  rules:\n  - {rule}\n");
    // true: we may be stricter
    for (text, stricter) in [
        (String::new(), true),
        ("groups: []".to_owned(), false),
        ("groups:".to_owned(), true),
        ("groups: [{name: ''}]".to_owned(), false),
        ("groups: [{name: g, interval: 1m, limit: 3, labels: {a: b}}]".to_owned(), false),
        ("groups: [{name: g, interval: 1}]".to_owned(), false),
        ("groups: [{name: g, nope: 1}]".to_owned(), false),
        (rule("{record: a, expr: up}"), false),
        (rule("{record: 'a b', expr: up}"), false),
        (rule("{record: a, expr: 1}"), false),
        (rule("{record: a, expr: ''}"), false),
        (rule("{record: a}"), false),
        (rule("{record: a, alert: b, expr: up}"), false),
        (rule("{record: a, expr: up, for: 1m}"), false),
        (rule("{record: a, expr: up, for: 0s}"), true),
        (rule("{record: a, expr: up, annotations: {}}"), true),
        (rule("{record: a, expr: up, labels: {__name__: x}}"), false),
        (rule("{alert: a, expr: up, labels: {a: 1}}"), true),
        (rule("{alert: a, expr: up, for: 1x}"), false),
        (rule("{alert: a, expr: 'up{'}"), false),
        (rule("{alert: a, expr: 'sum(up) by (x) > 1'}"), false),
        (rule("{alert: a, expr: 'rate(up)'}"), false),
        (rule("{alert: a, expr: up, labels: {x: '{{ $nope }}'}}"), false),
        (rule("{record: a, expr: up, labels: {x: '{{ $nope }}'}}"), false),
    ] {
        files.push((text, stricter));
    }
    let promtool = testkit::peers::path("promtool")?;
    let dir = tempfile::tempdir()?;
    let mut wrong = Vec::new();
    for (text, stricter) in files {
        let path = dir.path().join("rules.yaml");
        std::fs::write(&path, &text)?;
        let output = Command::new(&promtool).args(["check", "rules", "--lint=none"]).arg(&path).output()?;
        let mut observed = super::support::world(&wish(json!({})));
        observed.config_maps.extend([super::support::config_map("mine", &[("a.yaml", &text)])]);
        observed.rule_config_maps.insert("mine".to_owned());
        let ours = super::support::valid_in(&observed);
        let (theirs, taken) = (output.status.success(), ours.rejected.is_empty());
        if theirs != taken && !(stricter && theirs) {
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
            wrong.push(format!("{text}\n  promtool: {theirs} {said}\n  ours: {taken} {:?}", ours.rejected));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}
