//! An error in, what it says out, in words: rustls shows parts of its errors as its source code names them.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, Error as TlsError};

/// What an error says. One of TLS, also inside an I/O error, is said in words, without the names that the
/// library has for it; any other as it displays itself.
///
/// ```
/// use inmesh_pki::tls::words_of;
///
/// let error = std::io::Error::other("the disk is full");
/// assert_eq!(words_of(&error), "the disk is full");
/// ```
#[must_use]
pub fn words_of(error: &(dyn Error + 'static)) -> String {
    let inside = error
        .downcast_ref::<io::Error>()
        .and_then(|error| error.get_ref()?.downcast_ref::<TlsError>());
    match inside.or_else(|| error.downcast_ref()) {
        Some(tls) => fault(tls),
        None => error.to_string(),
    }
}

fn fault(error: &TlsError) -> String {
    match error {
        TlsError::AlertReceived(alert) => {
            format!("the peer sent the TLS alert {}", self::alert(*alert))
        }
        TlsError::InappropriateHandshakeMessage { .. } | TlsError::InappropriateMessage { .. } => {
            "a TLS message came out of turn".to_owned()
        }
        TlsError::InvalidCertRevocationList(why) => {
            format!(
                "a revocation list cannot be used ({})",
                words(&format!("{why:?}"))
            )
        }
        TlsError::InvalidCertificate(why) => {
            format!(
                "the certificate cannot be used ({})",
                words(&format!("{why:?}"))
            )
        }
        TlsError::InvalidMessage(what) => {
            format!(
                "a TLS message is malformed ({})",
                words(&format!("{what:?}"))
            )
        }
        TlsError::InconsistentKeys(why) => {
            format!(
                "certificate and key do not match ({})",
                words(&format!("{why:?}"))
            )
        }
        TlsError::PeerIncompatible(why) => {
            format!(
                "the peer offers no TLS that is taken ({})",
                words(&format!("{why:?}"))
            )
        }
        TlsError::PeerMisbehaved(how) => {
            format!(
                "the peer breaks the TLS protocol ({})",
                words(&format!("{how:?}"))
            )
        }
        other => other.to_string(),
    }
}

/// The name of an alert as its standard writes it (RFC 8446, section 6), e.g. `certificate_expired`.
pub(super) fn alert(alert: AlertDescription) -> String {
    let number = u8::from(alert);
    let Some(name) = alert.as_str() else {
        return number.to_string();
    };
    let mut text = String::new();
    let mut small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && small {
            text.push('_');
        }
        small = c.is_ascii_lowercase();
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// A name of source code as words: `HandshakePayloadTooLarge` is "handshake payload too large". What stands
/// behind the name, as a field's value, is left out.
fn words(name: &str) -> String {
    let end = name.find(|c: char| !c.is_ascii_alphanumeric());
    let name = &name[..end.unwrap_or(name.len())];
    let mut text = String::new();
    let mut small = false;
    for c in name.chars() {
        if c.is_ascii_uppercase() && small {
            text.push(' ');
        }
        small = !c.is_ascii_uppercase();
        text.push(c.to_ascii_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use rustls::{CertificateError, InvalidMessage, PeerIncompatible};

    use super::*;

    #[test]
    fn an_error_of_tls_is_said_in_words() {
        for (error, said) in [
            (
                TlsError::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge),
                "a TLS message is malformed (handshake payload too large)",
            ),
            (
                TlsError::InvalidMessage(InvalidMessage::MissingData("SessionId")),
                "a TLS message is malformed (missing data)",
            ),
            (
                TlsError::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic),
                "the peer offers no TLS that is taken (tls13 required for quic)",
            ),
            (
                TlsError::InvalidCertificate(CertificateError::UnknownIssuer),
                "the certificate cannot be used (unknown issuer)",
            ),
            (
                TlsError::AlertReceived(AlertDescription::CertificateExpired),
                "the peer sent the TLS alert certificate_expired",
            ),
            (TlsError::DecryptError, "cannot decrypt peer's message"),
        ] {
            assert_eq!(words_of(&error), said);
            let inside = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(words_of(&inside), said, "inside an I/O error");
        }
    }
}
