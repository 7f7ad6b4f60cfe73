//! A connection that breaks off on one side breaks off on the other: its end would say that all has come.

use std::net::SocketAddr;
use std::time::Duration;

use inmesh_core::model::{AppProtocol, Namespace, ServiceName};
use inmesh_core::runtime::{Limits, OutboundListener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::{Builder, Pair, Result, in_flight, serve_outbound, soon};

const UPGRADE: &[u8] =
    b"GET /chat HTTP/1.1\r\nhost: cart\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
const SWITCHED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
/// More than a socket holds.
const LONG: usize = 8 << 20;

/// How a connection is read until there is no more.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Ended(usize),
    Broke(usize),
}

/// What makes bytes opaque.
#[derive(Debug, Clone, Copy)]
enum By {
    Protocol,
    Upgrade,
}

async fn all_of(stream: &mut TcpStream) -> Came {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all).await {
        Ok(_) => Came::Ended(all.len()),
        Err(_) => Came::Broke(all.len()),
    }
}

async fn head(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

fn reset(stream: TcpStream) -> std::io::Result<()> {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

/// Does what the first byte says: `r` to answer and reset, `e` to answer and end, `l` to answer at length and
/// reset once all has left, `h` to tell what is heard.
async fn serve(mut stream: TcpStream, by: By, heard: UnboundedSender<Came>) -> std::io::Result<()> {
    if matches!(by, By::Upgrade) {
        head(&mut stream).await?;
        stream.write_all(SWITCHED).await?;
    }
    match stream.read_u8().await? {
        b'h' => {
            stream.write_all(b"so").await?;
            let _test_has_ended = heard.send(all_of(&mut stream).await);
            return Ok(());
        }
        b'l' => {
            stream.write_all(&vec![7; LONG]).await?;
            // The caller has got the beginning, so that all has left.
            stream.read_u8().await?;
        }
        said => {
            stream.write_all(b"half").await?;
            stream.read_u8().await?;
            if said == b'e' {
                return Ok(());
            }
        }
    }
    reset(stream)
}

async fn server(by: By) -> Result<(SocketAddr, UnboundedReceiver<Came>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (heard, hears) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, by, heard.clone()));
        }
    });
    Ok((address, hears))
}

/// A pair of meshes, where the bytes go in, and what the server hears.
async fn pair(
    by: By,
    build: impl Fn(Builder) -> Builder,
) -> Result<(Pair, SocketAddr, UnboundedReceiver<Came>)> {
    let (at, heard) = server(by).await?;
    let protocol = match by {
        By::Protocol => AppProtocol::Tcp,
        By::Upgrade => AppProtocol::Http1,
    };
    let pair = Pair::with(protocol, at, build, |_| {}).await?;
    let door = match by {
        By::Protocol => {
            let service = ServiceName::new(&Namespace::new("shop")?, "cart")?;
            serve_outbound(&pair.web, OutboundListener::to(service, 80, protocol)).await?
        }
        By::Upgrade => pair.outbound,
    };
    Ok((pair, door, heard))
}

async fn open(door: SocketAddr, by: By) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(door).await?;
    if matches!(by, By::Upgrade) {
        stream.write_all(UPGRADE).await?;
        let head = String::from_utf8(soon(head(&mut stream)).await??)?;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    }
    Ok(stream)
}

