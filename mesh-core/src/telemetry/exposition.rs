//! The text formats of a scrape: which one a scraper asks for, and OpenMetrics in, the classic format
//! of Prometheus out.

use std::fmt::Write as _;

/// A format of metrics.
///
/// ```
/// use inmesh_core::telemetry::Exposition;
///
/// let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
/// assert_eq!(Exposition::of([prometheus]), Exposition::OpenMetrics);
/// assert_eq!(Exposition::of(["*/*"]), Exposition::Classic);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exposition {
    /// The text format of Prometheus, version 0.0.4.
    Classic,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

// === impl Exposition ===

impl Exposition {
    /// The format that the values of `Accept` prefer: OpenMetrics where a version that we write is
    /// named and nothing else is preferred to it, else the classic text, which all can read.
    pub fn of<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open, mut classic) = (0, 0);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1_000, None);
            for part in parts {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                if name.eq_ignore_ascii_case("q") {
                    quality = thousandths(value);
                } else if name.eq_ignore_ascii_case("version") {
                    version = Some(value.trim_matches('"'));
                }
            }
            let is = |name: &str| kind.eq_ignore_ascii_case(name);
            if is("application/openmetrics-text")
                && matches!(version, None | Some("1.0.0" | "0.0.1"))
            {
                open = open.max(quality);
            } else if is("text/plain") || is("text/*") || is("*/*") {
                classic = classic.max(quality);
            }
        }
        if open > 0 && open >= classic {
            Self::OpenMetrics
        } else {
            Self::Classic
        }
    }

    /// Its `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Classic => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// A weight of 0 to 1 with at most three digits, in thousandths; 0 if it is not valid.
fn thousandths(weight: &str) -> u16 {
    let (whole, rest) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = rest.len() <= 3 && rest.bytes().all(|b| b.is_ascii_digit());
    match (whole, digits) {
        ("1", true) => 1_000,
        ("0", true) => format!("{rest:0<3}").parse().unwrap_or(0),
        _ => 0,
    }
}

/// The same metrics in the classic format. Samples are the same in both; what is said of a family
/// differs: a counter is named with its `_total`, units are not known, and neither is the end.
pub(super) fn classic(openmetrics: &str) -> String {
    let mut out = String::with_capacity(openmetrics.len());
    let mut help: Option<(&str, &str)> = None;
    for line in openmetrics.lines() {
        let Some(said) = line.strip_prefix("# ") else {
            out.push_str(line);
            out.push('\n');
            continue;
        };
        let mut words = said.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("HELP"), Some(name), text) => help = Some((name, text.unwrap_or_default())),
            (Some("TYPE"), Some(name), Some(kind)) => {
                let (suffix, kind) = match kind {
                    "counter" => ("_total", kind),
                    "info" => ("_info", "gauge"),
                    "stateset" => ("", "gauge"),
                    "unknown" => ("", "untyped"),
                    kind => ("", kind),
                };
                // Writing to a String cannot fail.
                if let Some((of, text)) = help.take().filter(|(of, _)| *of == name) {
                    let _ = writeln!(out, "# HELP {of}{suffix} {text}");
                }
                let _ = writeln!(out, "# TYPE {name}{suffix} {kind}");
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Collect, Metrics, Samples};

    #[test]
    fn the_format_is_what_the_scraper_prefers() {
        use Exposition::{Classic, OpenMetrics};

        let check = |accept: &[&str], expected| {
            assert_eq!(
                Exposition::of(accept.iter().copied()),
                expected,
                "{accept:?}"
            );
        };
        check(&[], Classic);
        check(&["*/*"], Classic);
        check(&["text/plain"], Classic);
        check(&["text/html, */*;q=0.1"], Classic);
        check(&["application/json"], Classic);
        check(&["application/openmetrics-text"], OpenMetrics);
        check(
            &["Application/OpenMetrics-Text; Version=1.0.0; charset=utf-8"],
            OpenMetrics,
        );
        check(
            &["application/openmetrics-text; version=\"1.0.0\""],
            OpenMetrics,
        );
        check(&["application/openmetrics-text;version=2.0.0"], Classic);
        check(&["application/openmetrics-text;q=0"], Classic);
        check(
            &["application/openmetrics-text;q=0.1, text/plain;q=0.2"],
            Classic,
        );
        check(
            &["application/openmetrics-text;q=0.2, text/plain;q=0.15"],
            OpenMetrics,
        );
        check(
            &["text/plain;q=0.3", "application/openmetrics-text;q=0.5"],
            OpenMetrics,
        );
        // Prometheus 2.53 and 3.x, as they ask.
        check(
            &["application/openmetrics-text;version=1.0.0;q=0.5,\
               application/openmetrics-text;version=0.0.1;q=0.4,\
               text/plain;version=0.0.4;q=0.3,*/*;q=0.2"],
            OpenMetrics,
        );
        check(
            &[
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,\
               application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
               text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,*/*;q=0.2",
            ],
            OpenMetrics,
        );
    }

    #[derive(Debug)]
    struct Some3;

    impl Collect for Some3 {
        fn collect(&self, samples: &mut Samples<'_>) {
            samples.counter("done", "What is done", 3);
            let by_kind = [([("kind", "# TYPE a\nb \"q\"")], 1)];
            samples.gauges("open", "What is open", by_kind);
            samples.histogram("took", "How long", 1.5, &[(1.0, 1), (f64::INFINITY, 1)]);
        }
    }

    #[test]
    fn the_classic_format_names_a_counter_whole_and_has_no_end() {
        let metrics = Metrics::empty();
        metrics.collect(Some3);
        let wanted = "# HELP done_total What is done
# TYPE done_total counter
done_total 3
# HELP open What is open
# TYPE open gauge
open{kind=\"# TYPE a\\nb \\\"q\\\"\"} 1
# HELP took How long
# TYPE took histogram
took_sum 1.5
took_count 2
took_bucket{le=\"1.0\"} 1
took_bucket{le=\"+Inf\"} 2
";
        assert_eq!(metrics.encode_as(Exposition::Classic), wanted);
        assert!(
            metrics
                .encode_as(Exposition::OpenMetrics)
                .ends_with("# EOF\n")
        );
        let said = "# HELP a A.\n# TYPE a info\n# UNIT a seconds\na_info 1\n# TYPE b unknown\nb 1\n# EOF\n";
        let wanted = "# HELP a_info A.\n# TYPE a_info gauge\na_info 1\n# TYPE b untyped\nb 1\n";
        assert_eq!(classic(said), wanted);
    }
}
