//! Headers as the specification has them, and all that it forbids.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::*;

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

fn ends(source: &str, destination: &str) -> Header {
    let end = |text: &str| text.parse::<SocketAddr>().expect(text);
    Header::Proxied(Ends::new(end(source), end(destination)))
}

/// A header of version 2: its command, its family and what follows.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("a length").to_be_bytes();
    [SIGNATURE, &[command, family], &len, rest].concat()
}

/// `bytes` are this header, whatever follows, and each begin of them is the begin of one.
fn check(bytes: &[u8], header: Header) {
    for after in [&b""[..], b"\r\n", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01"] {
        let all = [bytes, after].concat();
        let whole = Parsed::Whole(header, bytes.len());
        assert_eq!(parse(&all), Ok(whole), "{}", all.escape_ascii());
    }
    for end in 0..bytes.len() {
        let begin = &bytes[..end];
        let parsed = parse(begin);
        assert_eq!(parsed, Ok(Parsed::NeedMore), "{}", begin.escape_ascii());
    }
}

#[test]
fn lines_of_version_1() {
    let most = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let worst = format!("PROXY UNKNOWN {most} {most} 65535 65535\r\n");
    assert_eq!(worst.len(), LONGEST_V1);
    let longest = format!("PROXY TCP6 {most} {most} 65535 65535\r\n");
    let end = format!("[{most}]:65535");
    for (line, header) in [
        // The example of the specification, and its longest lines.
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
            ends("192.168.0.1:56324", "192.168.0.11:443"),
        ),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            ends("255.255.255.255:65535", "255.255.255.255:65535"),
        ),
        (&longest, ends(&end, &end)),
        ("PROXY UNKNOWN\r\n", Header::Local),
        (&worst, Header::Local),
        ("PROXY UNKNOWN \r\n", Header::Local),
        ("PROXY UNKNOWN any thing, 999.1.1.1\r\n", Header::Local),
        (
            "PROXY TCP4 0.0.0.0 1.2.3.4 0 0\r\n",
            ends("0.0.0.0:0", "1.2.3.4:0"),
        ),
        (
            "PROXY TCP6 2001:db8::1 2001:DB8::B 1 2\r\n",
            ends("[2001:db8::1]:1", "[2001:db8::b]:2"),
        ),
        // An address of IPv4 stays one.
        (
            "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n",
            ends("10.0.0.1:1", "10.0.0.2:2"),
        ),
        ("PROXY TCP6 :: ::1 1 2\r\n", ends("[::]:1", "[::1]:2")),
    ] {
        check(line.as_bytes(), header);
    }
}

#[test]
fn headers_of_version_2() {
    let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0xdc, 0x04, 0x01, 0xbb];
    let v6 = [[0x20; 16], [0x30; 16]].concat();
    let v6 = [&v6[..], &[0, 1, 0, 2]].concat();
    let of_v4 = ends("1.2.3.4:56324", "5.6.7.8:443");
    let of_v6 = ends(
        "[2020:2020:2020:2020:2020:2020:2020:2020]:1",
        "[3030:3030:3030:3030:3030:3030:3030:3030]:2",
    );
    let unix = [b'/'; 216];
    let fields = [&[0x04, 0, 0][..], &[0x02, 0, 3], b"a.b", &[0xe0, 0, 1, 7]].concat();
    let filled = |len: usize| {
        let [high, low] = u16::try_from(len - 3).expect("a length").to_be_bytes();
        [&[0x04, high, low][..], &vec![0; len - 3]].concat()
    };
    for (bytes, header) in [
        (v2(0x21, 0x11, &v4), of_v4),
        (v2(0x21, 0x21, &v6), of_v6),
        (v2(0x21, 0x11, &[&v4[..], &fields].concat()), of_v4),
        (v2(0x21, 0x21, &[&v6[..], &fields].concat()), of_v6),
        // As long as one may be.
        (
            v2(
                0x21,
                0x11,
                &[&v4[..], &filled(LONGEST_V2 - 16 - 12)].concat(),
            ),
            of_v4,
        ),
        // No other connection: what stands there is skipped.
        (v2(0x20, 0x00, &[]), Header::Local),
        (v2(0x20, 0x11, &v4), Header::Local),
        (v2(0x20, 0x11, &[1]), Header::Local),
        (v2(0x20, 0xff, &[1, 2, 3]), Header::Local),
        (v2(0x21, 0x00, &[]), Header::Local),
        (v2(0x21, 0x00, &[1, 2, 3]), Header::Local),
        (v2(0x21, 0x01, &[]), Header::Local),
        // Nothing that this connection could be for.
        (v2(0x21, 0x10, &v4), Header::Local),
        (v2(0x21, 0x12, &v4), Header::Local),
        (v2(0x21, 0x22, &v6), Header::Local),
        (v2(0x21, 0x31, &unix), Header::Local),
        (
            v2(0x21, 0x32, &[&unix[..], &fields].concat()),
            Header::Local,
        ),
    ] {
        check(&bytes, header);
    }
}

