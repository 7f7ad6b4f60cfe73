//! Which server a handshake names, whatever way its bytes come.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::io::ReadBuf;

use super::*;

/// Hands out bytes, so many at once, and then ends or stays silent.
struct Bytes {
    left: Vec<u8>,
    each: usize,
    ends: bool,
}

impl AsyncRead for Bytes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let many = self.each.min(self.left.len()).min(into.remaining());
        if many == 0 && !self.ends {
            return Poll::Pending;
        }
        into.put_slice(&self.left.drain(..many).collect::<Vec<_>>());
        Poll::Ready(Ok(()))
    }
}

/// The first flight of a client that asks for a server, and may say so.
fn first(server: &str, named: bool) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(RootCertStore::empty());
    let mut config = config.with_no_client_auth();
    config.enable_sni = named;
    let server = ServerName::try_from(server.to_owned()).expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), server).expect("a client");
    let mut out = Vec::new();
    client.write_tls(&mut out).expect("it is written");
    out
}

async fn read(bytes: &[u8], each: usize, ends: bool) -> Hello {
    let mut stream = Bytes {
        left: bytes.to_vec(),
        each,
        ends,
    };
    hello(&mut stream, Instant::now() + Duration::from_secs(1)).await
}

/// A message cut into several records.
fn cut(record: &[u8], at: usize) -> Vec<u8> {
    let (head, body) = record.split_at(5);
    let mut out = Vec::new();
    for part in body.chunks(at) {
        out.extend(&head[..3]);
        out.extend(
            u16::try_from(part.len())
                .expect("it is short")
                .to_be_bytes(),
        );
        out.extend(part);
    }
    out
}

fn named(server: &str) -> Option<Said> {
    let server = Some(server.to_owned());
    Some(Said { server })
}

#[tokio::test(start_paused = true)]
async fn the_name_is_read_however_the_bytes_come() {
    let whole = first("A.Example.com", true);
    for bytes in [whole.clone(), cut(&whole, 7), cut(&whole, 100)] {
        for each in [1, 3, 64, bytes.len()] {
            let seen = read(&bytes, each, false).await;
            assert_eq!(seen.said, named("a.example.com"), "{each} at once");
            // It is a prefix of what was sent, and nothing is lost.
            assert_eq!(seen.bytes, bytes[..seen.bytes.len()]);
        }
    }
    let nameless = read(&first("a.example.com", false), 64, false).await;
    assert_eq!(nameless.said, Some(Said { server: None }));
    let address = read(&first("10.0.0.1", true), 64, false).await;
    assert_eq!(address.said, Some(Said { server: None }));
}

#[tokio::test(start_paused = true)]
async fn what_follows_the_message_is_kept() {
    let mut bytes = first("a.example.com", true);
    bytes.extend([0x17, 3, 3, 0, 1, 9]);
    let seen = read(&bytes, bytes.len(), false).await;
    assert_eq!((seen.said, seen.bytes), (named("a.example.com"), bytes));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_whole_message_names_nothing() {
    let whole = first("a.example.com", true);
    let half = &whole[..whole.len() / 2];
    // Silence ends with the deadline.
    for (bytes, ends) in [
        (half, true),
        (half, false),
        (&[][..], true),
        (&[][..], false),
    ] {
        let seen = read(bytes, 64, ends).await;
        assert_eq!((seen.said, &seen.bytes[..]), (None, bytes));
    }
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"SSH-2.0-x\r\n",
        &[0x16, 3, 1, 0xff, 0xff],
    ] {
        assert_eq!(read(bytes, 64, true).await.said, None, "{bytes:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_read_is_bounded() {
    // A message that claims to be long, in records that hold a byte each.
    let mut bytes = vec![0x16, 3, 1, 0, 4, 1, 0, 0xff, 0xff];
    for _ in 0..20_000 {
        bytes.extend([0x16, 3, 1, 0, 1, 0]);
    }
    let seen = read(&bytes, 4_096, false).await;
    assert_eq!(seen.said, None);
    assert!(seen.bytes.len() <= MOST, "{}", seen.bytes.len());
}
