//! Trace context as the W3C's own tests see it, and lines of the log as golden text.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use tokio::io::AsyncWrite;

use super::trace::{self, TraceContext};
use super::{AccessLog, Direction, Exchange, ExchangeSink, Metrics, Protocol};
use crate::error::{Error, Reason};
use crate::model::{Kind, Namespace, ObjectKey};

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name = HeaderName::try_from(*name).unwrap();
        (name, HeaderValue::from_str(value).unwrap())
    });
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        map.append(name, value);
    }
    map
}

#[test]
fn traceparent_is_read_as_the_w3c_tests_want() -> Result {
    let Some(vectors) = crate::fixture::json("w3c-trace-context/vectors.json", 83)? else {
        return Ok(());
    };
    let mut rows = 0;
    for vector in vectors["vectors"].as_array().ok_or("no vectors")? {
        let mut map = HeaderMap::new();
        for field in vector["headers"].as_array().ok_or("no headers")? {
            let (name, value) = (field[0].as_str().unwrap(), field[1].as_str().unwrap());
            map.append(
                HeaderName::try_from(name.to_ascii_lowercase())?,
                HeaderValue::from_str(value)?,
            );
        }
        let read = TraceContext::read(&map);
        let inherited = vector["trace_id"] == "inherited";
        assert_eq!(read.is_some(), inherited, "{vector}");
        if let Some(read) = read {
            assert_eq!(read.trace_id, 0x1234_5678_9012_3456_7890_1234_5678_9012);
        }
        rows += 1;
    }
    assert_eq!(rows, 83);
    Ok(())
}

#[test]
fn what_came_in_goes_on_in_its_form() {
    let (trace, span) = ("463ac35c9f6413ad48485a3953bb6124", "0020000000000001");
    let parent = format!("00-{trace}-{span}-01");
    let single = format!("{trace}-{span}-1");
    for (fields, wanted) in [
        (
            vec![("traceparent", parent.as_str())],
            vec![("traceparent", parent.as_str())],
        ),
        (
            vec![("b3", single.as_str())],
            vec![("traceparent", parent.as_str()), ("b3", &single)],
        ),
        (
            vec![
                ("x-b3-traceid", trace),
                ("x-b3-spanid", span),
                ("x-b3-parentspanid", "0020000000000002"),
                ("x-b3-sampled", "1"),
            ],
            vec![
                ("traceparent", parent.as_str()),
                ("x-b3-traceid", trace),
                ("x-b3-spanid", span),
                ("x-b3-sampled", "1"),
            ],
        ),
    ] {
        let mut map = headers(&fields);
        let context = TraceContext::read(&map).unwrap();
        assert!(context.sampled);
        context.write(&mut map);
        assert_eq!(map, headers(&wanted));
        assert_eq!(
            TraceContext::read(&map),
            TraceContext::read(&headers(&wanted))
        );
    }
}

#[test]
fn flags_that_are_known_go_on_and_others_do_not() {
    for (given, wanted) in [
        ("00", "00"),
        ("01", "01"),
        ("02", "02"),
        ("03", "03"),
        ("ff", "03"),
    ] {
        let of = |flags| format!("00-463ac35c9f6413ad48485a3953bb6124-0020000000000001-{flags}");
        let context = TraceContext::read(&headers(&[("traceparent", &of(given))])).unwrap();
        assert_eq!(context.to_string(), of(wanted));
        assert_eq!(context.child(7).trace_id, context.trace_id);
    }
}

#[test]
fn b3_that_says_nothing_begins_a_new_trace() {
    let long = "463ac35c9f6413ad48485a3953bb6124";
    for fields in [
        &[("b3", "0")][..],
        &[("b3", "")],
        &[("b3", "463ac35c9f6413ad48485a3953bb6124")],
        &[("b3", "463ac35c9f6413ad48485a3953bb6124-0000000000000000-1")],
        &[("b3", "zz3ac35c9f6413ad48485a3953bb6124-0020000000000001-1")],
        &[("x-b3-traceid", long)],
        &[("x-b3-traceid", "1"), ("x-b3-spanid", "0020000000000001")],
        &[
            ("x-b3-traceid", long),
            ("x-b3-traceid", long),
            ("x-b3-spanid", "0020000000000001"),
        ],
    ] {
        assert_eq!(TraceContext::read(&headers(fields)), None, "{fields:?}");
    }
    // 64 bits are enough for B3.
    let short = headers(&[("b3", "48485a3953bb6124-0020000000000001-d")]);
    let context = TraceContext::read(&short).unwrap();
    assert_eq!(
        (context.trace_id, context.sampled),
        (0x4848_5a39_53bb_6124, true)
    );
}

