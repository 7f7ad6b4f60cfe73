//! Requests with a body that a server of HTTP/2 has not looked at, or may have.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Pair, Result, get, h2, origin_h2, plain_cart, soon, text};

/// The stream of the upload: the one before it is answered.
const STREAM: u8 = 3;
/// What is kept of a body that may have to be sent again.
const KEPT: usize = 64 * 1024;
/// 1 MiB in flight on each stream, and on the connection.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x04\0\x10\0\0\0\0\x04\x08\0\0\0\0\0\0\x10\0\0";
/// `:status: 200` with END_STREAM, by its place in the static table.
const OK: &[u8] = b"\0\0\x01\x01\x05\0\0\0\0\x88";

/// What a server does with the upload.
#[derive(Debug, Clone)]
struct Script {
    /// How many bytes of it come before.
    after: usize,
    says: Vec<u8>,
    /// Whether it ends the connection then.
    closes: bool,
}

/// What becomes of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is sent again, whole.
    Again,
    /// It is answered as the server has.
    Answered,
    /// It is answered by the mesh, and not sent again.
    Lost,
    /// It is sent again whole, or not at all: how much of it is on its way is not known.
    Either,
}

/// GOAWAY with the last stream that the server looks at.
fn goaway(last: u32, code: u8) -> Vec<u8> {
    let mut frame = b"\0\0\x08\x07\0\0\0\0\0".to_vec();
    frame.extend_from_slice(&last.to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0, code]);
    frame
}

fn of_upload(mut frame: Vec<u8>) -> Vec<u8> {
    frame[8] = STREAM;
    frame
}

fn reset(code: u8) -> Vec<u8> {
    of_upload([b"\0\0\x04\x03\0\0\0\0\0\0\0\0".as_slice(), &[code]].concat())
}

/// Follows the script on its first connection, and answers on all others with what it has read.
async fn scripted(script: Script) -> Result<(SocketAddr, Arc<AtomicUsize>)> {
    async fn first(mut stream: TcpStream, script: Script) -> std::io::Result<()> {
        stream.read_exact(&mut [0; 24]).await?;
        stream.write_all(SETTINGS).await?;
        let (mut read, mut says) = (0, Some(script.says));
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            match (head[3], head[8]) {
                (1, 1) => {
                    let mut answer = OK.to_vec();
                    answer[8] = 1;
                    stream.write_all(&answer).await?;
                }
                // Sent again on the same connection, which has no more of it.
                (1, id) if id > STREAM => {
                    stream.write_all(&goaway(u32::from(STREAM), 0)).await?;
                }
                (0, STREAM) => read += length,
                // The settings of the other side, which want to be acknowledged.
                (4, 0) if head[4] == 0 => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").await?,
                _ => {}
            }
            let begun = head[3] <= 1 && head[8] == STREAM;
            if begun
                && read >= script.after
                && let Some(says) = says.take()
            {
                stream.write_all(&says).await?;
                if script.closes {
                    return Ok(());
                }
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let behind = origin_h2(count).await?;
    let others = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&others);
    tokio::spawn(async move {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(first(stream, script));
        }
        while let Ok((mut stream, _)) = listener.accept().await {
            seen.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut to = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut stream, &mut to).await
            });
        }
    });
    Ok((address, others))
}

/// Answers with the bytes and trailers of a body.
async fn count(request: Request<Incoming>) -> Response<Body> {
    let text = match request.into_body().collect().await {
        Ok(all) => {
            let trailers = all.trailers().map_or(0, HeaderMap::len);
            format!("{} {trailers}", all.to_bytes().len())
        }
        Err(_) => "broken off".into(),
    };
    Response::new(Body::from(text))
}

/// A body of so many bytes: whole in memory, or in parts that come one after the other, with a trailer.
fn body(bytes: usize, in_memory: bool) -> Body {
    if in_memory {
        return Body::from(vec![b'x'; bytes]);
    }
    let parts = futures_util::stream::unfold(Some(0), move |sent| async move {
        let sent = sent?;
        tokio::task::yield_now().await;
        let (frame, next) = if sent == bytes {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", HeaderValue::from_static("7"));
            (Frame::trailers(trailers), None)
        } else {
            let part = (bytes - sent).min(7_000);
            let frame = Frame::data(Bytes::from(vec![b'x'; part]));
            (frame, Some(sent + part))
        };
        Some((Ok::<_, std::io::Error>(frame), next))
    });
    Body::new(StreamBody::new(Box::pin(parts)))
}

