//! Handshakes that our endpoint refuses: why is read, although more was sent.

use std::net::SocketAddr;

use rustls::AlertDescription;

use super::*;
use crate::testing::alert::{old_tls_is_refused, presenting, read_behind_a_request};

/// Our endpoint under `ca`, by its SVID.
async fn served(ca: &Ca) -> (SocketAddr, impl Drop + use<>) {
    struct Task(JoinHandle<()>);
    impl Drop for Task {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    let bundle = ca.bundle("other.example");
    let state = IdentityState::new(leaf(SERVER).svid(ca), bundle.into());
    let (_, reader) = identity(state);
    let clock = ManualClock::new(noon()).shared();
    let endpoint = BundleEndpoint::new(domain("other.example"), "/", reader, &crypto(), clock);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(endpoint.serve(listener, pending()));
    (address, Task(task))
}

#[tokio::test]
async fn a_client_whose_certificate_is_refused_reads_why() {
    let ca = Ca::new("root");
    let (address, _task) = served(&ca).await;
    let state = IdentityState::from_bundles(ca.bundle("other.example").into());
    let (_writer, reader) = identity(state);
    let clock = ManualClock::new(noon()).shared();
    let config = tls::client_config_at(reader, &crypto(), &[b"http/1.1"], clock);
    let good = leaf("spiffe://other.example/x").svid(&ca);
    let foreign = leaf("spiffe://other.example/x").svid(&Ca::new("foreign"));
    for (shown, held, expected) in [
        (&foreign, &foreign, AlertDescription::UnknownCA),
        (&good, &foreign, AlertDescription::DecryptError),
    ] {
        let client = presenting(&config, shown, held);
        let alert = read_behind_a_request(address, &client).await;
        assert_eq!(alert, expected);
    }
}

#[tokio::test]
async fn a_client_of_an_old_tls_reads_why() {
    let (address, _task) = served(&Ca::new("root")).await;
    old_tls_is_refused(address).await;
}
