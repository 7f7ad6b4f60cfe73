//! `mesh test`: its codes, its reports, and what it refuses.

mod support;

use serde_json::Value;
use support::{mesh, publish, stderr, stdout};
use tempfile::TempDir;

const CART: &str =
    "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}";

fn folder(expect: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a folder");
    std::fs::create_dir(dir.path().join("deploy")).expect("a folder");
    publish(&dir.path().join("deploy"), "cart.yaml", CART);
    let cases = format!(
        "apiVersion: inmesh.dev/v1alpha1
kind: Test
documents: {{folder: deploy}}
cases:
- name: a <cart> without endpoints
  request: GET http://cart/
  expect: {expect}
"
    );
    publish(dir.path(), "cases.yaml", &cases);
    let file = dir.path().join("cases.yaml").display().to_string();
    (dir, file)
}

#[test]
fn its_code_and_reports_say_what_failed() {
    let (dir, file) = folder("{status: 503}");
    let good = mesh(["test", &file], &[]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert!(stdout(&good).contains("1 cases, 0 failed"), "{good:?}");
    let (_other, wrong) = folder("{status: 404}");
    let report = dir.path().join("report.xml");
    let out = mesh(["test", "--json", &file, &wrong, "--junit"], &[&report]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["files"][0]["failed"], 0);
    let case = &json["files"][1]["cases"][0];
    assert_eq!(case["failures"][0], "status: expected 404, got 503");
    assert_eq!(case["place"], format!("{wrong}:5"));
    let report = std::fs::read_to_string(&report).expect("the report");
    assert!(
        report.contains("<testcase name=\"a &lt;cart&gt; without endpoints\""),
        "{report}"
    );
    assert!(
        report.contains("<failure message=\"status: expected 404, got 503\">"),
        "{report}"
    );
}

/// A gate is not passed by an edit that an agent would refuse, whatever still serves.
#[test]
fn a_refused_edit_is_no_change_and_no_success() {
    let dir = TempDir::new().expect("a folder");
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    for (folder, port) in [(&old, "80"), (&new, "eighty")] {
        std::fs::create_dir(folder).expect("a folder");
        publish(
            folder,
            "cart.yaml",
            &CART.replace("port: 80", &format!("port: {port}")),
        );
    }
    let out = mesh(["diff"], &[&old, &new]);
    assert_eq!(out.status.code(), Some(1), "{out:?}");
    let said = "REFUSED  Service/default/cart (its last good version serves until a restart)";
    assert!(stdout(&out).contains(said), "{out:?}");
    assert!(stdout(&out).contains("0 differ"), "{out:?}");
    let out = mesh(["diff", "--json"], &[&old, &new]);
    let json: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(json["verdicts_change"], false);
    assert_eq!(json["refused"][0]["object"], "Service/default/cart");
    assert_eq!(mesh(["diff"], &[&old, &old]).status.code(), Some(0));
}

/// A file that tests nothing is a mistake, and no failed case.
#[test]
fn a_file_without_a_case_cannot_be_run() {
    let (dir, file) = folder("{status: 503}");
    let good = std::fs::read_to_string(&file).expect("the cases");
    let cases = good.find("cases:").expect("it has cases");
    for text in [
        format!("{}cases: []\n", &good[..cases]),
        String::new(),
        "# none\n".into(),
    ] {
        publish(dir.path(), "none.yaml", &text);
        let none = dir.path().join("none.yaml").display().to_string();
        for command in ["test", "simulate"] {
            let out = mesh([command, &none], &[]);
            assert_eq!(out.status.code(), Some(2), "{command} {text:?}: {out:?}");
        }
        let deploy = dir.path().join("deploy").display().to_string();
        let out = mesh(["diff", &deploy, &deploy, "--requests", &none], &[]);
        assert_eq!(out.status.code(), Some(2), "{text:?}: {out:?}");
    }
}

/// The folder of examples is that of the page.
#[test]
fn the_example_passes() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let page =
        std::fs::read_to_string(format!("{root}/mesh-cli/docs/testing.md")).expect("the page");
    for file in ["cases.yaml", "deploy/shop.yaml"] {
        let text = std::fs::read_to_string(format!("{root}/examples/documents/{file}"));
        let text = text.expect(file);
        let (_comment, text) = text.split_once('\n').expect("a comment above");
        assert!(page.contains(text), "{file} is not what the page shows");
    }
    let out = mesh(
        ["test", &format!("{root}/examples/documents/cases.yaml")],
        &[],
    );
    assert_eq!(out.status.code(), Some(0), "{out:?}");
    assert!(stdout(&out).contains("4 cases, 0 failed"), "{out:?}");
}

