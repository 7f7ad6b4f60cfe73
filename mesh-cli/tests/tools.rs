//! The commands that end by themselves: `ca`, `validate`, `status`, `completions`.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use inmesh_pki::Crypto;
use inmesh_pki::clock::{ManualClock, SystemClock};
use inmesh_pki::issue::dev::DevCa;
use serde_json::Value;
use support::{Home, PLAIN, free, mesh, no_cluster, publish, route, service, stderr, stdout};
use tempfile::TempDir;

const AGENT: &str = "defaultAction: deny\npeers: strict\n";

fn mode(path: &Path) -> u32 {
    path.metadata().expect("it is there").permissions().mode() & 0o777
}

fn good_folder(home: &Home) -> std::path::PathBuf {
    let dir = home.folder("web", free(), AGENT);
    publish(&dir, "app.yaml", &service("app", free(), PLAIN));
    let backends = "    - {name: app, port: 80}\n";
    publish(&dir, "route.yaml", &route("1", backends));
    dir
}

#[test]
fn a_ca_is_never_overwritten_and_its_key_is_its_owners() {
    let home = Home::new();
    let key = home.ca().join("ca.key");
    assert_eq!(mode(&key), 0o600);
    let before = std::fs::read(&key).expect("the key");
    let again = mesh(["ca", "init"], &[&home.ca()]);
    assert_eq!(again.status.code(), Some(1));
    let said = stderr(&again);
    assert!(said.contains("ca"), "{said}");
    assert_eq!(std::fs::read(&key).expect("the key"), before);
}

#[test]
fn issued_files_are_complete_and_the_key_is_its_owners() {
    let home = Home::new();
    let (ca, out) = (home.ca(), home.path("files"));
    let id = "spiffe://test.local/ns/shop/sa/web";
    let ca = ca.to_str().expect("UTF-8");
    let args = ["ca", "issue", id, "--lifetime", "1h", "--ca", ca, "--out"];
    let issued = mesh(args, &[&out]);
    assert!(issued.status.success(), "{issued:?}");
    assert!(stdout(&issued).contains(id), "{issued:?}");
    assert_eq!(mode(&out.join("key.pem")), 0o600);
    for name in ["cert.pem", "bundle.pem"] {
        let text = std::fs::read_to_string(out.join(name)).expect(name);
        assert!(text.contains("BEGIN CERTIFICATE"), "{name}");
    }
}

#[test]
fn a_ca_issues_only_for_its_own_trust_domain() {
    let home = Home::new();
    let (ca, out) = (home.ca(), home.path("files"));
    let ca = ca.to_str().expect("UTF-8");
    let id = "spiffe://other.local/ns/shop/sa/web";
    let issued = mesh(["ca", "issue", id, "--ca", ca, "--out"], &[&out]);
    assert_eq!(issued.status.code(), Some(1), "{issued:?}");
    assert!(stderr(&issued).contains("other.local"), "{issued:?}");
    assert!(!out.join("cert.pem").exists());
}

#[test]
fn validate_finds_a_good_folder_good() {
    let home = Home::new();
    let dir = good_folder(&home);
    let valid = mesh(["validate"], &[&dir]);
    assert!(valid.status.success(), "{valid:?}");
    assert_eq!(
        stdout(&valid).trim(),
        "3 objects, 0 problems that refuse one, 0 warnings"
    );
    let json = mesh(["validate", "--json"], &[&dir]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["valid"], true);
    assert_eq!(json["problems"], serde_json::json!([]));
}

