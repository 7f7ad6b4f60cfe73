//! Detection, and the deadlines of a server's connection.

use proptest::prelude::*;

use super::{Detected, detect};

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
        (b"ABCDEFGHIJKLMNOPQ", Opaque),
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
