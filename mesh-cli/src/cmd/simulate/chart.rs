//! The time line as lines of text: a row for each endpoint, a column for each part of the time.

use inmesh_core::simulate::{Column, Outcome};

use crate::term::{self, Colour};

/// The most endpoints that have a row.
const ROWS: usize = 24;
/// What stands for a share, from none to the largest.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// What stands for an endpoint that is ejected by most callers.
const EJECTED: char = '×';

/// The lines of the chart.
pub(super) fn lines(outcome: &Outcome) -> Vec<String> {
    let seconds = outcome.column_millis;
    let mut out = vec![format!(
        "share of each endpoint; a column is {}, × is ejected by most callers",
        span(seconds * 1_000)
    )];
    let names: Vec<String> = outcome
        .endpoints
        .iter()
        .map(|endpoint| format!("{} {}", endpoint.address, endpoint.services.join(" ")))
        .collect();
    let width = names
        .iter()
        .take(ROWS)
        .map(|name| name.chars().count())
        .max();
    let width = width.unwrap_or_default().max("success".len());
    let highest = outcome.timeline.iter().flat_map(|column| {
        let all = column.attempts.iter().sum::<u64>();
        column
            .attempts
            .iter()
            .map(move |attempts| permille(*attempts, all))
    });
    let highest = highest.max().unwrap_or_default().max(1);
    let whole = outcome.whole.attempts;
    for (nth, name) in names.iter().enumerate().take(ROWS) {
        let row = outcome.timeline.iter().map(|column| {
            let out = column
                .ejected_percent
                .get(nth)
                .is_some_and(|percent| *percent >= 50);
            let all = column.attempts.iter().sum();
            let share = permille(column.attempts.get(nth).copied().unwrap_or_default(), all);
            match out {
                true => (EJECTED, true),
                false => (bar(share, highest), false),
            }
        });
        let address = outcome.endpoints[nth].address;
        let share = permille(whole_of(outcome, address), whole);
        let share = format!("{}.{} %", share / 10, share % 10);
        out.push(format!("{name:<width$} {} {share:>7}", painted(row)));
    }
    if names.len() > ROWS {
        out.push(format!(
            "... and {} more, which --json prints",
            names.len() - ROWS
        ));
    }
    let success = outcome.timeline.iter().map(|column| {
        let failed = column.succeeded < column.requests;
        (
            bar(permille(column.succeeded, column.requests), 1_000),
            failed,
        )
    });
    out.push(format!("{:<width$} {}", "success", painted(success)));
    let slowest = outcome
        .timeline
        .iter()
        .map(|column| column.p99_micros)
        .max();
    let slowest = slowest.unwrap_or_default().max(1);
    let slow = outcome
        .timeline
        .iter()
        .map(|column| (bar(column.p99_micros, slowest), false));
    let most = span(slowest);
    out.push(format!("{:<width$} {} {most:>7}", "p99", painted(slow)));
    if outcome.timeline.iter().any(|column| column.panic) {
        let panic = |column: &Column| match column.panic {
            true => ('!', true),
            false => (' ', false),
        };
        let row = outcome.timeline.iter().map(panic);
        out.push(format!("{:<width$} {}", "panic", painted(row)));
    }
    out
}

fn whole_of(outcome: &Outcome, address: std::net::SocketAddr) -> u64 {
    let attempts = outcome.whole.endpoints.get(&address);
    attempts.copied().unwrap_or_default()
}

/// A row, of which some columns are red.
fn painted(columns: impl Iterator<Item = (char, bool)>) -> String {
    let columns: Vec<_> = columns.collect();
    let runs = columns.chunk_by(|(_, a), (_, b)| a == b);
    let run = |run: &[(char, bool)]| {
        let text: String = run.iter().map(|(c, _)| c).collect();
        match run.first() {
            Some((_, true)) => term::paint(Colour::Red, &text),
            _ => text,
        }
    };
    runs.map(run).collect()
}

fn bar(part: u64, most: u64) -> char {
    let steps = BARS.len() as u64 - 1;
    // What is not nothing is seen.
    let nth = (part * steps).div_ceil(most.max(1)).min(steps);
    usize::try_from(nth).map_or(' ', |nth| BARS[nth])
}

/// 1,000 where there is nothing to divide by.
fn permille(part: u64, of: u64) -> u64 {
    (part * 1_000).checked_div(of).unwrap_or(1_000)
}

/// Microseconds, as a person reads them.
pub(super) fn span(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} µs"),
        1_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{} s", micros / 1_000_000, micros % 1_000_000 / 100_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_and_nothing_is_no_bar() {
        let bars: String = [0, 1, 500, 999, 1_000]
            .map(|part| bar(part, 1_000))
            .iter()
            .collect();
        assert_eq!(bars, " ▁▄██");
        assert_eq!(bar(7, 0), '█');
    }

    #[test]
    fn spans_have_their_unit() {
        let spans = [999, 1_000, 12_345, 999_999, 1_000_000, 61_250_000].map(span);
        assert_eq!(
            spans,
            ["999 µs", "1.0 ms", "12.3 ms", "999.9 ms", "1.0 s", "61.2 s"]
        );
    }
}
