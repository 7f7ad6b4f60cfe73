//! The time line as a picture: the shares of endpoints one on the other, success, and latency.

use std::fmt::Write;

use inmesh_core::simulate::{Column, Outcome};

use super::chart::span;

/// The endpoints that have a colour of their own; further ones share the last.
const COLOURS: [&str; 12] = [
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#76b7b2", "#edc948", "#b07aa1", "#ff9da7",
    "#9c755f", "#bab0ac", "#86bcb6", "#d37295",
];
/// The most endpoints that are named beside the picture.
const NAMED: usize = 24;
const LEFT: f64 = 60.0;
const WIDTH: f64 = 720.0;
/// The heights of the three parts, and where each begins.
const SHARES: (f64, f64) = (40.0, 260.0);
const SUCCESS: (f64, f64) = (340.0, 90.0);
const LATENCY: (f64, f64) = (470.0, 90.0);

/// The picture.
pub(super) fn text(file: &str, outcome: &Outcome) -> String {
    let mut out = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 1080 600\" width=\"1080\" height=\"600\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"1080\" height=\"600\" fill=\"#fff\"/>\n",
    );
    let whole = &outcome.whole;
    let title = format!(
        "{file}: {} requests, {:.3} % succeeded, amplification {:.3}, {} ejections",
        whole.requests, whole.success_percent, whole.amplification, whole.ejections
    );
    label(&mut out, (LEFT, 22.0), "start", &title);
    shares(&mut out, outcome);
    let success = |column: &Column| part(column.succeeded, column.requests);
    line(
        &mut out,
        outcome,
        SUCCESS,
        ("success, 0 to 100 %", "#59a14f"),
        &success,
    );
    let slowest = outcome
        .timeline
        .iter()
        .map(|column| column.p99_micros)
        .max();
    let slowest = slowest.unwrap_or_default().max(1);
    let p99 = |column: &Column| part(column.p99_micros, slowest);
    let name = format!("p99, 0 to {}", span(slowest));
    line(&mut out, outcome, LATENCY, (&name, "#e15759"), &p99);
    for nth in 0..=6_u32 {
        let at = f64::from(nth) / 6.0;
        let time = span_of(whole.length().as_secs_f64() * at);
        label(&mut out, (LEFT + WIDTH * at, 585.0), "middle", &time);
    }
    out + "</svg>\n"
}

/// The attempts at each endpoint of each column, one on the other.
fn shares(out: &mut String, outcome: &Outcome) {
    let (top, height) = SHARES;
    label(
        out,
        (LEFT, top - 4.0),
        "start",
        "share of each endpoint; a dark line is an ejection",
    );
    let columns = outcome.timeline.len();
    let (mut below, mut marks) = (vec![0.0; columns], String::new());
    for (nth, endpoint) in outcome.endpoints.iter().enumerate() {
        let colour = COLOURS[nth.min(COLOURS.len() - 1)];
        let (mut upper, mut lower) = (String::new(), Vec::new());
        for (at, column) in outcome.timeline.iter().enumerate() {
            let all = column.attempts.iter().sum();
            let attempts = column.attempts.get(nth).copied().unwrap_or_default();
            // Where nothing was sent nothing has a share.
            let share = if all == 0 { 0.0 } else { part(attempts, all) };
            let (from, to) = edges(at, columns);
            let low = top + height * (1.0 - below[at]);
            below[at] += share;
            let high = top + height * (1.0 - below[at]);
            let _written = write!(upper, "{from:.1},{high:.1} {to:.1},{high:.1} ");
            lower.push(format!("{to:.1},{low:.1} {from:.1},{low:.1} "));
            if column
                .ejected_percent
                .get(nth)
                .is_some_and(|percent| *percent >= 50)
            {
                let _written = writeln!(
                    marks,
                    "<line x1=\"{from:.1}\" y1=\"{high:.1}\" x2=\"{to:.1}\" y2=\"{high:.1}\" \
                     stroke=\"#222\" stroke-width=\"2\"/>"
                );
            }
        }
        let lower: String = lower.into_iter().rev().collect();
        let _written = writeln!(
            out,
            "<polygon points=\"{upper}{lower}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>"
        );
        if nth < NAMED {
            let (x, y) = (
                LEFT + WIDTH + 16.0,
                top + 14.0 * f64::from(u8::try_from(nth).unwrap_or(u8::MAX)),
            );
            let _written = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>"
            );
            let name = format!("{} {}", endpoint.address, endpoint.services.join(" "));
            label(out, (x + 14.0, y + 9.0), "start", &name);
        }
    }
    *out += &marks;
}

/// A line of a value from 0 to 1 in each column.
fn line(
    out: &mut String,
    outcome: &Outcome,
    (top, height): (f64, f64),
    (name, colour): (&str, &str),
    value: &dyn Fn(&Column) -> f64,
) {
    label(out, (LEFT, top - 4.0), "start", name);
    let columns = outcome.timeline.len();
    let mut points = String::new();
    for (at, column) in outcome.timeline.iter().enumerate() {
        let (from, to) = edges(at, columns);
        let y = top + height * (1.0 - value(column).clamp(0.0, 1.0));
        let _written = write!(points, "{from:.1},{y:.1} {to:.1},{y:.1} ");
    }
    let _written = writeln!(
        out,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{height}\" fill=\"#f4f4f4\"/>\n\
         <polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
    );
}

/// Where a column begins and ends.
fn edges(nth: usize, columns: usize) -> (f64, f64) {
    let of = |nth: usize| {
        let (nth, columns) = (u32::try_from(nth), u32::try_from(columns.max(1)));
        let (nth, columns) = (nth.unwrap_or(u32::MAX), columns.unwrap_or(u32::MAX));
        LEFT + WIDTH * f64::from(nth) / f64::from(columns)
    };
    (of(nth), of(nth + 1))
}

/// A part of something, from 0 to 1; 1 where there is nothing.
fn part(part: u64, of: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let quotient = part as f64 / of as f64;
    if of == 0 { 1.0 } else { quotient }
}

fn span_of(seconds: f64) -> String {
    match seconds {
        0.0..120.0 => format!("{seconds:.1} s"),
        _ => format!("{:.1} min", seconds / 60.0),
    }
}

fn label(out: &mut String, (x, y): (f64, f64), anchor: &str, text: &str) {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    let _written = writeln!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}
