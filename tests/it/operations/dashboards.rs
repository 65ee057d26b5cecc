//! The dashboard and the alert rules name existing metrics, and the alerts fire as documented.

use crate::{support::metrics::documented, support::skip::skip};
use serde_json::Value;
use std::{collections::BTreeSet, path::Path, process::Command};

const ALERTS: &str = include_str!("../../../deploy/prometheus/alerts.yml");
const RUNBOOK: &str = include_str!("../../../docs/alerts.md");
const DASHBOARD: &str = include_str!("../../../deploy/grafana/entitlements.json");

/// The metrics in a query.
fn named(query: &str) -> BTreeSet<String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let metrics =
        words.filter(|word| word.starts_with("entitlements_") || word.starts_with("process_"));
    metrics.map(str::to_owned).collect()
}

/// Fails for metrics or labels that are missing from the metrics page.
fn check(queries: &[String]) {
    let documented = documented();
    let is_there = |name: &String| {
        let parts = ["_bucket", "_count", "_sum"];
        let of_histogram = parts.iter().find_map(|part| name.strip_suffix(part));
        documented.contains_key(of_histogram.unwrap_or(name))
    };
    let mut all = BTreeSet::new();
    for query in queries {
        let named = named(query);
        assert!(!named.is_empty(), "{query} names no metric");
        for name in &named {
            assert!(is_there(name), "{name} does not exist, in: {query}");
        }
        all.extend(named);
    }
    assert!(all.len() > 10, "{all:?}");
}

/// All strings under a key at any depth.
fn under(value: &Value, key: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if name == key => found.push(text.clone()),
                    value => under(value, key, found),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| under(value, key, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_names_only_existing_metrics_and_shows_all_of_them() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut queries, mut variables) = (Vec::new(), Vec::new());
    under(&dashboard["panels"], "expr", &mut queries);
    under(&dashboard["templating"], "definition", &mut variables);
    check(&queries);
    queries.extend(variables);
    let shown: String = queries.join(" ");
    for name in documented().keys() {
        assert!(shown.contains(name.as_str()), "{name} is on no panel");
    }
}

/// Each alert with the lines of its rule.
fn alerts() -> Vec<(&'static str, &'static str)> {
    let alerts = ALERTS.split("- alert: ").skip(1);
    let alerts: Vec<_> = alerts.map(|alert| alert.split_once('\n').unwrap()).collect();
    assert!(alerts.len() > 15, "{alerts:?}");
    alerts
}

#[test]
fn each_alert_names_existing_metrics_and_a_runbook_section() {
    let headings: BTreeSet<_> =
        RUNBOOK.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let names: BTreeSet<_> = alerts().iter().map(|(name, _)| *name).collect();
    assert_eq!(names, headings, "alerts.yml on the left, docs/alerts.md on the right");
    let mut queries = Vec::new();
    for (name, lines) in alerts() {
        let (query, rest) = lines.split_once("labels:").unwrap();
        let query = query.split_once("expr:").unwrap().1.split("for:").next().unwrap();
        queries.push(query.to_owned());
        let anchor = format!("runbook_url: docs/alerts.md#{}\n", name.to_lowercase());
        for wanted in ["summary: ", "description: ", "severity: ", &anchor] {
            assert!(format!("{rest}\n").contains(wanted), "{name} has no {wanted}");
        }
    }
    check(&queries);
}

#[test]
fn promtool_accepts_the_rules_and_they_fire_when_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let Ok(done) = Command::new("promtool").args(arguments).current_dir(&folder).output()
        else {
            skip("promtool is not installed (apt-get install prometheus)");
            return;
        };
        let output = String::from_utf8_lossy(&done.stdout) + String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{output}");
    }
}
