//! Detection, and the deadlines of a server's connection.

use proptest::prelude::*;

use super::{Detected, detect};

/// What a stranger may not choose to be opaque, and binary protocols that it may.
#[cfg(feature = "runtime")]
#[test]
fn a_text_is_seen_by_its_begin() {
    for (bytes, text) in [
        (&b"get /"[..], true),
        (b"\r\nGET /", true),
        (b"\r\nGET /\xc3\xbc HTTP/1.1", true),
        (b"get /\xff HTTP/1.1", true),
        (b"M-SEARCH /\xe9 HTTP/1.1", true),
        (b"\r\nGET / HTTP/1.1\r\nA:\xff\r\n", true),
        (b"GET\x0b/\xff HTTP/1.1", true),
        (b"\x0c\x1cGET\x1f/\xff", true),
        (b"GET\xa0/\xff", true),
        (b"\r", true),
        (b"(){}\"", true),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXYZABCDEFGHIJ", true),
        (b"AMQP\0\0\x09\x01", false),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", false),
        (b"\x10\x0e\0\x04MQTT", false),
        (b"GET/\xff", false),
        (b"\xff GET /", false),
        (b"\x04\0\0\0\x05", false),
    ] {
        assert_eq!(detect::is_text(bytes), text, "{}", bytes.escape_ascii());
    }
}

