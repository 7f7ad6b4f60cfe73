//! `mesh validate` says what `mesh proxy` would: a folder with which the agent does not start is
//! refused, with the line of the field, and one with which it starts is not.

mod support;

use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use support::{Home, PLAIN, eventually, free, mesh, publish, service, stderr, stdout};

/// `mesh proxy` where it is expected to fail: it is ended after a while, with 124.
fn proxy(dir: &Path) -> Output {
    Command::new("timeout")
        .args(["20", env!("CARGO_BIN_EXE_mesh"), "proxy", "--dir"])
        .arg(dir)
        .output()
        .expect("timeout of coreutils")
}

fn json(dir: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let out = mesh(["validate", "--json"].iter().chain(more).copied(), &[dir]);
    let json = serde_json::from_slice(&out.stdout);
    (
        out.status.code(),
        json.unwrap_or_else(|e| panic!("{e}: {out:?}")),
    )
}

/// Whatever the agent opens or parses at its start.
#[test]
fn validate_and_the_agent_fail_alike() {
    let home = Home::new();
    let dir = home.path("agent");
    let kept = home.path("kept");
    for folder in [&dir, &kept] {
        std::fs::create_dir(folder).expect("a folder");
    }
    std::fs::write(home.path("garbage.pem"), "garbage").expect("written");
    std::fs::write(kept.join("distrusted-keys"), "0a\n\n").expect("written");
    symlink("log", home.path("link")).expect("a link");
    let (port, other) = (free().port(), free().port());
    let development = "developmentCA: {dir: ../ca}";
    let ca = "ca: {address: 'ca:1', caId: spiffe://test.local/ca, trustBundle: ../ca/ca.pem, keep: ../kept}";
    // It does not answer, and is waited for only once the rest is in order.
    let silent = &*ca.replace(", keep: ../kept", "");
    let of = |domain: &str, more: &str| {
        format!("{{trustDomain: {domain}, url: 'https://a.example/b', {more}}}")
    };
    let federated =
        |relationships: &str| format!("federation: {{relationships: [{relationships}]}}\n");
    let by_id = "profile: https_spiffe, endpointId: 'spiffe://other.local/x'";
    let web = "profile: https_web";
    let long = "s".repeat(100);
    let rows = [
        (
            development,
            federated(&of("other.local", &format!("{by_id}, endpointBundle: ../garbage.pem"))),
            "8: federation.relationships[0].endpointBundle",
        ),
        (
            development,
            federated(&of("other.local", &format!("{by_id}, endpointBundle: ../none"))),
            "8: federation.relationships[0].endpointBundle",
        ),
        (
            development,
            federated(&format!("{},\n  {}", of("other.local", web), of("test.local", web))),
            "9: federation.relationships[1].trustDomain",
        ),
        (
            silent,
            federated(&of("test.local", web)),
            "8: federation.relationships[0].trustDomain",
        ),
        (
            silent,
            federated(&of("other.local", &format!("{by_id}, endpointBundle: ../garbage.pem"))),
            "8: federation.relationships[0].endpointBundle",
        ),
        (
            development,
            federated(&format!("{},\n  {}", of("other.local", web), of("other.local", web))),
            "9: federation.relationships[1].trustDomain",
        ),
        (
            development,
            federated(&of("other.local", "profile: https_spiffe, endpointId: 'spiffe://other.local'")),
            "8: federation.relationships[0].endpointId",
        ),
        (
            development,
            format!(
                "federation:\n  bundleEndpoint:\n    bind: '127.0.0.1:{port}'\n    path: /b\n    \
                 webCertificate: {{certificate: ../garbage.pem, key: ../garbage.pem}}\n"
            ),
            "12: federation.bundleEndpoint.webCertificate",
        ),
        (
            development,
            format!(
                "admin: {{bind: '127.0.0.1:{port}'}}\nfederation:\n  bundleEndpoint:\n    path: /b\n    \
                 bind: '127.0.0.1:{port}'\n"
            ),
            "12: federation.bundleEndpoint.bind",
        ),
        (
            development,
            format!(
                "listeners:\n- {{bind: '127.0.0.1:{port}', outbound: {{}}}}\n- {{bind: '0.0.0.0:{port}', outbound: {{}}}}\n"
            ),
            "10: listeners[1].bind",
        ),
        (
            development,
            format!("listeners: [{{bind: '[::]:{port}', outbound: {{}}}}]\nadmin: {{bind: '127.0.0.1:{port}'}}\n"),
            "9: admin.bind",
        ),
        (ca, String::new(), "7: identity.ca"),
        (
            development,
            format!("admin: {{bind: '127.0.0.1:{other}'}}\naccessLog:\n  path: ../kept\n"),
            "10: accessLog.path",
        ),
        (
            development,
            format!("admin: {{bind: '127.0.0.1:{other}'}}\naccessLog: {{path: ../link}}\n"),
            "9: accessLog.path",
        ),
        (
            development,
            "tracing: {otlp: 'http://a b'}\n".into(),
            "8: tracing.otlp",
        ),
        (
            development,
            "workloadApi:\n  listen: ../garbage.pem\n  entries: [{id: 'spiffe://test.local/a', uid: 0}]\n".into(),
            "9: workloadApi.listen",
        ),
        (
            development,
            format!("workloadApi:\n  listen: {long}\n  entries: [{{id: 'spiffe://test.local/a', uid: 0}}]\n"),
            "9: workloadApi.listen",
        ),
    ];
    for (identity, more, place) in rows {
        let text = format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: Agent\n\
             workload: {{namespace: shop, name: web, serviceAccount: web}}\n\
             defaultAction: deny\npeers: strict\nidentity:\n  {identity}\n{more}"
        );
        publish(&dir, "agent.yaml", &text);
        let refused = mesh(["validate"], &[&dir]);
        assert_eq!(refused.status.code(), Some(1), "{text}{refused:?}");
        let said = stdout(&refused);
        assert!(
            said.contains(&format!("agent.yaml:{place}: ")),
            "{text}{said}"
        );
        let agent = proxy(&dir);
        assert_eq!(agent.status.code(), Some(1), "{text}{agent:?}");
    }
}

