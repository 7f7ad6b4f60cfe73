//! The log: one subscriber for the process, its filter settable at run time.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;

use clap::ValueEnum;
use inmesh_core::runtime::LogLevel;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt, reload};

/// The form of the log's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line of JSON for each event.
    Json,
    /// For people.
    Text,
}

/// What is left out unless a filter names it: each refusal of an API server as an error, which the state
/// of its source says once.
const QUIET: &str = "kube_client=off";

/// Reads a filter. A word without `=` is a level: the library takes any other for a target.
fn read(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| level.eq_ignore_ascii_case(word));
    let mut words = filter
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty());
    if let Some(word) = words.find(|word| !word.contains(['=', '[']) && !is_level(word)) {
        let levels = LEVELS.join(", ");
        return Err(format!(
            "`{word}` is not a level ({levels}), nor TARGET=LEVEL"
        ));
    }
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|e| e.to_string())
}

/// Sets the process's subscriber; returns how to change its filter. The log goes to stderr.
///
/// # Errors
///
/// If `filter` is invalid (see tracing-subscriber's `EnvFilter`).
pub(crate) fn init(filter: &str, format: Format) -> anyhow::Result<LogLevel> {
    let filter = read(filter).map_err(anyhow::Error::msg)?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Json => registry
            .with(fmt::layer().json().with_writer(stderr))
            .try_init()?,
        Format::Text => registry
            .with(
                fmt::layer()
                    .with_ansi(stderr().is_terminal())
                    .with_writer(stderr),
            )
            .try_init()?,
    }
    Ok(Arc::new(move |level: &str| {
        handle.reload(read(level)?).map_err(|e| e.to_string())
    }))
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::filter::LevelFilter;

    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for good in [
            "info",
            "Debug",
            "warn,hyper=debug",
            "inmesh_core=trace",
            "off,h2=info",
        ] {
            assert!(read(good).is_ok(), "{good}");
        }
        for bad in ["debgu", "info,hyper", "hyper=loud"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_quiet_speaks_where_a_filter_names_it() {
        for (filter, most) in [
            ("off", LevelFilter::OFF),
            ("info", LevelFilter::INFO),
            ("off,kube_client=trace", LevelFilter::TRACE),
        ] {
            let read = read(filter).expect("it is a filter");
            assert_eq!(read.max_level_hint(), Some(most), "{filter}");
        }
    }
}