#[tokio::test]
async fn a_server_that_breaks_off_does_so_to_its_caller_which_has_what_it_said() -> Result {
    for by in [By::Protocol, By::Upgrade] {
        let (pair, door, _) = pair(by, |b| b).await?;
        for (said, came) in [(b'r', Came::Broke(4)), (b'e', Came::Ended(4))] {
            let mut stream = open(door, by).await?;
            stream.write_all(&[said]).await?;
            let mut half = [0; 4];
            soon(stream.peek(&mut half)).await??;
            stream.write_all(b"!").await?;
            assert_eq!(soon(all_of(&mut stream)).await?, came, "{by:?}");
        }
        soon(async {
            while in_flight(&pair.web) + in_flight(&pair.cart) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await?;
    }
    Ok(())
}

/// It is read late: most of it is between the kernels when the server has gone.
#[tokio::test]
async fn a_caller_that_reads_late_has_all_that_a_server_said_that_broke_off() -> Result {
    for by in [By::Protocol, By::Upgrade] {
        let (_pair, door, _) = pair(by, |b| b).await?;
        let mut stream = open(door, by).await?;
        stream.write_all(b"l").await?;
        stream.readable().await?;
        let mut most = vec![0; LONG - 200_000];
        soon(stream.read_exact(&mut most)).await??;
        stream.write_all(b"!").await?;
        let gone = soon(async {
            while stream.peek(&mut [0; 1]).await.is_ok() && stream.write_all(b".").await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        gone.await?;
        let came = soon(all_of(&mut stream)).await?;
        let (Came::Ended(last) | Came::Broke(last)) = came;
        assert_eq!(last, 200_000, "{by:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_caller_that_breaks_off_has_not_said_all() -> Result {
    for by in [By::Protocol, By::Upgrade] {
        let (_pair, door, mut heard) = pair(by, |b| b).await?;
        for breaks in [true, false] {
            let mut stream = open(door, by).await?;
            stream.write_all(b"h").await?;
            soon(stream.read_exact(&mut [0; 2])).await??;
            stream.write_all(b"hello").await?;
            let came = match breaks {
                true => {
                    reset(stream)?;
                    soon(heard.recv()).await?
                }
                false => {
                    stream.shutdown().await?;
                    soon(heard.recv()).await?
                }
            };
            match came {
                // A reset may take back what was not read yet.
                Some(Came::Broke(_)) => assert!(breaks, "{by:?}"),
                other => assert_eq!((other, breaks), (Some(Came::Ended(5)), false), "{by:?}"),
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn what_a_drain_cuts_breaks_off_on_both_sides() -> Result {
    let mut limits = Limits::default();
    limits.drain_lead = Duration::ZERO;
    limits.drain_deadline = Duration::from_millis(10);
    for by in [By::Protocol, By::Upgrade] {
        for of_caller in [true, false] {
            let build = |b: Builder| b.limits(limits.clone());
            let (pair, door, mut heard) = pair(by, build).await?;
            let mut stream = open(door, by).await?;
            stream.write_all(b"h").await?;
            soon(stream.read_exact(&mut [0; 2])).await??;
            let drained = if of_caller { &pair.web } else { &pair.cart };
            let (came, _, hears) = tokio::join!(
                soon(all_of(&mut stream)),
                soon(drained.drain()),
                soon(heard.recv())
            );
            assert_eq!(came?, Came::Broke(0), "{by:?} {of_caller}");
            assert_eq!(hears?, Some(Came::Broke(0)), "{by:?} {of_caller}");
        }
    }
    Ok(())
}

/// HTTP/1.0 knows the end of such an answer by that of its connection.
#[tokio::test]
async fn an_answer_that_is_cut_is_not_whole_to_a_caller_of_http10() -> Result {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let asked = head(&mut stream).await?;
            let begin = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
            stream.write_all(begin).await?;
            if asked.starts_with(b"GET /whole") {
                stream.write_all(b"0\r\n\r\n").await?;
            }
            // Else an end where a chunk is due.
        }
        std::io::Result::Ok(())
    });
    let pair = Pair::with(AppProtocol::Http1, at, |b| b, |to| to.strict = false).await?;
    for door in [pair.outbound, pair.inbound] {
        for (path, whole) in [("/whole", true), ("/cut", false)] {
            let mut stream = TcpStream::connect(door).await?;
            let request = format!("GET {path} HTTP/1.0\r\nhost: cart\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let head = String::from_utf8(soon(head(&mut stream)).await??)?;
            assert!(head.starts_with("HTTP/1.0 200"), "{head}");
            let came = soon(all_of(&mut stream)).await?;
            let wanted = if whole {
                Came::Ended(4)
            } else {
                Came::Broke(4)
            };
            assert_eq!(came, wanted, "{path}");
        }
    }
    Ok(())
}