/// With the line, and what the agent itself says in its log.
#[tokio::test]
async fn keys_that_others_may_use_are_warned_of_as_at_the_start() {
    let home = Home::new();
    let id = "spiffe://test.local/ns/shop/sa/files";
    let (ca, out) = (home.ca().display().to_string(), home.path("out"));
    let issued = mesh(["ca", "issue", id, "--dir", &ca, "--out"], &[&out]);
    assert!(issued.status.success(), "{issued:?}");
    let (key, token) = (out.join("key.pem"), home.path("token"));
    std::fs::write(&token, "inmesh-join-0").expect("written");
    let port = free().port();
    let member =
        "  ca: {address: '127.0.0.1:1', caId: spiffe://test.local/ca, trustBundle: ../ca/ca.pem";
    for (name, identity, place, file) in [
        (
            "files",
            "  files:\n    certificate: ../out/cert.pem\n    key: ../out/key.pem\n    \
             bundle: ../out/bundle.pem"
                .to_owned(),
            "11: identity.files.key",
            &key,
        ),
        (
            "member",
            format!("{member}, tokenFile: ../token}}"),
            "9: identity.ca.tokenFile",
            &token,
        ),
        // It is not used either, and the CA is asked.
        (
            "kept",
            format!("{member}, keep: ../out}}"),
            "9: identity.ca.keep",
            &key,
        ),
        (
            "web",
            format!(
                "  developmentCA: {{dir: ../ca}}\nfederation:\n  bundleEndpoint:\n    \
                 bind: '127.0.0.1:{port}'\n    path: /b\n    webCertificate:\n      \
                 certificate: ../out/cert.pem\n      key: ../out/key.pem"
            ),
            "16: federation.bundleEndpoint.webCertificate.key",
            &key,
        ),
    ] {
        let more = format!("defaultAction: deny\npeers: strict\nidentity:\n{identity}\n");
        let mode = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(file, mode).expect("it is ours");
        };
        mode(0o640);
        let agent = home.unready(name, &more, &[]);
        let warned = eventually("the agent warns", async || {
            let log = agent.log();
            let line = log.lines().find(|l| l.contains("has mode 640"))?;
            Some(line.to_owned())
        })
        .await;
        let shown = file.file_name().expect("a name").to_string_lossy();
        let said = [
            "other users may use a secret of ours",
            "cannot be used, the CA is asked",
        ];
        assert!(said.iter().any(|said| warned.contains(said)), "{warned}");
        assert!(
            warned.contains(&format!("{shown} has mode 640")),
            "{warned}"
        );

        let place = format!("agent.yaml:{place}: ");
        let run = |more: &[&str]| mesh(["validate"].iter().chain(more).copied(), &[&agent.dir]);
        for (more, code) in [(&[][..], 0), (&["--strict"][..], 1)] {
            let out = run(more);
            let said = stdout(&out);
            assert!(
                said.contains(&place) && said.contains("has mode 640"),
                "{said}"
            );
            assert_eq!(out.status.code(), Some(code), "{name} {more:?} {said}");
        }
        let (code, said) = json(&agent.dir, &["--strict"]);
        let problem = &said["problems"][0]["problem"];
        assert_eq!((code, &problem["severity"]), (Some(1), &"warning".into()));
        mode(0o600);
        let out = run(&["--strict"]);
        assert_eq!(out.status.code(), Some(0), "{name} {}", stdout(&out));
        // What belongs to another user is open to that user, whatever its mode.
        if let Err(error) = chown(file, Some(65_534), None) {
            eprintln!("skipped: the owner of a key, {error}");
            continue;
        }
        let out = run(&["--strict"]);
        let said = stdout(&out);
        assert!(said.contains("belongs to user 65534"), "{name} {said}");
        assert_eq!(out.status.code(), Some(1), "{name} {said}");
        chown(file, Some(nix::unistd::geteuid().as_raw()), None).expect("as it was");
    }
}

