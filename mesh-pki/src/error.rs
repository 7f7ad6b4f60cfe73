//! An error in, one line out that names its causes too.

use crate::tls::words_of;

/// An error with its causes, for a reason in one line.
pub(crate) fn chain_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = words_of(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&words_of(error));
        cause = error.source();
    }
    text
}