/// Sends an upload of so many bytes to a server of that script: by both agents, or by that of its
/// caller alone.
async fn check(script: &Script, bytes: usize, fate: Fate) -> Result {
    for (agents, in_memory, own) in [
        (true, true, true),
        (true, false, false),
        (false, true, false),
        (false, false, true),
    ] {
        let at = format!("{agents} {in_memory} {own} {bytes} {script:?}");
        let (app, others) = scripted(script.clone()).await?;
        let pair = Pair::new(AppProtocol::Http2, app).await?;
        if !agents {
            plain_cart(&pair, app).await?;
        }
        let (client, mut caller) = (pair.web.client(), h2(pair.outbound).await?);
        let first = soon(client.send(get("http://cart/"))).await?;
        assert_eq!(first.status(), StatusCode::OK, "{at}");
        let mut request = get("http://cart/");
        *request.method_mut() = Method::POST;
        *request.body_mut() = body(bytes, in_memory);
        let answer = if own {
            soon(client.send(request))
                .await
                .map_err(|e| format!("{at}: {e}"))?
        } else {
            let sent = soon(caller.send_request(request)).await;
            sent.map_err(|e| format!("{at}: {e}"))??.map(Body::new)
        };
        let (status, others) = (answer.status(), others.load(Ordering::SeqCst));
        let reason = answer.headers().get("x-mesh-reason").cloned();
        let reason = reason.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let whole = format!("{bytes} {}", u8::from(!in_memory));
        let seen = text(answer).await.map_err(|e| format!("{at}: {e}"))?;
        let again = status == StatusCode::OK && seen == whole && others == 1;
        let lost = status == StatusCode::BAD_GATEWAY
            && others == 0
            && [&b"reset"[..], b"stale", b"upload-cut"].contains(&reason);
        let right = match fate {
            Fate::Again => again,
            Fate::Answered => status == StatusCode::OK && seen.is_empty() && others == 0,
            Fate::Lost => lost,
            Fate::Either => again || lost,
        };
        assert!(right, "{at}: {status} {reason:?} {seen} {others}");
    }
    Ok(())
}

/// Streams above the last one of a GOAWAY, and those that are refused, no server has looked at (RFC 9113
/// section 8.7). They are sent again as long as all that was sent of them is kept.
#[tokio::test]
async fn an_upload_that_no_server_has_looked_at_is_sent_again_whole() -> Result {
    let last = u32::from(STREAM) - 2;
    for says in [
        goaway(last, 0),
        goaway(0, 0),
        // For a reason of its own.
        goaway(last, 11),
        // A server in two steps, as most go down.
        [goaway(u32::MAX >> 1, 0), goaway(last, 0)].concat(),
        reset(7),
    ] {
        for (bytes, after, fate) in [
            (5, 0, Fate::Again),
            (5, 5, Fate::Again),
            (60_000, 20_000, Fate::Again),
            (60_000, 60_000, Fate::Again),
            (KEPT, KEPT, Fate::Again),
            (200_000, 0, Fate::Either),
            (200_000, KEPT + 1, Fate::Lost),
            (200_000, 200_000, Fate::Lost),
        ] {
            let says = says.clone();
            let script = Script {
                after,
                says,
                closes: false,
            };
            check(&script, bytes, fate).await?;
        }
    }
    Ok(())
}

/// What a server may have acted on is not sent a second time where that may do harm.
#[tokio::test]
async fn an_upload_that_a_server_may_have_looked_at_is_not_sent_again() -> Result {
    let at = u32::from(STREAM);
    for (says, closes, fate) in [
        (goaway(at, 0), true, Fate::Lost),
        (goaway(at + 2, 0), true, Fate::Lost),
        (goaway(u32::MAX >> 1, 0), true, Fate::Lost),
        (goaway(at, 2), true, Fate::Lost),
        // Not a word.
        (Vec::new(), true, Fate::Lost),
        (reset(0), false, Fate::Lost),
        (reset(2), false, Fate::Lost),
        (reset(8), false, Fate::Lost),
        (reset(11), false, Fate::Lost),
        // It goes down, and finishes what it has begun.
        (
            [goaway(at, 0), of_upload(OK.to_vec())].concat(),
            false,
            Fate::Answered,
        ),
        (
            [goaway(u32::MAX >> 1, 0), of_upload(OK.to_vec())].concat(),
            false,
            Fate::Answered,
        ),
    ] {
        for (bytes, after) in [(5, 0), (5, 5), (60_000, 20_000), (200_000, 100_000)] {
            let says = says.clone();
            let script = Script {
                after,
                says,
                closes,
            };
            check(&script, bytes, fate).await?;
        }
    }
    Ok(())
}
