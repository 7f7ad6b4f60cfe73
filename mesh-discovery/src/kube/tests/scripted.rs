//! Answers that a real API server cannot be made to give.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::Client;
use kube::client::Body;
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::watch::{Followed, Said, watch};
use super::{Event, KINDS, place};

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// What an API server answers: a status, a body, and whether that stays open behind it.
#[derive(Clone)]
struct Says(u16, String, bool);

fn list(names: &[&str], version: &str, more: &str) -> Says {
    let items = names
        .iter()
        .map(|name| json!({"metadata": {"name": name, "resourceVersion": "1"}}));
    let meta = json!({"resourceVersion": version, "continue": more});
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": items.collect::<Vec<_>>()});
    Says(200, list.to_string(), false)
}

fn error(code: u16, details: &Json) -> Says {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "it says no", "reason": "Because", "code": code, "details": details,
    });
    Says(code, status.to_string(), false)
}

fn event(what: &str, object: &Json) -> String {
    format!("{}\n", json!({"type": what, "object": object}))
}

fn pod(name: &str, version: &str) -> Json {
    json!({"metadata": {"name": name, "resourceVersion": version}})
}

fn end_of_list(version: &str) -> String {
    event(
        "BOOKMARK",
        &json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}},
        }),
    )
}

/// Watches Pods of a server that gives these answers in turn, the last for ever; returns what is said
/// until it has been live `lives` times, what was asked for, and when.
async fn watched(answers: Vec<Says>, lives: usize) -> (Vec<String>, Vec<(String, Duration)>) {
    watched_of(place("Pod", ""), answers, lives).await
}

/// The same of a kind; that it is absent counts as a life.
async fn watched_of(
    kind: usize,
    answers: Vec<Says>,
    lives: usize,
) -> (Vec<String>, Vec<(String, Duration)>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let begin = Instant::now();
    let log = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        // A script that does not lead there is at fault.
        let mut log = log.lock().expect("no test fails with it");
        let Says(status, body, open) = answers[log.len().min(answers.len() - 1)].clone();
        assert!(log.len() < 100, "it asks on and on: {:?}", log.last());
        log.push((request.uri().to_string(), begin.elapsed()));
        let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(body)))]);
        let body = match open {
            true => StreamBody::new(first.chain(stream::pending())).boxed_unsync(),
            false => StreamBody::new(first).boxed_unsync(),
        };
        let answer: Answer = Response::builder()
            .status(status)
            .body(body)
            .expect("it is valid");
        async move { Ok::<_, Infallible>(answer) }
    });
    let (said, mut heard) = mpsc::channel(64);
    let client = Client::new(service, "default");
    let task = tokio::spawn(watch(client, kind, Followed::all(&KINDS[kind]), said));
    let (mut all, mut left) = (Vec::new(), lives);
    while left > 0
        && let Some((_, said)) = heard.recv().await
    {
        let name = |object: &Json| {
            object["metadata"]["name"]
                .as_str()
                .unwrap_or("?")
                .to_owned()
        };
        all.push(match said {
            Said::Live => {
                left -= 1;
                "live".to_owned()
            }
            Said::Failed(why) => why,
            Said::Of(Event::Absent) => {
                left -= 1;
                "absent".to_owned()
            }
            Said::Of(Event::ListBegun) => "list".to_owned(),
            Said::Of(Event::ListDone) => "done".to_owned(),
            Said::Of(Event::Listed(object)) => format!("listed {}", name(&object)),
            Said::Of(Event::Applied(object)) => format!("applied {}", name(&object)),
            Said::Of(Event::Deleted(object)) => format!("deleted {}", name(&object)),
        });
    }
    task.abort();
    let asked = asked.lock().expect("no test fails with it").clone();
    (all, asked)
}

/// A stream that is not sent: this server lists.
fn no_streams() -> Says {
    error(422, &json!({}))
}

/// Without what a first attempt to stream comes to.
fn after_no_streams(all: &[String]) -> Vec<&str> {
    all.iter().skip(1).map(String::as_str).collect()
}