#[test]
fn what_the_specification_forbids_is_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_V1 - 15));
    assert_eq!(long.len(), LONGEST_V1 + 1);
    let v4 = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2];
    let with = |fields: &[u8]| v2(0x21, 0x11, &[&v4[..], fields].concat());
    let texts: &[&str] = &[
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY  TCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY\tTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXYxTCP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4  1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1  2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2\r\n",
        "PROXY TCP4 \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY UDP4 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 ::1 2.2.2.2 1 2\r\n",
        "PROXY TCP6 ::1%1 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1 2\r\n",
        "PROXY TCP4 1.1.1.01 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.256 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 0x1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 00 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 x\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n\r\n",
        "PROXY TCP4 1.1.1.1\r2.2.2.2 1 2\r\n",
        "PROXY UNKNOWNx\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN a\nb\r\n",
        "PROXY UNKNOWN a\rb\r\n",
        &long,
        &"P".repeat(200),
        "\r\nPROXY UNKNOWN\r\n",
        "\r\n\r\n\0\r\nQUIT\r",
        "SSH-2.0-x\r\n",
    ];
    let binary = [
        v2(0x31, 0x11, &v4),
        v2(0x11, 0x11, &v4),
        v2(0x01, 0x11, &v4),
        v2(0x22, 0x11, &v4),
        v2(0x2f, 0x11, &v4),
        v2(0x21, 0x41, &v4),
        v2(0x21, 0x13, &v4),
        v2(0x21, 0x03, &[]),
        v2(0x21, 0x11, &v4[..11]),
        v2(0x21, 0x12, &[]),
        v2(0x21, 0x21, &v4),
        v2(0x21, 0x31, &[b'/'; 215]),
        v2(0x21, 0x11, &vec![0; LONGEST_V2]),
        v2(0x20, 0x00, &vec![0; LONGEST_V2]),
        with(&[1]),
        with(&[1, 0]),
        with(&[1, 0, 1]),
        with(&[1, 0, 0, 1]),
        with(&[1, 0xff, 0xff]),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        b"PROXY TCP4 1.1.1.1 2.2.2.\xb2 1 2\r\n".to_vec(),
        vec![0; 300],
    ];
    for bytes in texts
        .iter()
        .map(|text| text.as_bytes().to_vec())
        .chain(binary)
    {
        assert!(parse(&bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

/// What may never be a header is refused at the byte that shows it, and is not waited on.
#[test]
fn what_cannot_become_a_header_is_refused_early() {
    for bytes in [
        &b"G"[..],
        b"PO",
        b"PROXY X",
        b"PROXY TCP5",
        b"PROXY UNKNOWX",
        b"\r\n\r\n\0\r\nQUIX",
        b"\r\n\r\n\0\r\nQUIT\n\x22",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x0f\xf1",
        b"PROXY TCP4 1.1.1.1\n",
    ] {
        let before = &bytes[..bytes.len() - 1];
        assert_eq!(
            parse(before),
            Ok(Parsed::NeedMore),
            "{}",
            before.escape_ascii()
        );
        assert!(parse(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}

#[test]
fn a_header_is_written_as_the_specification_has_it() {
    let own = Ends::new(([10, 0, 0, 1], 5).into(), ([10, 0, 0, 2], 6).into());
    let v4 = ends("192.168.0.1:56324", "192.168.0.11:443");
    let v6 = ends("[2001:db8::1]:1", "[2001:db8::2]:2");
    let mixed = ends("10.0.0.1:1", "[2001:db8::2]:2");
    let mapped = ends("[::ffff:10.0.0.1]:1", "10.0.0.2:2");
    for (header, line) in [
        (v4, "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n"),
        (v6, "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"),
        (mixed, "PROXY TCP6 ::ffff:a00:1 2001:db8::2 1 2\r\n"),
        (mapped, "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"),
        (Header::Local, "PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n"),
    ] {
        let written = header.write(ProxyVersion::V1, own);
        assert_eq!(
            written.escape_ascii().to_string(),
            line.escape_default().to_string()
        );
    }
    let of_v4 = [192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb];
    assert_eq!(v4.write(ProxyVersion::V2, own), v2(0x21, 0x11, &of_v4));
    assert_eq!(Header::Local.write(ProxyVersion::V2, own), v2(0x20, 0, &[]));
    let of_mixed = mixed.write(ProxyVersion::V2, own);
    assert_eq!((of_mixed[13], of_mixed.len()), (0x21, 52));
}

fn any_end() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<[u8; 4]>().prop_map(|ip| IpAddr::V4(Ipv4Addr::from(ip)));
    let v6 = any::<[u16; 8]>().prop_map(|ip| IpAddr::V6(Ipv6Addr::from(ip)));
    let near = Just(IpAddr::V6(Ipv6Addr::LOCALHOST));
    let mapped = any::<[u8; 4]>();
    let mapped = mapped.prop_map(|ip| IpAddr::V6(Ipv4Addr::from(ip).to_ipv6_mapped()));
    let ip = prop_oneof![v4, v6, near, mapped];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn canonical(ends: Ends) -> Ends {
    let end = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Ends::new(end(ends.source), end(ends.destination))
}

proptest! {
    /// What is written is read as what it was, at its length, in any pieces and before any bytes.
    #[test]
    fn what_is_written_is_read_again(
        source in any_end(),
        destination in any_end(),
        old in any::<bool>(),
        local in any::<bool>(),
        after in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let version = if old { ProxyVersion::V1 } else { ProxyVersion::V2 };
        let ends = Ends::new(source, destination);
        let header = if local { Header::Local } else { Header::Proxied(ends) };
        let mut bytes = header.write(version, ends);
        let len = bytes.len();
        prop_assert!(len <= LONGEST_V1);
        for end in 0..len {
            prop_assert_eq!(parse(&bytes[..end]), Ok(Parsed::NeedMore));
        }
        bytes.extend(after);
        let read = match local && !old {
            true => Header::Local,
            false => Header::Proxied(canonical(ends)),
        };
        prop_assert_eq!(parse(&bytes), Ok(Parsed::Whole(read, len)));
    }

    /// An answer holds, however many bytes follow, and comes within the longest header.
    #[test]
    fn an_answer_is_final(
        head in prop_oneof![
            Just(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n".to_vec()),
            Just(b"PROXY TCP6 ::1 ::2 9 10\r\n".to_vec()),
            Just(b"PROXY UNKNOWN\r\n".to_vec()),
            Just(v2(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2, 4, 0, 1, 0])),
            Just(v2(0x20, 0x00, &[])),
        ],
        cut in any::<proptest::sample::Index>(),
        tail in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let cut = cut.index(head.len() + 1);
        let bytes = [&head[..cut], &tail].concat();
        let mut decided = None;
        for end in 0..=bytes.len() {
            let now = parse(&bytes[..end]);
            match &decided {
                None if now != Ok(Parsed::NeedMore) => {
                    if let Ok(Parsed::Whole(_, len)) = now {
                        prop_assert_eq!(len, end);
                    }
                    decided = Some(now);
                }
                None => {}
                Some(before) => prop_assert_eq!(before, &now),
            }
        }
        prop_assert!(decided.is_some() || bytes.len() < LONGEST_V2);
    }
}
