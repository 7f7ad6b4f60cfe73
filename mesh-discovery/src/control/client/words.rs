//! Errors as an operator reads them.

/// How a stream has ended.
pub(super) fn shown(status: &tonic::Status) -> String {
    let message: String = status.message().chars().take(256).collect();
    format!("{:?}: {message}", status.code())
}

/// An error and what it is because of.
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