#[tokio::test(start_paused = true)]
async fn a_list_comes_as_a_stream_and_goes_on_as_a_watch() {
    let stream = [
        event("ADDED", &pod("a", "1")),
        event("ADDED", &pod("b", "2")),
        end_of_list("7"),
        event("MODIFIED", &pod("a", "8")),
    ];
    let goes_on = event("DELETED", &pod("b", "9"));
    let answers = vec![Says(200, stream.concat(), false), Says(200, goes_on, true)];
    let (said, asked) = watched(answers, 2).await;
    let wanted = [
        "list",
        "listed a",
        "listed b",
        "done",
        "live",
        "applied a",
        "live",
    ];
    assert_eq!(said, wanted);
    assert!(asked[0].0.contains("sendInitialEvents=true") && !asked[1].0.contains("sendInitial"));
    // From the last that was seen.
    assert!(asked[1].0.ends_with("resourceVersion=8"), "{}", asked[1].0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_sends_no_streams_is_listed_in_pages() {
    // A store that cannot tell progress says so in the stream.
    let code = json!({"kind": "Status", "apiVersion": "v1", "code": 500, "message": "it cannot"});
    for first in [no_streams(), Says(200, event("ERROR", &code), false)] {
        let pages = [list(&["a"], "5", "more"), list(&["b"], "5", "")];
        let open = Says(200, String::new(), true);
        let answers = [vec![first], pages.to_vec(), vec![open]].concat();
        let (said, asked) = watched(answers, 1).await;
        let wanted = ["list", "listed a", "listed b", "done", "live"];
        assert!(said.ends_with(&wanted.map(String::from)), "{said:?}");
        assert!(asked[1].0.contains("limit=500"), "{asked:?}");
        assert!(asked[2].0.contains("continue=more"), "{asked:?}");
        assert!(asked[3].0.ends_with("resourceVersion=5"), "{asked:?}");
    }
}

/// A page may be too old by the time that the next is asked for: the list begins anew, and what was
/// known stays until it is whole.
#[tokio::test(start_paused = true)]
async fn a_list_of_which_a_page_is_gone_begins_anew() {
    let answers = vec![
        no_streams(),
        list(&["a"], "5", "more"),
        error(410, &json!({})),
        list(&["a", "b"], "6", ""),
        Says(200, String::new(), true),
    ];
    let (said, _) = watched(answers, 1).await;
    let wanted = [
        "list",
        "listed a",
        "pods: it says no (410)",
        "list",
        "listed a",
        "listed b",
        "done",
        "live",
    ];
    assert_eq!(after_no_streams(&said), wanted);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_expired_lists_and_one_that_ends_goes_on() {
    let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "message": "too old"});
    let answers = vec![
        no_streams(),
        list(&["a"], "5", ""),
        // The server ends a watch after its time, and one breaks off in the middle of an event.
        Says(200, event("ADDED", &pod("b", "6")), false),
        Says(
            200,
            "{\"type\": \"ADDED\", \"object\": {\"meta".into(),
            false,
        ),
        Says(200, event("ERROR", &gone), false),
        list(&["a", "b"], "9", ""),
        Says(200, String::new(), true),
    ];
    let (said, asked) = watched(answers, 4).await;
    let wanted = [
        "list",
        "listed a",
        "done",
        "live",
        "applied b",
        "live",
        "live",
        "pods: too old (410)",
        "list",
        "listed a",
        "listed b",
        "done",
        "live",
    ];
    assert_eq!(after_no_streams(&said), wanted);
    for n in [3, 4] {
        assert!(asked[n].0.ends_with("resourceVersion=6"), "{asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_json_is_said_and_asked_for_again() {
    let answers = vec![
        no_streams(),
        Says(200, "{\"metadata\": {}, \"items\": [{\"meta".into(), false),
        list(&["a"], "5", ""),
        Says(200, "no json\n".into(), false),
        Says(200, String::new(), true),
    ];
    let (said, asked) = watched(answers, 2).await;
    let failed: Vec<_> = said
        .iter()
        .filter(|said| said.starts_with("pods: "))
        .collect();
    assert_eq!(failed.len(), 3, "{said:?}");
    assert!(asked[4].0.ends_with("resourceVersion=5"), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_busy_is_asked_when_it_says_so() {
    let busy = error(429, &json!({"retryAfterSeconds": 7}));
    let answers = vec![busy, end_stream()];
    let (_, asked) = watched(answers, 1).await;
    let wait = asked[1].1 - asked[0].1;
    assert!(
        (Duration::from_secs(7)..Duration::from_secs(8)).contains(&wait),
        "{wait:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn waits_grow_to_two_seconds_and_a_role_is_told_what_it_lacks() {
    let forbidden = error(403, &json!({}));
    let mut answers = vec![forbidden; 12];
    answers.extend([end_stream(), Says(200, String::new(), true)]);
    let (said, asked) = watched(answers, 1).await;
    let wanted = "pods: it says no: the role needs get, list and watch on pods of the core group";
    assert_eq!(said[0], wanted);
    let waits: Vec<_> = asked.windows(2).map(|two| two[1].1 - two[0].1).collect();
    assert!(
        waits.iter().all(|wait| *wait <= Duration::from_secs(2)),
        "{waits:?}"
    );
    assert!(
        waits[0] <= Duration::from_millis(201) && waits[11] >= Duration::from_secs(1),
        "{waits:?}"
    );
}

fn end_stream() -> Says {
    Says(200, end_of_list("1"), true)
}

/// What a server that begins does not find could be there: it is absent once the server was ready.
#[tokio::test(start_paused = true)]
async fn a_kind_is_absent_where_a_server_that_is_ready_has_it_not() {
    let (missing, busy) = (error(404, &json!({})), error(500, &json!({})));
    let ready = Says(200, "ok".into(), false);
    let answers = vec![missing.clone(), busy, missing.clone(), ready, missing];
    let kind = place("GRPCRoute", "gateway.networking.k8s.io");
    let (said, asked) = watched_of(kind, answers, 1).await;
    assert_eq!(said, ["grpcroutes: it says no (500)", "absent"]);
    let (group, ready) = ("/apis/gateway.networking.k8s.io/v1", "/readyz");
    let asked: Vec<_> = asked.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(asked, [group, ready, group, ready, group]);
}