#[tokio::test]
async fn a_context_crosses_a_spawn_only_where_it_is_carried() -> Result {
    let context = TraceContext::new(1, 2, true);
    let (carried, left) = context
        .scope(async {
            let carried = tokio::spawn(trace::propagate(async { trace::current() }));
            let left = tokio::spawn(async { trace::current() });
            (carried.await, left.await)
        })
        .await;
    assert_eq!((carried?, left?), (Some(context), None));
    assert_eq!(trace::current(), None);
    Ok(())
}

fn exchange() -> Exchange {
    let mut x = Exchange::new(
        Direction::Outbound,
        Protocol::Http1,
        TraceContext::new(10, 11, true),
    );
    x.method = Some(Method::GET);
    x.uri = "/items?secret=1".parse().unwrap();
    x.authority = "cart".into();
    x.service = "cart.shop.svc.cluster.local".into();
    x.user_agent = Some(HeaderValue::from_static("curl/8 \"x\""));
    x.caller = Some(([127, 0, 0, 1], 4_000).into());
    x.tls_peer = "spiffe://example.org/ns/shop/sa/cart".parse().ok();
    let namespace = Namespace::new("shop").unwrap();
    x.route = ObjectKey::new(Kind::HttpRoute, &namespace, "cart")
        .ok()
        .map(|key| (key, 1));
    let attempted = [([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 80).into()];
    x.attempts = attempted.into_iter().collect();
    x.status = 200;
    x.response_bytes = 5;
    x.duration = Duration::from_micros(1_500);
    x
}

#[test]
fn a_line_says_what_happened() {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
    let line = String::from_utf8(AccessLog::line(&exchange(), at)).unwrap();
    let wanted = concat!(
        r#"{"timestamp":"1970-01-01T00:00:01.500000Z","direction":"outbound","protocol":"HTTP/1.1","method":"GET","#,
        r#""authority":"cart","path":"/items","status":200,"duration_ms":1.5,"request_bytes":0,"#,
        r#""response_bytes":5,"caller":"127.0.0.1:4000","#,
        r#""tls_peer":"spiffe://example.org/ns/shop/sa/cart","#,
        r#""service":"cart.shop.svc.cluster.local","route":"HTTPRoute/shop/cart","rule":1,"#,
        r#""endpoint":"10.0.0.2:80","retries":1,"attempt_endpoints":["10.0.0.1:80","10.0.0.2:80"],"#,
        r#""trace_id":"0000000000000000000000000000000a","user_agent":"curl/8 \"x\""}"#,
    );
    assert_eq!(line, wanted);
}

#[test]
fn a_line_says_when_it_happened() {
    for (micros, wanted) in [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_772_323_199_000_001, "2026-02-28T23:59:59.000001Z"),
        (1_709_208_909_987_654, "2024-02-29T12:15:09.987654Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999999Z"),
        (253_402_300_800_000_007, "1970-01-01T00:00:00.000007Z"),
    ] {
        let at = SystemTime::UNIX_EPOCH + Duration::from_micros(micros);
        let line = String::from_utf8(AccessLog::line(&exchange(), at)).unwrap();
        let begin = format!("{{\"timestamp\":\"{wanted}\",");
        assert!(line.starts_with(&begin), "{line}");
    }
}

/// Neither a line nor an escape sequence of a caller's own (CVE-2025-58160, CVE-2024-45807).
#[test]
fn no_caller_writes_into_the_log() {
    let mut x = exchange();
    x.uri = "/a\u{9b}31m".parse().unwrap();
    x.authority = "a\"\n{\"fake\":1}".into();
    x.failed(&Error::new(
        Reason::InvalidRequest,
        "\u{1b}]0;x\u{7}\u{85}\u{2028}é",
    ));
    let line = String::from_utf8(AccessLog::line(&x, SystemTime::UNIX_EPOCH)).unwrap();
    assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    let read: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["path"], "/a\u{9b}31m");
    assert_eq!(read["authority"], "a\"\n{\"fake\":1}");
    assert_eq!(read["reason"], "invalid-request");
    assert!(line.contains(r"\u001b]0;x\u0007\u0085"), "{line}");
    // Each byte alone in a text that is plain else.
    for c in (0..=255_u8).map(char::from) {
        let text = format!("a{c}b");
        x.authority = text.as_str().into();
        let line = String::from_utf8(AccessLog::line(&x, SystemTime::UNIX_EPOCH)).unwrap();
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read["authority"], text);
    }
}