#[test]
fn what_cannot_be_read_is_no_failed_case() {
    for (expect, said) in [
        ("{stauts: 503}", ":7: cases[0].expect.stauts"),
        ("{}", "expects nothing"),
    ] {
        let (_dir, file) = folder(expect);
        let out = mesh(["test", &file], &[]);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
        assert!(stderr(&out).contains(said), "{out:?}");
    }
    let (dir, file) = folder("{status: 503}");
    std::fs::remove_dir_all(dir.path().join("deploy")).expect("it was there");
    for file in [&*file, "/nowhere.yaml"] {
        let out = mesh(["test", file], &[]);
        assert_eq!(out.status.code(), Some(2), "{out:?}");
    }
}

/// A route to `cart` for `path`, beside the Service.
fn routed(path: &str, timeout: &str) -> TempDir {
    let dir = TempDir::new().expect("a folder");
    publish(dir.path(), "cart.yaml", CART);
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: cart}}
spec:
  parentRefs: [{{group: '', kind: Service, name: cart}}]
  rules:
  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]
    backendRefs: [{{name: cart, port: 80}}]
    timeouts: {{request: {timeout}}}
"
    );
    publish(dir.path(), "route.yaml", &route);
    dir
}

#[test]
fn a_diff_gates_on_verdicts() {
    let (old, slow, moved) = (routed("/a", "1s"), routed("/a", "2s"), routed("/b", "1s"));
    let log = old.path().join("access.log");
    let line = |path: &str, more: &str| {
        format!(
            "{{\"timestamp\": \"t\", \"direction\": \"inbound\", \"tls_peer\": null{more}, \"path\": \"{path}\"}}\n"
        )
    };
    let http = ", \"method\": \"GET\", \"authority\": \"cart.default\"";
    let text = line("/a", http) + &line("/a", http) + &line("/c", http) + &line("", "");
    std::fs::write(&log, text).expect("written");
    let log = log.display().to_string();
    let diff = |new: &TempDir, more: &[&str]| {
        let args = ["diff", "--json"].iter().chain(more).copied();
        let out = mesh(args, &[old.path(), new.path()]);
        let json: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        (out.status.code(), json)
    };
    assert_eq!(diff(&old, &[]).0, Some(0));
    assert_eq!(diff(&old, &[]).1["changes"], serde_json::json!([]));
    // A longer time limit is a difference, and no other verdict.
    let (code, json) = diff(&slow, &[]);
    assert_eq!(code, Some(0), "{json}");
    let differs = json["changes"][0]["differs"].as_array().expect("a list");
    let what: Vec<_> = differs.iter().map(|differs| &differs["what"]).collect();
    // What is sent says how long is left.
    assert_eq!(what, ["sent as", "timeouts"], "{json}");
    assert_eq!(
        json["by_route"]["HTTPRoute/default/cart rule 0"]["verdicts"], 0,
        "{json}"
    );
    // What was refused for want of an endpoint is refused for want of a route.
    let (code, json) = diff(&moved, &["--requests", &log]);
    assert_eq!(code, Some(1), "{json}");
    assert_eq!(
        (&json["requests"], &json["skipped"]),
        (&3.into(), &1.into())
    );
    assert_eq!(json["changes"][0]["count"], 2, "{json}");
    let verdict = json["changes"][0]["differs"].as_array().expect("a list");
    let verdict = verdict
        .iter()
        .find(|d| d["what"] == "verdict")
        .expect("it differs");
    assert_eq!(verdict["before"], "refused 503 no-endpoint");
    assert_eq!(verdict["after"], "refused 404 no-route");
    assert_eq!(diff(&moved, &["--requests", "/nowhere"]).0, Some(2));
}
