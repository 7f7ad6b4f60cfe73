//! The rules for Prometheus name metrics that there are, and promtool reads them and a scrape.

mod support;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use http::{Method, StatusCode};
use support::{Home, eventually, free, try_send};

fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/alerts.rules.yaml")
}

/// The metrics that the expressions of the rules name.
fn named() -> BTreeSet<String> {
    let text = std::fs::read_to_string(rules()).expect("the rules");
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let metrics = words.filter(|word| word.starts_with("mesh_") || word.starts_with("istio_"));
    metrics.map(str::to_owned).collect()
}

/// An agent that exports spans, after one request; its metrics in the classic format.
async fn scrape() -> String {
    let home = Home::new();
    let door = free();
    let more = format!(
        "defaultAction: deny
peers: strict
tracing: {{otlp: \"http://{}\"}}
listeners: [{{bind: \"{door}\", outbound: {{appProtocol: http}}}}]
",
        free()
    );
    let agent = home.agent("web", &more, &[]).await;
    let unknown = try_send(door, Method::GET, "/", &[("host", "unknown")]).await;
    assert_eq!(unknown.expect("an answer").status, StatusCode::NOT_FOUND);
    eventually("the request is counted", async || {
        let text = agent.get("/metrics").await.body;
        text.contains("istio_requests_total{").then_some(text)
    })
    .await
}

#[tokio::test]
async fn every_metric_of_the_rules_is_one_of_the_agents() {
    let metrics = scrape().await;
    let named = named();
    assert!(named.len() >= 14, "{named:?}");
    for name in named {
        // Of an agent that has foreign trust domains alone.
        if name.starts_with("mesh_federation_") {
            continue;
        }
        let family = name.strip_suffix("_bucket").unwrap_or(&name);
        let known = format!("# TYPE {family} ");
        assert!(metrics.contains(&known), "{name} is no metric:\n{metrics}");
    }
}

#[test]
fn every_alert_is_in_the_page() {
    let page = std::fs::read_to_string(rules().with_file_name("alerts.md")).expect("the page");
    let text = std::fs::read_to_string(rules()).expect("the rules");
    let alerts = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(page.contains(&format!("`{alert}`")), "{alert}");
    }
}

/// Runs promtool, if it is there; says so if not.
fn promtool(args: &[&str], input: &str) {
    let home = std::env::var_os("HOME")
        .map(PathBuf::from)
        .unwrap_or_default();
    let installed = home.join("go/bin/promtool");
    let program = if installed.exists() {
        installed
    } else {
        "promtool".into()
    };
    let child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: no promtool (bash .ci/promtool builds it)");
        return;
    };
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    // 3 are remarks on names: Istio's do not follow Prometheus's conventions.
    let good = matches!(output.status.code(), Some(0 | 3)) && !said.contains("error while linting");
    assert!(good, "{args:?}: {output:?}");
}

#[test]
fn promtool_reads_the_rules() {
    let rules = rules();
    promtool(&["check", "rules", rules.to_str().expect("UTF-8")], "");
}

#[tokio::test]
async fn promtool_reads_a_scrape() {
    promtool(&["check", "metrics"], &scrape().await);
}
