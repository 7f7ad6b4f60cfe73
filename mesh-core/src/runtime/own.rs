//! Which callers would be led to this process itself, instead of to its application. Pure.
//!
//! Where the port of a caller says where the application is, one that connects to the listener's own port,
//! past any redirection, would be led back to it, again and again. One that names another port of this process
//! would reach, by way of loopback, what is bound there so that no other host reaches it.

use std::net::SocketAddr;

use super::listen::{Application, InboundListener};

/// What a listener whose callers choose a port must keep to itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Own {
    app: Application,
    /// Where the listener is bound.
    bound: Option<SocketAddr>,
    ports: Vec<u16>,
}

// === impl Own ===

impl Own {
    /// That of a listener which is bound there; one whose application is always at one address has none.
    pub(super) fn of(to: &InboundListener, bound: Option<SocketAddr>) -> Option<Self> {
        match to.app {
            Application::At(_) => None,
            Application::SamePort(_) => Some(Self {
                app: to.app,
                bound,
                ports: to.own_ports.clone(),
            }),
        }
    }

    /// The port that a caller of `original` may not reach, if it is one.
    pub(super) fn port(&self, original: SocketAddr) -> Option<u16> {
        let address = self.app.address(original);
        let port = address.port();
        let leads_back = self.bound.is_some_and(|bound| {
            let (ip, app) = (bound.ip().to_canonical(), address.ip().to_canonical());
            bound.port() == port && (ip.is_unspecified() || ip == app)
        });
        (leads_back || self.ports.contains(&port)).then_some(port)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::model::AppProtocol;

    #[test]
    fn a_caller_is_led_to_the_application_and_never_back() {
        let app = Application::SamePort(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let to = InboundListener::new(app, AppProtocol::Detect).beside([15_000, 15_001]);
        for (bound, original, expected) in [
            ("0.0.0.0:15006", "10.1.0.2:8080", None),
            ("0.0.0.0:15006", "10.1.0.2:15006", Some(15_006)),
            ("[::]:15006", "[fd01::2]:15006", Some(15_006)),
            ("127.0.0.1:15006", "10.1.0.2:15006", Some(15_006)),
            ("[::ffff:127.0.0.1]:15006", "10.1.0.2:15006", Some(15_006)),
            // The application's address is another.
            ("10.1.0.2:15006", "10.1.0.2:15006", None),
            ("0.0.0.0:15006", "10.1.0.2:15000", Some(15_000)),
            ("0.0.0.0:15006", "[fd01::2]:15001", Some(15_001)),
        ] {
            let bound = bound.parse().expect("an address");
            let own = Own::of(&to, Some(bound)).expect("its callers choose");
            let original = original.parse().expect("an address");
            assert_eq!(own.port(original), expected, "{bound} {original}");
        }
        let fixed = SocketAddr::from(([127, 0, 0, 1], 8_080));
        let to = InboundListener::new(fixed, AppProtocol::Detect).beside([15_000]);
        assert_eq!(Own::of(&to, None), None);
    }
}