/// A folder whose agent's file was lost is seen, and `--strict` fails; for an embedder it is as it should be.
#[test]
fn documents_without_an_agent_are_a_warning() {
    let home = Home::new();
    let dir = home.path("documents");
    std::fs::create_dir(&dir).expect("a folder");
    let documents = service("app", free(), PLAIN).replace("127.0.0.1", "10.0.0.1");
    publish(&dir, "app.yaml", &documents);
    let (code, said) = json(&dir, &[]);
    assert_eq!(
        (code, &said["valid"]),
        (Some(0), &Value::Bool(true)),
        "{said}"
    );
    let row = &said["problems"][0];
    assert_eq!(row["object"], "Agent", "{said}");
    assert_eq!(row["problem"]["severity"], "warning", "{said}");
    assert_eq!(
        row["problem"]["location"]["file"],
        dir.display().to_string(),
        "{said}"
    );
    assert_eq!(json(&dir, &["--strict"]).0, Some(1));
    // What is left to gateways is a document too.
    let gateways = home.path("gateways");
    std::fs::create_dir(&gateways).expect("a folder");
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, \
                 spec: {parentRefs: [{name: gw}]}}";
    publish(&gateways, "route.yaml", route);
    let (code, said) = json(&gateways, &[]);
    assert_eq!(code, Some(0), "{said}");
    let severities = said["problems"].as_array().expect("a list").iter();
    let severities: Vec<_> = severities
        .map(|row| row["problem"]["severity"].clone())
        .collect();
    assert_eq!(severities, ["warning", "note", "note"], "{said}");
    let embedded = json(&dir, &["--strict", "--embedded"]);
    assert_eq!(embedded.0, Some(0), "{embedded:?}");
}

