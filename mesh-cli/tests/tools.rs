//! The commands that end by themselves: `ca`, `validate`, `status`, `completions`.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;
use support::{Home, PLAIN, free, mesh, publish, route, service, stderr, stdout};
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

#[test]
fn validate_fails_on_what_dangles_and_on_a_refused_agent_file() {
    let home = Home::new();
    let dir = good_folder(&home);
    publish(
        &dir,
        "route.yaml",
        &route("1", "    - {name: gone, port: 80}\n"),
    );
    let dangles = mesh(["validate"], &[&dir]);
    assert_eq!(dangles.status.code(), Some(1));
    assert!(stdout(&dangles).contains("gone"), "{dangles:?}");

    let dir = home.folder("second", free(), "peers: strict\n");
    let refused = mesh(["validate"], &[&dir]);
    assert_eq!(refused.status.code(), Some(1));
    let said = stdout(&refused);
    assert!(said.contains("agent.yaml:1: defaultAction: "), "{said}");
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