#[test]
fn first_bytes_tell_the_protocol() {
    use Detected::{Http1, Http2, NeedMore, Opaque, Tls};
    for (bytes, expected) in [
        (&b""[..], NeedMore),
        (b"G", NeedMore),
        (b"GET", NeedMore),
        (b"GET ", NeedMore),
        (b"GET /", Http1),
        (b"GET http://cart/", Http1),
        (b"OPTIONS * HTTP/1.1", Http1),
        (b"CONNECT [::1]:443", Http1),
        (b"CONNECT host:443", Http1),
        (b"P", NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", NeedMore),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Http2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Http2),
        (b"PRI /", Http1),
        (b"PRIX", NeedMore),
        (b"\x16", NeedMore),
        (b"\x16\x03", Tls),
        (b"\x16\x02", Opaque),
        (b"\x15\x03", Opaque),
        (b"get /", Opaque),
        (b" GET /", Opaque),
        (b"GET\t/", Opaque),
        (b"GET  /", Opaque),
        (b"GET \r", Opaque),
        (b"ABCDEFGHIJKLMNOP", NeedMore),
        (b"ABCDEFGHIJKLMNOP /", Http1),
        (b"ABCDEFGHIJKLMNOPQRSTUVWX /", Http1),
        (b"ABCDEFGHIJKLMNOPQRSTUVWXY", Opaque),
        (b"VERSION-CONTROL /", Http1),
        (b"M-SEARCH *", Http1),
        (b"X-FOO bar", Opaque),
        (b"-GET /", Opaque),
        (b"*1\r\n$4\r\nPING", Opaque),
        (b"SSH-2.0-x", Opaque),
        (b"\0", Opaque),
    ] {
        assert_eq!(detect(bytes), expected, "{}", bytes.escape_ascii());
    }
}

proptest! {
    /// An answer holds, however many bytes follow, and the bytes that decide are few.
    #[test]
    fn an_answer_is_final(
        head in prop_oneof![
            Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
            Just(b"\x16\x03\x01".to_vec()),
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
            "[A-Z]{0,20} ?[/a*]?".prop_map(String::into_bytes),
        ],
        cut in 0_usize..40,
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes: Vec<u8> = head.iter().take(cut).chain(&tail).copied().collect();
        let mut answer = Detected::NeedMore;
        for len in 0..=bytes.len() {
            let now = detect(&bytes[..len]);
            if answer != Detected::NeedMore {
                prop_assert_eq!(now, answer);
            }
            answer = now;
        }
        prop_assert!(bytes.len() < 32 || answer != Detected::NeedMore);
    }
}

/// The deadlines of [`Timed`], in virtual time.
#[cfg(feature = "runtime")]
mod timed {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream, DuplexStream, duplex};
    use tokio::time::{Instant, timeout};

    use super::super::{ConnState, Timed};
    use crate::budget::Budget;
    use crate::error::Reason;

    type Result = std::result::Result<(), Box<dyn std::error::Error>>;

    const HEADER: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(300);
    const UNREAD: Duration = Duration::from_secs(60);

    /// A caller that takes an answer slowly is served, one that takes nothing more is not.
    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_ends_its_connection() -> Result {
        let (mut caller, mut timed, state) = http1();
        state.busy();
        let start = Instant::now();
        let writing = tokio::spawn(async move {
            let end = timed.write_all(&[b'a'; 8 * 4096]).await;
            end.map_err(|e| e.kind())
        });
        for _ in 0..5 {
            tokio::task::yield_now().await;
            tokio::time::advance(UNREAD - Duration::from_secs(1)).await;
            caller.read_exact(&mut [0; 4096]).await?;
        }
        assert_eq!(writing.await?, Err(std::io::ErrorKind::TimedOut));
        assert_eq!(start.elapsed().as_secs(), 5 * 59 + 60);
        Ok(())
    }

    fn http1() -> (DuplexStream, Timed<DuplexStream>, Arc<ConnState>) {
        let (caller, inner) = duplex(4096);
        let state = Arc::<ConnState>::default();
        let timed = Timed::http1(inner, Arc::clone(&state), HEADER, IDLE, UNREAD);
        (caller, timed, state)
    }

    async fn answer(mut caller: DuplexStream, timed: Timed<DuplexStream>) -> String {
        drop(timed);
        let mut text = String::new();
        caller.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_is_due_from_the_start() -> Result {
        for begun in [&b""[..], b"GET / HT"] {
            let (mut caller, mut timed, state) = http1();
            let start = Instant::now();
            caller.write_all(begun).await?;
            let mut bytes = Vec::new();
            let end = timed.read_to_end(&mut bytes).await.map_err(|e| e.kind());
            assert_eq!(end, Err(std::io::ErrorKind::TimedOut));
            assert_eq!(
                (start.elapsed().as_secs(), state.unread()),
                (10, Some(Reason::HeaderTimeout))
            );
            let text = answer(caller, timed).await;
            let (head, body) = text.split_once("\r\n\r\n").ok_or("no end")?;
            assert!(head.starts_with("HTTP/1.1 408 Request Timeout\r\n"));
            assert!(
                head.contains(&format!("content-length: {}", body.len())),
                "{text}"
            );
        }
        Ok(())
    }

    /// Bytes that drip in do not move the deadline.
    #[tokio::test(start_paused = true)]
    async fn a_header_that_drips_is_late_all_the_same() -> Result {
        let (mut caller, mut timed, _) = http1();
        let start = Instant::now();
        let mut bytes = [0; 16];
        let late = loop {
            caller.write_all(b"x").await?;
            match timeout(Duration::from_secs(3), async {
                loop {
                    let _dripped = timed.read(&mut bytes).await?;
                }
            })
            .await
            {
                Ok(ended) => break ended,
                Err(_) => continue,
            }
        };
        let late: std::io::Result<()> = late;
        assert!(late.is_err());
        assert_eq!(start.elapsed().as_secs(), 10);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn rest_has_its_own_limit_and_each_header_its_own() -> Result {
        let (mut caller, mut timed, state) = http1();
        let mut bytes = [0; 16];
        for _ in 0..3 {
            caller.write_all(b"GET").await?;
            assert_eq!(timed.read(&mut bytes).await?, 3);
            state.busy();
            // However long the service takes, and whatever is read meanwhile.
            let reading = timeout(Duration::from_secs(5_000), timed.read(&mut bytes)).await;
            assert!(reading.is_err());
            state.idle();
            // Rest, longer than a header may take.
            let resting = timeout(Duration::from_secs(200), timed.read(&mut bytes)).await;
            assert!(resting.is_err());
        }
        let start = Instant::now();
        assert_eq!(
            timed.read(&mut bytes).await?,
            0,
            "as if the caller had ended it"
        );
        assert_eq!(start.elapsed().as_secs(), 100);
        assert_eq!(answer(caller, timed).await, "", "without a word");
        // A header that begins after rest has the time of a header.
        let (mut caller, mut timed, state) = http1();
        state.busy();
        state.idle();
        let _resting = timeout(Duration::from_secs(250), timed.read(&mut bytes)).await;
        caller.write_all(b"GET").await?;
        let _three = timed.read(&mut bytes).await?;
        let start = Instant::now();
        assert!(timed.read(&mut bytes).await.is_err());
        assert_eq!(start.elapsed().as_secs(), 10);
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_has_left_http_has_no_deadline() -> Result {
        let (mut caller, mut timed, state) = http1();
        caller.write_all(b"GET").await?;
        let mut bytes = [0; 16];
        let _three = timed.read(&mut bytes).await?;
        state.busy();
        for _ in 0..3 {
            let waiting = timeout(Duration::from_secs(5_000), timed.read(&mut bytes)).await;
            assert!(waiting.is_err());
            caller.write_all(b"frame").await?;
            assert_eq!(timed.read(&mut bytes).await?, 5);
        }
        Ok(())
    }

    /// What is below, as TLS is, takes all that it is given and keeps what cannot leave.
    #[tokio::test(start_paused = true)]
    async fn a_crowd_writes_nothing_before_what_was_written_has_left() -> Result {
        for crowded in [false, true] {
            let (mut caller, inner) = duplex(2);
            let budget = Budget::new(usize::from(!crowded));
            let state = Arc::<ConnState>::default();
            let below = BufStream::new(inner);
            let mut timed = Timed::http1(below, state, HEADER, IDLE, UNREAD).within(&budget);
            timed.write_all(b"abc").await?;
            let next = timeout(UNREAD / 2, timed.write_all(b"d")).await;
            assert_eq!(next.is_err(), crowded);
            let mut two = [0; 2];
            if crowded {
                caller.read_exact(&mut two).await?;
                timed.write_all(b"d").await?;
            }
            assert_eq!(&two, if crowded { b"ab" } else { b"\0\0" });
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn of_http2_the_preface_is_due() -> Result {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        for (sent, late) in [(0, true), (32, true), (33, false)] {
            let (mut caller, inner) = duplex(4096);
            let state = Arc::<ConnState>::default();
            let mut timed = Timed::http2(inner, Arc::clone(&state), HEADER, UNREAD);
            caller.write_all(&preface[..sent]).await?;
            let mut bytes = Vec::new();
            let end = timeout(Duration::from_secs(5_000), timed.read_to_end(&mut bytes)).await;
            assert_eq!(end.is_ok(), late, "{sent}");
            assert_eq!(state.unread(), late.then_some(Reason::HeaderTimeout));
            assert_eq!(answer(caller, timed).await, "");
        }
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn rest_is_without_a_request() {
        let state = ConnState::default();
        let start = Instant::now();
        state.rested(IDLE).await;
        assert_eq!(start.elapsed(), IDLE);
        state.busy();
        assert!(timeout(IDLE * 10, state.rested(IDLE)).await.is_err());
        state.busy();
        state.idle();
        assert!(
            timeout(IDLE * 10, state.rested(IDLE)).await.is_err(),
            "one still runs"
        );
        state.idle();
        state.rested(IDLE).await;
    }
}

mod queue {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::super::Listener;

    /// More callers than the standard queue of 128 holds are there before one is accepted.
    #[tokio::test]
    async fn callers_who_come_together_all_find_a_place() -> std::io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let listener = Listener::new(listener, 400);
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap_or_default();
        if most.trim().parse().unwrap_or(128) < 400 {
            eprintln!("skipped: a longer queue of a listener (the kernel allows none)");
            return Ok(());
        }
        let mut callers = Vec::new();
        for n in 0..400 {
            let calling = TcpStream::connect(address);
            let called = timeout(Duration::from_secs(20), calling).await;
            callers.push(called.unwrap_or_else(|_| panic!("caller {n} found no place"))?);
        }
        for _ in &callers {
            listener.accept().await;
        }
        Ok(())
    }
}
