//! Series are bounded in text and kinds, lose nothing, and follow the identity.

use super::*;
use crate::telemetry::label::{Code, Grpc};
use crate::telemetry::{Exposition, LabelText, Metrics};

fn series(name: &str) -> Series {
    let labels = [("reporter", "source"), ("destination_service", name)];
    Series::new(labels.map(|(label, value)| (label, value.into())).into())
}

fn varying(code: u16) -> Varying {
    Varying {
        protocol: "http",
        code: Code::of(code),
        grpc: None,
        flags: "-",
        mutual_tls: true,
    }
}

/// The sum of all samples of a name.
fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{'))
    });
    let values = lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap());
    values.sum()
}

/// 20,000 series would be half a gigabyte of text.
#[test]
fn the_text_is_bounded_and_no_exchange_is_lost() {
    let metrics = Metrics::new();
    let long = "x".repeat(200);
    let mut opened = 0;
    for n in 0..20_000 {
        let series = series(&format!("{long}{n}"));
        for _ in 0..2 {
            let took = Duration::from_millis(3);
            metrics.exchange(&series, varying(200), took, 10, 20);
        }
        if n % 2 == 0 {
            opened += 1;
            metrics.tcp_opened(&series, true).add(1, 2);
        }
    }
    for format in [Exposition::OpenMetrics, Exposition::Classic] {
        let text = metrics.encode_as(format);
        let most = COUNTER_TEXT + DISTRIBUTION_TEXT + (1 << 20);
        assert!(text.len() < most, "{}", text.len());
        assert_eq!(sum(&text, "istio_requests_total"), 40_000);
        assert_eq!(
            sum(&text, "istio_request_duration_milliseconds_count"),
            40_000
        );
        assert_eq!(sum(&text, "istio_request_bytes_count"), 40_000);
        assert_eq!(sum(&text, "istio_tcp_connections_opened_total"), opened);
        assert!(text.contains("destination_service=\"overflow\""));
        assert!(text.contains("reporter=\"source\",destination_service=\"overflow\""));
    }
}

/// Threads share neither what they write nor what they find, and more of them than there are parts
/// lose nothing.
#[test]
fn what_many_threads_count_at_once_is_summed() {
    let metrics = Metrics::new();
    let series = series("cart");
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for code in (200..=206).cycle().take(700) {
                    let took = Duration::from_millis(3);
                    metrics.exchange(&series, varying(code), took, 10, 20);
                }
            });
        }
    });
    let text = metrics.encode();
    assert_eq!(sum(&text, "istio_requests_total"), 14_000);
    let of = |name: &str, rest: &str, end: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        let mut lines = lines.filter(|line| line.contains(rest));
        assert_eq!(lines.clone().count(), 7, "one for each status");
        assert!(lines.all(|line| line.ends_with(end)), "{name}");
    };
    of("istio_requests_total", "", " 2000");
    let below = "le=\"5.0\"";
    of("istio_request_duration_milliseconds_bucket", below, " 2000");
    of("istio_request_bytes_sum", "", " 20000.0");
    of("istio_response_bytes_sum", "", " 40000.0");
}

#[test]
fn an_application_cannot_make_more_kinds_than_there_are() {
    let metrics = Metrics::new();
    let series = series("cart");
    for code in 0..=999 {
        metrics.exchange(&series, varying(code), Duration::ZERO, 0, 0);
    }
    for grpc in 0..=255 {
        let grpc = Some(Grpc::of(grpc));
        let varying = Varying {
            grpc,
            ..varying(200)
        };
        metrics.exchange(&series, varying, Duration::ZERO, 0, 0);
    }
    let text = metrics.encode();
    let kinds = text
        .lines()
        .filter(|l| l.starts_with("istio_requests_total"));
    assert!(kinds.count() <= 90);
    assert_eq!(sum(&text, "istio_requests_total"), 1_256);
    for code in ["\"200\"", "\"499\"", "\"5xx\"", "\"other\"", "\"0\""] {
        assert!(text.contains(&format!("response_code={code}")), "{code}");
    }
}

#[test]
fn values_lie_where_their_bounds_say() {
    let metrics = Metrics::new();
    let series = series("cart");
    for micros in [400, 500, 501, 40_000_000] {
        let took = Duration::from_micros(micros);
        metrics.exchange(&series, varying(200), took, 10, 11);
    }
    let text = metrics.encode();
    let bucket = |name: &str, le: &str| {
        let le = format!("le=\"{le}\"");
        let mut lines = text
            .lines()
            .filter(|l| l.starts_with(name) && l.contains(&le));
        let line = lines.next().expect("a bucket");
        line.rsplit(' ')
            .next()
            .expect("a value")
            .parse::<u64>()
            .expect("a number")
    };
    let duration = "istio_request_duration_milliseconds_bucket";
    let counts = ["0.5", "1.0", "30000.0", "+Inf"].map(|le| bucket(duration, le));
    assert_eq!(counts, [2, 3, 3, 4], "a bound is part of its bucket");
    assert_eq!(bucket("istio_request_bytes_bucket", "10.0"), 4);
    assert_eq!(bucket("istio_response_bytes_bucket", "10.0"), 0);
    assert!(text.contains(" 40001.401\n"), "{text}");
}

#[test]
fn a_name_that_follows_the_identity_is_read_at_each_scrape() {
    use inmesh_pki::{IdentityState, identity};

    let (writer, reader) = identity(IdentityState::default());
    let metrics = Metrics::new();
    let labels = vec![("source_principal", LabelText::Identity(reader))];
    let series = Series::new(labels);
    metrics.exchange(&series, varying(200), Duration::ZERO, 0, 0);
    assert!(metrics.encode().contains("source_principal=\"unknown\""));
    let world = crate::testing::World::new().expect("a CA");
    let (_, web) = world.identity("web").expect("an identity");
    let svid = Arc::clone(web.load().default_svid().expect("an SVID"));
    let id = svid.id().clone();
    writer.update(|state| state.share_svid(svid));
    metrics.exchange(&series, varying(200), Duration::ZERO, 0, 0);
    let text = metrics.encode();
    assert!(
        text.contains(&format!("source_principal=\"{id}\"")),
        "{text}"
    );
    assert_eq!(sum(&text, "istio_requests_total"), 2);
}