#[tokio::test]
async fn the_log_keeps_failures_and_drops_what_it_cannot_hold() {
    let metrics = Metrics::new();
    let (log, mut lines) = AccessLog::new(2, 0.0, &metrics);
    let good = exchange();
    let mut denied = exchange();
    denied.protocol = Protocol::Grpc;
    denied.failed(&Error::new(Reason::Denied, "no"));
    let mut bad = exchange();
    bad.status = 404;
    for x in [&good, &denied, &bad, &bad, &bad] {
        log.record(x, SystemTime::UNIX_EPOCH);
    }
    drop(log);
    let mut text = Vec::new();
    while lines.read(&mut text).await {}
    assert_eq!(String::from_utf8(text).unwrap().lines().count(), 2);
    let text = metrics.encode();
    assert!(text.contains("mesh_access_log_dropped_total 2"), "{text}");
}

#[test]
fn a_denied_grpc_call_is_counted_with_its_status() {
    let mut x = exchange();
    x.protocol = Protocol::Grpc;
    x.failed(&Error::new(Reason::Denied, "no"));
    assert_eq!(x.grpc_status, Some(7));
}

/// Fails as a full disk does, until it is full no longer.
struct Disk {
    full: Arc<AtomicBool>,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncWrite for Disk {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.full.load(Ordering::Relaxed) {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        self.written.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_counted_and_the_next_line_is_whole() {
    let metrics = Metrics::new();
    let (log, lines) = AccessLog::new(8, 1.0, &metrics);
    let (full, written) = (Arc::new(AtomicBool::new(true)), Arc::default());
    let disk = Disk {
        full: Arc::clone(&full),
        written: Arc::clone(&written),
    };
    let (trigger, watch) = crate::drain::drain();
    let writing = tokio::spawn(lines.write_to(disk, watch, metrics.clone()));
    for _ in 0..3 {
        log.record(&exchange(), SystemTime::UNIX_EPOCH);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(
        metrics
            .encode()
            .contains("mesh_access_log_write_failures_total 3\n")
    );
    full.store(false, Ordering::Relaxed);
    log.record(&exchange(), SystemTime::UNIX_EPOCH);
    tokio::time::sleep(Duration::from_secs(1)).await;
    trigger.advance(crate::drain::Phase::Closed);
    writing.await.unwrap();
    let text = String::from_utf8(written.lock().unwrap().clone()).unwrap();
    let line = String::from_utf8(AccessLog::line(&exchange(), SystemTime::UNIX_EPOCH)).unwrap();
    assert_eq!(
        text,
        format!("\n{line}\n"),
        "what was begun before has ended"
    );
}

#[test]
fn checks_are_counted_by_service_and_result_and_the_sets_are_bounded() {
    let metrics = Metrics::new();
    for result in ["passed", "failed", "passed", "late"] {
        metrics.checked("shelf.shop.svc.cluster.local", result);
    }
    let text = metrics.encode();
    for (result, count) in [("passed", 2), ("failed", 1), ("late", 1)] {
        let line = format!(
            "mesh_endpoint_checks_total{{destination_service=\"shelf.shop.svc.cluster.local\",result=\"{result}\"}} {count}\n"
        );
        assert!(text.contains(&line), "{text}");
    }
    for n in 0..1_000 {
        metrics.checked(&n.to_string(), "passed");
    }
    let text = metrics.encode();
    let rows = text
        .lines()
        .filter(|l| l.starts_with("mesh_endpoint_checks_total{"));
    assert_eq!(rows.count(), 1_001);
    let rest = "{destination_service=\"overflow\",result=\"overflow\"} 3\n";
    assert!(text.contains(rest), "{text}");
}
