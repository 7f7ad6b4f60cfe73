//! `mesh simulate`: its examples, its codes, its pictures, and what it refuses.

mod support;

use serde_json::Value;
use support::{mesh, publish, stderr, stdout};
use tempfile::TempDir;

const SMALL: &str = "
apiVersion: inmesh.dev/v1alpha1
kind: Simulation
documents:
  inline: |
    {apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {ports: [{port: 80}]}}
    ---
    apiVersion: discovery.k8s.io/v1
    kind: EndpointSlice
    metadata:
      name: cart-1
      namespace: shop
      labels: {kubernetes.io/service-name: cart}
      annotations: {inmesh.dev/transport: plain}
    addressType: IPv4
    ports: [{port: 8080}]
    endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}]
duration: 10s
requests: [{request: 'GET http://cart.shop/', rate: 100}]
events: [{at: 2s, for: 3s, endpoints: [10.0.0.1], connections: refuse}]
";

fn small(expect: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a folder");
    publish(
        dir.path(),
        "small.yaml",
        &format!("{SMALL}expect: [{expect}]\n"),
    );
    let file = dir.path().join("small.yaml").display().to_string();
    (dir, file)
}

/// All endpoints refuse, one is slow, there are too many requests, and each endpoint restarts.
#[test]
fn the_examples_come_out_as_they_expect() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/simulations");
    for (file, met) in [("overload", 5), ("refuse", 5), ("restart", 3), ("slow", 2)] {
        let out = mesh(["simulate", &format!("{root}/{file}.yaml")], &[]);
        assert_eq!(out.status.code(), Some(0), "{out:?}");
        let text = stdout(&out);
        assert_eq!(text.matches("\nok   ").count(), met, "{text}");
        assert_eq!(stderr(&out), "");
    }
}

#[test]
fn its_code_says_whether_all_came_out_as_expected() {
    for (expect, code) in [
        ("{successAtLeast: 100, ejectionsAtLeast: 1}", 0),
        ("{amplificationAtMost: 1}", 1),
        ("{amplification: 1}", 2),
        ("{}", 2),
    ] {
        let (_dir, file) = small(expect);
        let out = mesh(["simulate", &file], &[]);
        assert_eq!(out.status.code(), Some(code), "{expect}: {out:?}");
    }
    let out = mesh(["simulate", "/nowhere.yaml"], &[]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let (dir, file) = small("{successAtLeast: 1}");
    publish(dir.path(), "empty.yaml", "");
    let empty = dir.path().join("empty.yaml");
    let out = mesh(["simulate"], &[&empty]);
    assert!(stderr(&out).contains("holds no document"), "{out:?}");
    let out = mesh(["simulate", &file, &file, "--svg", "x.svg"], &[]);
    assert!(stderr(&out).contains("is for one simulation"), "{out:?}");
}

#[test]
fn equal_seeds_print_the_same_in_every_form() {
    let (dir, file) = small("{successAtLeast: 100}");
    let ran = |seed: &str, svg: &str| {
        let svg = dir.path().join(svg);
        let text = mesh(["simulate", &file, "--seed", seed, "--svg"], &[&svg]);
        let json = mesh(["simulate", &file, "--seed", seed, "--json"], &[]);
        let svg = std::fs::read_to_string(svg).expect("a picture");
        (stdout(&text), stdout(&json), svg)
    };
    let (one, same, other) = (ran("7", "a.svg"), ran("7", "b.svg"), ran("8", "c.svg"));
    assert_eq!(one, same);
    assert_ne!(one.1, other.1);
    // No colours where it is no terminal.
    assert!(
        !one.0.contains('\u{1b}') && one.0.contains('×'),
        "{}",
        one.0
    );
    let json: Value = serde_json::from_str(&one.1).expect("JSON");
    let outcome = &json["simulations"][0]["outcome"];
    assert_eq!(outcome["seed"], 7);
    assert_eq!(outcome["timeline"].as_array().map(Vec::len), Some(60));
    assert_eq!(outcome["whole"]["requests"], outcome["whole"]["succeeded"]);
    assert_eq!(json["simulations"][0]["expected"][0]["ok"], true);
    assert_eq!(one.2.matches("<polygon").count(), 2);
    assert_eq!(one.2.matches('<').count(), one.2.matches('>').count());
}