/// A note on an object that stands among the findings is one finding.
#[test]
fn a_note_is_said_once() {
    let home = Home::new();
    let dir = home.path("documents");
    std::fs::create_dir(&dir).expect("a folder");
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: a}, \
                 spec: {parentRefs: [{group: '', kind: Service, name: app}], rules: [{}, \
                 {timeouts: {request: never}}]}}";
    publish(&dir, "route.yaml", route);
    let (code, said) = json(&dir, &["--embedded"]);
    assert_eq!(code, Some(1), "{said}");
    let rows = said["problems"].as_array().expect("a list").iter();
    let notes: Vec<_> = rows
        .filter(|row| row["problem"]["severity"] == "note")
        .map(|row| row["object"].as_str())
        .collect();
    assert_eq!(notes, [Some("HTTPRoute/default/a")], "{said}");
}

/// What cannot be read is a finding beside all others.
#[test]
fn files_that_cannot_be_read_hide_no_other_finding() {
    let home = Home::new();
    let dir = home.folder("web", free(), "defaultAction: deny\npeers: strict\n");
    std::fs::create_dir(dir.join("z.yaml")).expect("a folder");
    std::fs::write(dir.join("0.yaml"), b"\xff\xfe").expect("written");
    symlink("nowhere", dir.join("link.yaml")).expect("a link");
    let large = " ".repeat(2 << 20);
    std::fs::write(dir.join("large.yaml"), large).expect("written");
    let pipe = Command::new("mkfifo").arg(dir.join("pipe.yaml")).status();
    assert!(pipe.expect("mkfifo of coreutils").success());
    publish(
        &dir,
        "bad.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: a, x: 1}, spec: 5}",
    );

    let (code, said) = json(&dir, &[]);
    assert_eq!(code, Some(1), "{said}");
    let problems = said["problems"].as_array().expect("a list");
    for file in ["0.yaml", "link.yaml", "large.yaml", "pipe.yaml", "bad.yaml"] {
        let path = dir.join(file).display().to_string();
        let refused = |row: &Value| {
            let problem = &row["problem"];
            let at = &problem["location"];
            at["file"] == path && at["line"].is_number() && problem["severity"] == "refused"
        };
        assert!(problems.iter().any(refused), "{file}: {said}");
    }
    assert!(
        problems.iter().all(|row| row["object"] != "Agent"),
        "{said}"
    );
}

/// Two documents of kind Agent: where the second stands, beside what else is wrong.
#[test]
fn a_second_agent_is_a_finding_among_others() {
    let home = Home::new();
    let dir = home.folder("web", free(), "defaultAction: deny\npeers: strict\n");
    let text = std::fs::read_to_string(dir.join("agent.yaml")).expect("the agent's file");
    publish(
        &dir,
        "bad.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: 5}",
    );
    publish(&dir, "other.yaml", &format!("---\n{text}"));
    let refused = mesh(["validate"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let said = stdout(&refused);
    let file = |name: &str| dir.join(name).display().to_string();
    let second = format!(
        "{}:2: a second Agent document; the first is at {}:1",
        file("other.yaml"),
        file("agent.yaml")
    );
    assert!(said.contains(&second), "{said}");
    assert!(
        said.contains(&format!("{}:1: spec", file("bad.yaml"))),
        "{said}"
    );
}

/// An agent's file that cannot be read or parsed is named, not taken for none.
#[test]
fn an_agents_file_that_cannot_be_parsed_is_named() {
    let home = Home::new();
    let dir = home.folder(
        "web",
        free(),
        "defaultAction: deny\npeers: strict\nlisteners: [\n",
    );
    for command in ["proxy", "config"] {
        let refused = mesh([command, "--dir"], &[&dir]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(
            stderr(&refused).contains("agent.yaml:"),
            "{command}: {refused:?}"
        );
    }
}
