//! Uploads that their caller breaks off: no server is given half a request as a whole one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::h2::Reason;
use ::http::{Request, Response, header};
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use inmesh_core::Body;
use inmesh_core::model::AppProtocol;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

use crate::support::{Pair, Result, get, peer, plain_cart, soon};

/// What a server has seen of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Met {
    /// All that its caller sends of it.
    Half,
    /// An end that says that it is whole.
    End,
    /// An end that says that it is not, with the code of a reset if there is one.
    Cut(Option<u32>),
}

/// The server of `cart`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum App {
    Http1,
    Http2,
    InProcess,
}

/// How an upload comes there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By both agents.
    Both,
    /// By the agent of its caller alone, to a server outside the mesh.
    Outbound,
    /// By the agent of its server alone.
    Inbound,
    /// From the program that embeds the mesh.
    Client,
}

/// One upload.
#[derive(Debug, Clone, Copy)]
struct Upload {
    code: Reason,
    /// Whether its length is stated.
    length: bool,
    /// Whether the answer has begun before it is broken off.
    answered: bool,
}

/// Tells what comes of uploads, and begins to answer while `answers` is set.
#[derive(Clone)]
struct Watch {
    met: UnboundedSender<Met>,
    answers: Arc<AtomicBool>,
}

impl Watch {
    fn tell(&self, met: Met) {
        let _test_has_ended = self.met.send(met);
    }

    fn answers(&self) -> bool {
        self.answers.load(Ordering::SeqCst)
    }
}

async fn http1(watch: Watch) -> Result<SocketAddr> {
    async fn serve(mut stream: TcpStream, watch: Watch) -> std::io::Result<()> {
        let mut all = Vec::new();
        while !all.windows(4).any(|part| part == b"half") {
            all.push(stream.read_u8().await?);
        }
        if watch.answers() {
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            stream.write_all(head).await?;
        }
        watch.tell(Met::Half);
        let begin = all.len();
        let _reset = stream.read_to_end(&mut all).await;
        // Of ten bytes four have come; a chunk ends with a line of its own.
        let whole = all.ends_with(b"0\r\n\r\n") || all.len() - begin >= 6;
        watch.tell(if whole { Met::End } else { Met::Cut(None) });
        Ok(())
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, watch.clone()));
        }
    });
    Ok(address)
}

/// Reads frames by hand.
async fn http2(watch: Watch) -> Result<SocketAddr> {
    async fn serve(mut stream: TcpStream, watch: Watch) -> std::io::Result<()> {
        stream.read_exact(&mut [0; 24]).await?;
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await?;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            match head[3] {
                0 | 1 if head[4] & 1 == 1 => watch.tell(Met::End),
                0 if payload == b"half" => {
                    if watch.answers() {
                        let mut answer = *b"\0\0\x01\x01\x04\0\0\0\0\x88";
                        answer[5..9].copy_from_slice(&head[5..9]);
                        stream.write_all(&answer).await?;
                    }
                    watch.tell(Met::Half);
                }
                3 => {
                    let code = payload.iter().fold(0, |n, b| n << 8 | u32::from(*b));
                    watch.tell(Met::Cut(Some(code)));
                }
                // The settings of the other side, which want to be acknowledged.
                4 if head[4] == 0 => stream.write_all(b"\0\0\0\x04\x01\0\0\0\0").await?,
                _ => {}
            }
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, watch.clone()));
        }
    });
    Ok(address)
}

