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

/// Sets the process's subscriber; returns how to change its filter. The log goes to stderr.
///
/// # Errors
///
/// If `filter` is invalid (see tracing-subscriber's `EnvFilter`).
pub(crate) fn init(filter: &str, format: Format) -> anyhow::Result<LogLevel> {
    let filter = EnvFilter::try_new(filter)?;
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
        let filter = EnvFilter::try_new(level).map_err(|e| e.to_string())?;
        handle.reload(filter).map_err(|e| e.to_string())
    }))
}