#[test]
fn validate_says_file_line_and_field_of_what_is_refused() {
    let home = Home::new();
    let dir = good_folder(&home);
    let backends = "    - {name: app, port: 80, weight: -1}\n";
    publish(&dir, "route.yaml", &route("1", backends));
    let file = dir.join("route.yaml").display().to_string();
    let field = "spec.rules[0].backendRefs[0].weight";
    let refused = mesh(["validate"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stdout(&refused);
    assert!(said.contains(&format!("{file}:11: {field}: ")), "{said}");
    let refused = mesh(["validate", "--json"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    let json: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(json["valid"], false);
    let problem = &json["problems"][0]["problem"];
    assert_eq!(problem["field"], field);
    assert_eq!(problem["location"]["file"], file);
    assert_eq!(problem["location"]["line"], 11);
    assert_eq!(problem["severity"], "refused");
}

/// A warning has a line too, and fails where that is asked for.
#[test]
fn validate_warns_of_what_dangles_and_fails_on_a_refused_agent_file() {
    let home = Home::new();
    let dir = good_folder(&home);
    publish(
        &dir,
        "route.yaml",
        &route("1", "    - {name: gone, port: 80}\n"),
    );
    let dangles = mesh(["validate"], &[&dir]);
    assert!(dangles.status.success(), "{dangles:?}");
    let said = stdout(&dangles);
    assert!(
        said.contains("route.yaml:1: spec.rules[0]") && said.contains("gone"),
        "{said}"
    );
    assert!(
        said.contains("0 problems that refuse one, 1 warnings"),
        "{said}"
    );
    let strict = mesh(["validate", "--strict"], &[&dir]);
    assert_eq!(strict.status.code(), Some(1));

    let dir = home.folder("second", free(), "peers: strict\n");
    let refused = mesh(["validate"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stdout(&refused);
    assert!(said.contains("agent.yaml:1: defaultAction: "), "{said}");
}

/// What an agent would not start with, or wait for in vain.
#[test]
fn validate_fails_where_the_agent_would() {
    let home = Home::new();
    let other = home.path("other");
    std::fs::create_dir(&other).expect("a folder");
    std::fs::write(other.join("garbage.pem"), "garbage").expect("written");
    std::fs::write(other.join("empty"), "").expect("written");
    let good = first_pem(&home.ca());
    let (good, other) = (good.display().to_string(), other.display().to_string());
    let identities = [
        ("developmentCA: {dir: OTHER/none}", "identity.developmentCA"),
        (
            "files: {certificate: GOOD, key: OTHER/garbage.pem, bundle: GOOD}",
            "identity.files",
        ),
        (
            "files: {certificate: OTHER/none, key: OTHER/none, bundle: GOOD}",
            "identity.files",
        ),
        (
            "ca: {address: 'ca:1', caId: spiffe://test.local/ca, trustBundle: OTHER/garbage.pem}",
            "identity.ca.trustBundle",
        ),
        (
            "ca: {address: 'ca:1', caId: spiffe://test.local/ca, trustBundle: GOOD, tokenFile: OTHER/none}",
            "identity.ca.tokenFile",
        ),
        (
            "ca: {address: 'ca:1', caId: spiffe://test.local/ca, trustBundle: GOOD, tokenFile: OTHER/empty}",
            "identity.ca.tokenFile",
        ),
    ];
    let agent = |identity: &str, more: &str| {
        format!(
            "apiVersion: inmesh.dev/v1alpha1\nkind: Agent\n\
             workload: {{namespace: shop, name: web, serviceAccount: web}}\n\
             defaultAction: deny\npeers: strict\nidentity:\n  {identity}\n{more}"
        )
        .replace("OTHER", &other)
        .replace("GOOD", &good)
    };
    let fine = "workloadApi: {socket: agent.sock}";
    let more = [
        ("accessLog: {path: OTHER/none/log}\n", "accessLog.path"),
        (
            "workloadApi: {listen: OTHER/none/s, entries: [{id: spiffe://test.local/a, uid: 0}]}\n",
            "workloadApi.listen",
        ),
        (
            "admin: {bind: '127.0.0.1:9'}\nlisteners: [{bind: '127.0.0.1:9', outbound: {}}]\n",
            "admin.bind",
        ),
    ];
    let rows = identities
        .iter()
        .map(|(identity, field)| (agent(identity, ""), 7, *field))
        .chain(
            more.iter()
                .map(|(more, field)| (agent(fine, more), 8, *field)),
        );
    let dir = home.path("agent");
    std::fs::create_dir(&dir).expect("a folder");
    for (text, line, field) in rows {
        publish(&dir, "agent.yaml", &text);
        let refused = mesh(["validate"], &[&dir]);
        let said = stdout(&refused);
        assert_eq!(refused.status.code(), Some(1), "{text}{refused:?}");
        assert!(
            said.contains(&format!("agent.yaml:{line}: {field}: ")),
            "{field}: {said}"
        );
    }
    publish(&dir, "agent.yaml", &agent(fine, ""));
    let good = mesh(["validate", "--strict"], &[&dir]);
    assert!(good.status.success(), "{good:?}");
}

/// What an agent would start with, and not be ready, since every peer refuses it.
#[test]
fn validate_judges_the_certificate_as_peers_do() {
    let home = Home::new();
    let crypto = Crypto::aws_lc_rs();
    let id = "spiffe://test.local/ns/shop/sa/web".parse().expect("an ID");
    let (files, hour) = (home.path("files"), Duration::from_secs(3_600));
    let now = SystemClock::shared().now();
    let (old, clock) = (home.path("old"), ManualClock::new(now - 10 * hour).shared());
    let trust_domain = "test.local".parse().expect("a name");
    DevCa::init(&old, trust_domain, &crypto, clock).expect("a CA");
    let issue = |begin: SystemTime| {
        let clock = ManualClock::new(begin).shared();
        let ca = DevCa::open_with(&old, hour, &crypto, clock).expect("the CA");
        ca.issue_files(&id, &files).expect("issued");
    };
    let dir = home.path("agent");
    std::fs::create_dir(&dir).expect("a folder");
    let agent = |bundle: &Path| {
        publish(
            &dir,
            "agent.yaml",
            &format!(
                "apiVersion: inmesh.dev/v1alpha1\nkind: Agent\n\
                 workload: {{namespace: shop, name: web, serviceAccount: web}}\n\
                 defaultAction: deny\npeers: strict\nidentity:\n  files:\n    \
                 certificate: {0}/cert.pem\n    key: {0}/key.pem\n    bundle: {1}\n",
                files.display(),
                bundle.display(),
            ),
        );
    };
    let own = files.join("bundle.pem");
    let foreign = first_pem(&home.ca());
    for (begin, bundle, code, strict, reason) in [
        (now, &own, 0, 0, None),
        (now, &foreign, 1, 1, Some("signed by an unknown authority")),
        (now - 3 * hour, &own, 1, 1, Some("expired at")),
        (now + 3 * hour, &own, 0, 1, Some("not valid before")),
    ] {
        issue(begin);
        agent(bundle);
        let said = mesh(["validate"], &[&dir]);
        let out = stdout(&said);
        assert_eq!(said.status.code(), Some(code), "{reason:?} {said:?}");
        let expected = reason.map(|reason| ("agent.yaml:7: identity.files: no peer", reason));
        assert!(
            expected.is_none_or(|(field, reason)| out.contains(field) && out.contains(reason)),
            "{reason:?} {out}"
        );
        assert_eq!(expected.is_some(), out.contains("no peer accepts"), "{out}");
        let said = mesh(["validate", "--strict"], &[&dir]);
        assert_eq!(said.status.code(), Some(strict), "{said:?}");
    }
}

fn first_pem(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir).expect("a folder");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    let certificate = paths.find(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.contains("BEGIN CERTIFICATE")
    });
    certificate.expect("a certificate")
}

#[test]
fn validate_of_an_empty_folder_fails() {
    let home = Home::new();
    let dir = home.path("empty");
    std::fs::create_dir(&dir).expect("a folder");
    for text in [
        "",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}",
    ] {
        if !text.is_empty() {
            publish(&dir, "others.yaml", text);
        }
        let empty = mesh(["validate"], &[&dir]);
        assert_eq!(empty.status.code(), Some(1), "{empty:?}");
        assert!(
            stdout(&empty).contains("no document of this kind"),
            "{empty:?}"
        );
    }
    assert!(mesh(["validate", "--embedded"], &[&dir]).status.success());
}

/// A folder of a program that embeds the mesh: no agent's file, its namespace, loopback.
#[test]
fn validate_checks_a_folder_for_an_embedder() {
    let home = Home::new();
    let dir = home.path("documents");
    std::fs::create_dir(&dir).expect("a folder");
    let documents = service("app", free(), PLAIN).replace(", namespace: shop", "");
    publish(&dir, "app.yaml", &documents);
    publish(
        &dir,
        "more.yaml",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}}",
    );
    let strict = ["validate", "--embedded", "--strict"];
    let refused = mesh(strict, &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stdout(&refused).contains("loopback"), "{refused:?}");
    let embedded = mesh(
        [
            "validate",
            "--embedded",
            "--strict",
            "--loopback",
            "--namespace",
            "shop",
            "--json",
        ],
        &[&dir],
    );
    assert!(embedded.status.success(), "{embedded:?}");
    let json: Value = serde_json::from_slice(&embedded.stdout).expect("JSON");
    assert_eq!(json["objects"], 2);
    assert_eq!(json["skipped"], serde_json::json!({"Deployment.apps": 1}));
}

#[test]
fn validate_reports_a_file_that_does_not_parse() {
    let home = Home::new();
    let dir = good_folder(&home);
    publish(&dir, "broken.yaml", "kind: Service\nspec: [\n");
    let broken = mesh(["validate"], &[&dir]);
    assert_eq!(broken.status.code(), Some(1));
    assert!(stdout(&broken).contains("broken.yaml:"), "{broken:?}");
}

#[test]
fn validate_of_nothing_says_what_is_missing() {
    let nothing = mesh(["validate", "/nowhere/at/all"], &[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(stderr(&nothing).contains("/nowhere/at/all"), "{nothing:?}");
}

#[test]
fn status_without_an_agent_says_how_to_name_one() {
    let admin = free().to_string();
    let nobody = mesh(["status", "--admin", &admin], &[]);
    assert_eq!(nobody.status.code(), Some(1));
    let said = stderr(&nobody);
    assert!(said.contains(&admin) && said.contains("--admin"), "{said}");
}

#[test]
fn an_agent_does_not_start_with_a_refused_file() {
    let home = Home::new();
    let dir = home.folder("web", free(), "defaultAction: maybe\npeers: strict\n");
    let refused = mesh(["proxy", "--config"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stderr(&refused);
    assert!(said.contains("agent.yaml:7"), "{said}");
    assert!(said.contains("defaultAction"), "{said}");
}

#[test]
fn an_agent_does_not_start_without_a_file_or_with_two() {
    let empty = TempDir::new().expect("a temporary folder");
    let none = mesh(["proxy", "--config"], &[empty.path()]);
    assert_eq!(none.status.code(), Some(1));
    assert!(stderr(&none).contains("kind Agent"), "{none:?}");

    let home = Home::new();
    let dir = home.folder("web", free(), AGENT);
    let text = std::fs::read_to_string(dir.join("agent.yaml")).expect("the agent's file");
    publish(&dir, "other.yaml", &text);
    let two = mesh(["proxy", "--config"], &[&dir]);
    assert_eq!(two.status.code(), Some(1));
    assert!(
        stderr(&two).contains("other.yaml:1: a second Agent"),
        "{two:?}"
    );
}

#[test]
fn an_agent_does_not_start_on_an_address_in_use() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("its address");
    let home = Home::new();
    let dir = home.folder("web", address, AGENT);
    let refused = mesh(["proxy", "--config"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains(&address.to_string()),
        "{refused:?}"
    );
}

#[test]
fn completions_are_there_for_the_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = mesh(["completions", shell], &[]);
        assert!(script.status.success());
        assert!(stdout(&script).contains("validate"), "{shell}");
    }
}

#[test]
fn there_is_a_manual_page_for_every_command() {
    let dir = TempDir::new().expect("a temporary folder");
    let written = mesh(["man"], &[dir.path()]);
    assert!(written.status.success(), "{written:?}");
    for page in [
        "mesh",
        "mesh-proxy",
        "mesh-status",
        "mesh-ca-serve",
        "mesh-drain",
    ] {
        let text = std::fs::read_to_string(dir.path().join(format!("{page}.1")));
        let text = text.unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(
            text.contains(".SH NAME") && text.contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
    let status = std::fs::read_to_string(dir.path().join("mesh-status.1")).expect("a page");
    assert!(
        status.contains("mesh status") && status.contains("Examples"),
        "{status}"
    );
    // A page is written through no link, and in place of none.
    let (page, victim) = (dir.path().join("mesh.1"), dir.path().join("victim"));
    std::fs::remove_file(&page).expect("a page");
    std::os::unix::fs::symlink(&victim, &page).expect("a link");
    let refused = mesh(["man", "--out"], &[dir.path()]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(
        stderr(&refused).contains("mesh.1 is a symbolic link"),
        "{refused:?}"
    );
    assert!(page.is_symlink() && !victim.exists());
}

/// Each command with what may be left out of its help: groups have none of their own.
#[test]
fn every_command_has_examples_and_names_folders_alike() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = dir.path().display().to_string();
    let written = mesh(["man", "--out", &out], &[]);
    assert!(written.status.success(), "{written:?}");
    let pages = std::fs::read_dir(dir.path()).expect("pages");
    let mut commands = 0;
    for page in pages {
        let path = page.expect("a page").path();
        let name = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(&path).expect("a page");
        let group = ["mesh", "mesh-ca", "mesh-ca-token"].contains(&name.as_str());
        if name.contains("help") || group {
            continue;
        }
        commands += 1;
        assert!(text.contains("Examples:"), "{name} has no example");
        for once in ["\\-\\-config", "\\-\\-ca "] {
            assert!(!text.contains(once), "{name} names a folder by {once}");
        }
    }
    assert!(commands >= 20, "{commands} pages");
    for page in ["mesh-config", "mesh-cert-show", "mesh-ca-members"] {
        assert!(dir.path().join(format!("{page}.1")).exists(), "{page}");
    }
    let script = stdout(&mesh(["completions", "bash"], &[]));
    assert!(script.contains("members") && script.contains("cert"));
}

/// Scripts that were written for earlier versions run on.
#[test]
fn a_folder_may_be_named_as_before() {
    let home = Home::new();
    let ca = home.path("other-ca");
    for (named, once) in [
        (vec!["ca", "init", "--dir"], vec!["ca", "init"]),
        (vec!["man", "--out"], vec!["man"]),
        (vec!["validate", "--dir"], vec!["validate"]),
    ] {
        for args in [named, once] {
            let dir = match args[..] {
                ["validate", ..] => good_folder(&home),
                ["man", ..] => home.path("man"),
                _ => {
                    let _none = std::fs::remove_dir_all(&ca);
                    ca.clone()
                }
            };
            let ended = mesh(args.iter().copied(), &[&dir]);
            assert!(ended.status.success(), "{args:?}: {ended:?}");
            let _none = std::fs::remove_dir_all(home.path("web"));
        }
    }
    for flag in ["--dir", "--ca"] {
        let id = "spiffe://cluster.local/ns/shop/sa/web";
        let (ca, out) = (ca.display().to_string(), home.path("files"));
        let issued = mesh(["ca", "issue", id, flag, &ca, "--out"], &[&out]);
        assert!(issued.status.success(), "{flag}: {issued:?}");
    }
    for flag in ["--dir", "--config"] {
        let none = mesh(["proxy", flag, "/nowhere/at/all"], &[]);
        assert!(stderr(&none).contains("/nowhere/at/all"), "{none:?}");
    }
    for args in [&["validate"][..], &["ca", "init"], &["man"], &["proxy"]] {
        let nothing = mesh(args.iter().copied(), &[]);
        assert_eq!(nothing.status.code(), Some(2), "{args:?}");
        assert!(stderr(&nothing).contains("<DIR>"), "{args:?}: {nothing:?}");
    }
}

#[test]
fn the_settings_of_a_folder_are_a_file_of_their_own() {
    let home = Home::new();
    let dir = good_folder(&home);
    let shown = mesh(["config", "--dir"], &[&dir]);
    assert!(shown.status.success(), "{shown:?}");
    let yaml = stdout(&shown);
    assert!(yaml.contains("  headerTimeout: \"10s\"\n"), "{yaml}");
    let again = home.path("again");
    std::fs::create_dir(&again).expect("a folder");
    publish(&again, "agent.yaml", &yaml);
    assert_eq!(stdout(&mesh(["config", "--dir"], &[&again])), yaml);
    let json = mesh(["config", "--json", "--dir"], &[&again]);
    let json: Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json["limits"]["headerTimeout"], "10s");
    assert_eq!(json["identity"]["developmentCA"]["lifetime"], "1m");
    publish(
        &again,
        "agent.yaml",
        &yaml.replace("defaultAction: deny", "defaultAction: no"),
    );
    let refused = mesh(["config", "--dir"], &[&again]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("defaultAction"), "{refused:?}");
}

#[test]
fn a_certificate_is_shown_with_what_would_be_refused_and_without_its_key() {
    let home = Home::new();
    let (ca, out) = (home.ca(), home.path("files"));
    let (ca, id) = (
        ca.display().to_string(),
        "spiffe://test.local/ns/shop/sa/web",
    );
    let args = ["ca", "issue", id, "--lifetime", "1h", "--dir", &ca, "--out"];
    assert!(mesh(args, &[&out]).status.success());
    let file = |name: &str| out.join(name);
    let bundle = file("bundle.pem").display().to_string();
    let good = mesh(["cert", "show", "--bundle", &bundle], &[&file("cert.pem")]);
    let said = stdout(&good);
    assert!(good.status.success(), "{good:?}");
    for part in [
        id,
        "EC P-256",
        "(ends in ",
        "nothing is refused",
        "URI:spiffe://",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let other = home.path("other");
    assert!(
        mesh(
            ["ca", "init", "--trust-domain", "test.local", "--dir"],
            &[&other]
        )
        .status
        .success()
    );
    let other = other.join("ca.pem").display().to_string();
    let args = ["cert", "show", "--json", "--bundle", &other];
    let refused = mesh(args, &[&file("cert.pem")]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let json: Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(json["certificates"][0]["spiffeId"], id);
    let why = json["refused"][0].as_str().expect("a reason");
    assert!(why.starts_with("under the bundle: "), "{why}");
    let key = std::fs::read_to_string(file("key.pem")).expect("a key");
    let shown = mesh(["cert", "show"], &[&file("key.pem")]);
    let shown = stdout(&shown) + &stderr(&shown);
    assert!(
        shown.contains("a private key, which is not shown"),
        "{shown}"
    );
    assert!(!shown.contains(key.lines().nth(1).expect("its text")));
}

/// What it says is generated, and said of the binary at hand.
#[test]
fn capabilities_name_each_field_of_a_kind() {
    let all = mesh(["capabilities", "--json"], &[]);
    let all: Value = serde_json::from_slice(&all.stdout).expect("JSON");
    let kinds: Vec<_> = all["kinds"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|k| &k["kind"])
        .collect();
    assert!(
        kinds.len() > 3 && kinds.iter().any(|kind| *kind == "HTTPRoute"),
        "{kinds:?}"
    );
    let one = mesh(["capabilities", "authorizationpolicy"], &[]);
    assert!(one.status.success(), "{one:?}");
    let said = stdout(&one);
    let fields: Vec<Vec<&str>> = said
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    assert!(
        fields.contains(&vec!["spec.rules[]", "when", "refused"]),
        "{said}"
    );
    assert!(fields.contains(&vec!["spec", "action", "used"]) && !said.contains("HTTPRoute"));
    let none = mesh(["capabilities", "Gateway"], &[]);
    assert_eq!(none.status.code(), Some(1), "{none:?}");
    assert!(stderr(&none).contains("HTTPRoute"), "{none:?}");
}

/// The sum of a file, as an image names it.
fn sum(file: &Path) -> String {
    let summed = std::process::Command::new("sha256sum").arg(file).output();
    let summed = String::from_utf8(summed.expect("it runs").stdout).expect("a sum");
    summed.split(' ').next().expect("a sum").to_owned()
}

#[test]
fn an_image_of_one_static_binary_is_whole_and_the_same_each_time() {
    let dir = TempDir::new().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/image.sh");
    let make = |binary: &Path, out: &str| {
        let mut sh = std::process::Command::new("sh");
        sh.arg(&script).arg(binary).arg("example/mesh:1.0");
        let made = sh.arg(at(out)).arg(at("roots")).output();
        made.expect("it runs")
    };
    std::fs::write(at("mesh"), "not linked with anything").expect("it is written");
    std::fs::write(at("roots"), "roots").expect("it is written");
    for out in ["one.tar", "two.tar"] {
        let made = make(&at("mesh"), out);
        assert!(made.status.success(), "{made:?}");
    }
    assert_eq!(sum(&at("one.tar")), sum(&at("two.tar")));
    let opened = std::process::Command::new("tar")
        .arg("-C")
        .arg(dir.path())
        .arg("-xf")
        .arg(at("one.tar"))
        .status();
    assert!(opened.expect("it runs").success());
    // Each part is found by the sum in the one above it.
    let read = |digest: &Value, size: &Value| {
        let hex = digest
            .as_str()
            .and_then(|text| text.strip_prefix("sha256:"))
            .expect("a digest");
        let blob = at("blobs/sha256").join(hex);
        assert_eq!(sum(&blob), hex);
        assert_eq!(
            Some(blob.metadata().expect("it is there").len()),
            size.as_u64()
        );
        blob
    };
    let json = |path: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("JSON")
    };
    let index = json(&at("index.json"));
    let of = &index["manifests"][0];
    assert_eq!(
        of["annotations"]["io.containerd.image.name"],
        "example/mesh:1.0"
    );
    let manifest = json(&read(&of["digest"], &of["size"]));
    let config = json(&read(
        &manifest["config"]["digest"],
        &manifest["config"]["size"],
    ));
    assert_eq!(config["config"]["Entrypoint"][0], "/usr/local/bin/mesh");
    let layer = &manifest["layers"][0];
    assert_eq!(config["rootfs"]["diff_ids"][0], layer["digest"]);
    let layer = read(&layer["digest"], &layer["size"]);
    let listed = std::process::Command::new("tar")
        .arg("-tf")
        .arg(layer)
        .output()
        .expect("it runs");
    let listed = String::from_utf8(listed.stdout).expect("names");
    for file in [
        "./usr/local/bin/mesh",
        "./etc/ssl/certs/ca-certificates.crt",
        "./tmp/",
    ] {
        assert!(listed.lines().any(|line| line == file), "{file}: {listed}");
    }
    // One that is linked with libraries would not run.
    let linked = make(Path::new(env!("CARGO_BIN_EXE_mesh")), "three.tar");
    assert_eq!(linked.status.code(), Some(1), "{linked:?}");
    assert!(stderr(&linked).contains("link it statically"), "{linked:?}");
}

#[test]
fn what_is_installed_is_printed_or_a_chart() {
    let dir = TempDir::new().expect("a temporary folder");
    let chart = dir.path().join("chart");
    let install = |more: &[&str]| {
        let flags = [
            "install",
            "--image",
            "example/mesh:1.0",
            "--trust-domain",
            "prod.example",
        ];
        mesh([&flags[..], more].concat(), &[])
    };
    let printed = stdout(&install(&[]));
    let documents = inmesh_discovery::manifest::strict::documents("it", &printed);
    let documents = documents.expect("it is YAML").len();
    let list = stdout(&install(&["--json"]));
    let list: Value = serde_json::from_str(&list).expect("it is JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(documents));
    assert!(printed.contains("--trust-domain=prod.example"), "{printed}");
    let signer = stdout(&install(&["--pod-certificates"]));
    assert!(
        signer.contains("--kubernetes-sign=true") && !printed.contains("--kubernetes-sign=true")
    );

    let path = chart.to_str().expect("it is UTF-8");
    let written = install(&["--chart", path, "--replicas", "3"]);
    assert!(written.status.success(), "{written:?}");
    let values = std::fs::read_to_string(chart.join("values.yaml")).expect("it is there");
    assert!(values.contains("\nreplicas: 3\n"), "{values}");
    // It is written over, and nothing else is.
    assert!(install(&["--chart", path]).status.success());
    std::fs::remove_file(chart.join("Chart.yaml")).expect("it is there");
    let other = install(&["--chart", path]);
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("is not empty"), "{other:?}");
    for wrong in [
        ["--replicas", "0"],
        ["--system-namespace", "A_b"],
        ["--trust-domain", "A b"],
    ] {
        assert!(!install(&wrong).status.success(), "{wrong:?}");
    }
}

#[test]
fn an_uninstallation_without_a_cluster_says_which() {
    let dir = TempDir::new().expect("a temporary folder");
    let config = no_cluster(dir.path());
    let gone = mesh(["uninstall", "--yes", "--kubeconfig"], &[&config]);
    assert_eq!(gone.status.code(), Some(1));
    assert!(stderr(&gone).contains("http://127.0.0.1:"), "{gone:?}");
}