/// A service in the process of the mesh of `cart`, whose bodies are read by tasks of their own.
async fn in_process(pair: &Pair, watch: Watch) -> Result<SocketAddr> {
    let service = tower::service_fn(move |request: Request<Body>| {
        let watch = watch.clone();
        async move {
            let (mut body, reading) = (request.into_body(), watch.clone());
            let (tell, begun) = tokio::sync::oneshot::channel();
            tokio::spawn(async move {
                let first = body.frame().await.and_then(std::result::Result::ok);
                if first.is_some_and(|frame| frame.data_ref().is_some_and(|part| part == "half")) {
                    let _gone = tell.send(());
                    reading.tell(Met::Half);
                }
                let rest = body.collect().await;
                reading.tell(rest.map_or(Met::Cut(None), |_| Met::End));
            });
            let _begun = begun.await;
            if !watch.answers() {
                std::future::pending::<()>().await;
            }
            let more = futures_util::stream::pending::<std::io::Result<Frame<Bytes>>>();
            Ok::<_, inmesh_core::BoxError>(Response::new(Body::new(StreamBody::new(more))))
        }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let cart = pair.cart.clone();
    tokio::spawn(async move { cart.serve(listener, service).await });
    let mut snapshot = pair.web.snapshot().clone();
    let change = pair.world.service("cart", AppProtocol::Http2, &[address])?;
    pair.pusher.push(change).await?;
    while snapshot.load().generation() < 2 {
        soon(snapshot.changed()).await?;
    }
    Ok(address)
}

/// Sends a part of an upload over HTTP/2 and resets its stream.
async fn broken_off<T>(io: T, upload: Upload, met: &mut UnboundedReceiver<Met>) -> Result<Met>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = ::h2::client::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let mut request = Request::post("http://cart/");
    if upload.length {
        request = request.header(header::CONTENT_LENGTH, "10");
    }
    let (response, mut body) = sender.send_request(request.body(())?, false)?;
    body.send_data(Bytes::from_static(b"half"), false)?;
    let half = soon(met.recv()).await?.ok_or("no server")?;
    assert_eq!(half, Met::Half);
    // Held, since to let go of it is to reset the stream as well.
    let (_answer, _waiting) = match upload.answered {
        true => (Some(soon(response).await??), None),
        false => (None, Some(response)),
    };
    body.send_reset(upload.code);
    let end = soon(met.recv()).await?.ok_or("no server")?;
    connection.abort();
    Ok(end)
}

/// The same of the program that embeds the mesh, whose body fails.
async fn failing(pair: &Pair, upload: Upload, met: &mut UnboundedReceiver<Met>) -> Result<Met> {
    let (tell, fails) = tokio::sync::oneshot::channel();
    let half = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"half")))]);
    let failure = futures_util::stream::once(async move {
        let _fails = fails.await;
        Err(std::io::Error::other("broken off"))
    });
    let parts = futures_util::StreamExt::chain(half, failure);
    let mut request = get("http://cart/");
    *request.method_mut() = ::http::Method::POST;
    *request.body_mut() = Body::new(StreamBody::new(Box::pin(parts)));
    if upload.length {
        request
            .headers_mut()
            .insert(header::CONTENT_LENGTH, 10.into());
    }
    let client = pair.web.client();
    let answer = tokio::spawn(async move { client.send(request).await });
    let half = soon(met.recv()).await?.ok_or("no server")?;
    assert_eq!(half, Met::Half);
    let _answer = match upload.answered {
        true => Some(soon(answer).await??),
        false => None,
    };
    let _sending = tell.send(());
    soon(met.recv()).await?.ok_or_else(|| "no server".into())
}

/// Whatever the code of the reset says: without END_STREAM nothing is whole (RFC 9113 section 8.1).
#[tokio::test]
async fn an_upload_that_is_reset_is_whole_to_no_server() -> Result {
    let uploads = [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR]
        .into_iter()
        .flat_map(|code| {
            [(true, false), (false, false), (true, true), (false, true)].map(
                move |(length, answered)| Upload {
                    code,
                    length,
                    answered,
                },
            )
        });
    let uploads: Vec<_> = uploads.collect();
    for app in [App::Http1, App::Http2, App::InProcess] {
        for way in [Way::Both, Way::Outbound, Way::Inbound, Way::Client] {
            if (app, way) == (App::InProcess, Way::Outbound) {
                continue;
            }
            let (tell, mut met) = mpsc::unbounded_channel();
            let watch = Watch {
                met: tell,
                answers: Arc::default(),
            };
            let (protocol, server) = match app {
                App::Http1 => (AppProtocol::Http1, http1(watch.clone()).await?),
                App::Http2 | App::InProcess => (AppProtocol::Http2, http2(watch.clone()).await?),
            };
            let pair = Pair::new(protocol, server).await?;
            let inbound = match app {
                App::InProcess => in_process(&pair, watch.clone()).await?,
                App::Http1 | App::Http2 => pair.inbound,
            };
            if way == Way::Outbound {
                plain_cart(&pair, server).await?;
            }
            for upload in &uploads {
                watch.answers.store(upload.answered, Ordering::SeqCst);
                let end = match way {
                    Way::Client => failing(&pair, *upload, &mut met).await?,
                    Way::Inbound => {
                        let io = peer(&pair, inbound, b"h2").await?;
                        broken_off(io, *upload, &mut met).await?
                    }
                    Way::Both | Way::Outbound => {
                        let io = TcpStream::connect(pair.outbound).await?;
                        broken_off(io, *upload, &mut met).await?
                    }
                };
                let reset = matches!(end, Met::Cut(Some(code)) if code != 0);
                let cut = end == Met::Cut(None);
                let right = if app == App::Http2 { reset } else { cut };
                assert!(right, "{app:?} {way:?} {upload:?}: {end:?}");
            }
        }
    }
    Ok(())
}
