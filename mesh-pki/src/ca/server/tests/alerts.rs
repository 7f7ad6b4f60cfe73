//! Handshakes that the CA refuses: why is read, although more was sent.

use super::*;
use crate::testing::alert::{old_tls_is_refused, presenting, read_behind_a_request};
use crate::testing::leaf;

#[tokio::test]
async fn a_client_without_the_key_of_its_certificate_reads_why() {
    let world = world().await;
    let (client, _) = world.client(Token::Text(world.join_token().await));
    let (shown, bundle) = world.obtain(&client).await.unwrap();
    let held = leaf(CART).svid(&crate::testing::Ca::new("held"));
    let (_writer, reader) = identity(IdentityState::from_bundles(bundle.into()));
    let config = tls::client_config_at(reader, &crypto(), &[b"h2"], world.clock.shared());
    // The one is good, the other proves nothing, and neither is theirs.
    for (shown, held) in [(&shown, &held), (&held, &shown)] {
        let client = presenting(&config, shown, held);
        let alert = read_behind_a_request(world.address, &client).await;
        assert_eq!(alert, rustls::AlertDescription::DecryptError);
    }
}

#[tokio::test]
async fn a_client_of_an_old_tls_reads_why() {
    old_tls_is_refused(world().await.address).await;
}
