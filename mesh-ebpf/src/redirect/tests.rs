use super::*;

fn redirect(change: impl FnOnce(&mut Options)) -> Redirect {
    let mut options = Options::default();
    change(&mut options);
    Redirect::new(options).expect("good options")
}

/// What is excluded stands before what is redirected, in order and once.
#[test]
fn the_rules_are_those_of_the_documentation() {
    let redirect = redirect(|options| {
        options.user = 2_000;
        options.exclude_inbound_ports = vec![15_021, 22, 22];
        options.exclude_outbound_ports = vec![5_432, 25];
        let networks = ["fd00::/9", "10.9.0.0/17", "192.0.2.7", "0.0.0.0/0"];
        options.exclude_outbound = networks.map(|n| n.parse().expect("a network")).to_vec();
    });
    let expected = "\
add table inet inmesh
delete table inet inmesh
table inet inmesh {
	chain inbound {
		tcp dport 15001 return
		tcp dport 15006 return
		tcp dport 22 return
		tcp dport 15021 return
		meta l4proto tcp redirect to :15006
	}
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		meta l4proto tcp goto inbound
	}
	chain output {
		type nat hook output priority -100; policy accept;
		meta l4proto != tcp return
		meta skuid 2000 oifname != \"lo\" return
		meta skuid 2000 ip daddr 127.0.0.0/8 return
		meta skuid 2000 ip6 daddr ::1/128 return
		meta skuid 2000 goto inbound
		oifname \"lo\" return
		tcp dport 25 return
		tcp dport 5432 return
		meta nfproto ipv4 return
		ip daddr 10.9.0.0/17 return
		ip daddr 192.0.2.7/32 return
		ip6 daddr fd00::/9 return
		meta l4proto tcp redirect to :15001
	}
}
";
    assert_eq!(redirect.to_string(), expected);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    type Change = fn(&mut Options);
    let cases: [(Change, Invalid); 9] = [
        (|o| o.inbound = 0, Invalid::PortZero),
        (|o| o.outbound = 0, Invalid::PortZero),
        (|o| o.exclude_inbound_ports = vec![80, 0], Invalid::PortZero),
        (|o| o.exclude_outbound_ports = vec![0], Invalid::PortZero),
        (|o| o.outbound = 15_006, Invalid::SamePort(15_006)),
        (|o| o.user = 0, Invalid::User(0)),
        (|o| o.user = u32::MAX, Invalid::User(u32::MAX)),
        (
            |o| o.exclude_inbound_ports = (1..=101).collect(),
            Invalid::TooMany {
                given: 101,
                most: 100,
            },
        ),
        (
            |o| o.exclude_outbound = vec!["::1".parse().expect("a network"); 101],
            Invalid::TooMany {
                given: 101,
                most: 100,
            },
        ),
    ];
    for (change, invalid) in cases {
        let mut options = Options::default();
        change(&mut options);
        assert_eq!(Redirect::new(options), Err(invalid));
    }
}

#[test]
fn networks_are_read_as_they_are_written() {
    for (written, shown) in [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("FD00::/8", "fd00::/8"),
        ("2001:db8::1", "2001:db8::1/128"),
    ] {
        let network: Network = written.parse().expect(written);
        assert_eq!(network.to_string(), shown);
    }
    let too_long = |written: &str, meant: &str| Invalid::TooLong {
        written: written.to_owned(),
        meant: meant.to_owned(),
    };
    for (written, invalid) in [
        ("10.1.2.3/8", too_long("10.1.2.3/8", "10.0.0.0/8")),
        ("10.0.0.1/0", too_long("10.0.0.1/0", "0.0.0.0/0")),
        (
            "2001:db8::1/127",
            too_long("2001:db8::1/127", "2001:db8::/127"),
        ),
        (
            "::ffff:10.0.0.0/104",
            Invalid::Mapped("::ffff:10.0.0.0/104".to_owned()),
        ),
        (
            "::ffff:10.0.0.1",
            Invalid::Mapped("::ffff:10.0.0.1/128".to_owned()),
        ),
        ("10.0.0.0/33", Invalid::Network("10.0.0.0/33".to_owned())),
        ("10.0.0.0/", Invalid::Network("10.0.0.0/".to_owned())),
        ("10.0.0.0/+8", Invalid::Network("10.0.0.0/+8".to_owned())),
        ("10.0.0.0/256", Invalid::Network("10.0.0.0/256".to_owned())),
        ("localhost", Invalid::Network("localhost".to_owned())),
        ("", Invalid::Network(String::new())),
    ] {
        assert_eq!(written.parse::<Network>(), Err(invalid), "{written}");
    }
}

#[cfg(target_os = "linux")]
mod bytes {
    use std::fmt::Write as _;

    use super::super::answer::{Answer, answers, attribute, text};
    use super::super::drive::refused;
    use super::super::message;
    use super::super::plan::chains;
    use super::*;

    /// The messages of a batch: kind, flags, sequence and body.
    fn messages(mut bytes: &[u8]) -> Vec<(u16, u16, u32, Vec<u8>)> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
            let word = |at: usize| bytes[at..at + 4].try_into().map(u32::from_ne_bytes);
            let length = word(0).expect("four bytes") as usize;
            let sequence = word(8).expect("four bytes");
            all.push((half(4), half(6), sequence, bytes[16..length].to_vec()));
            bytes = &bytes[length..];
        }
        all
    }

    /// The attributes that lie beside each other.
    fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
        let mut all = Vec::new();
        while !bytes.is_empty() {
            let length = usize::from(u16::from_ne_bytes([bytes[0], bytes[1]]));
            let kind = u16::from_ne_bytes([bytes[2], bytes[3]]);
            all.push((kind & 0x3fff, &bytes[4..length]));
            bytes = &bytes[length.next_multiple_of(4)..];
        }
        all
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |mut out, byte| {
            let _ = write!(out, "{byte:02x}");
            out
        })
    }

    /// A rule as `chain: expression(attribute=bytes ...) ...`.
    fn shown(body: &[u8]) -> String {
        let rule = &body[4..];
        let mut out = text(attribute(rule, 2).expect("a chain")) + ":";
        for (_, element) in attributes(attribute(rule, 4).expect("expressions")) {
            let name = text(attribute(element, 1).expect("a name"));
            let data = attributes(attribute(element, 2).expect("data"));
            let data: Vec<_> = data
                .iter()
                .map(|(kind, value)| format!("{kind}={}", hex(value)))
                .collect();
            let _ = write!(out, " {name}({})", data.join(" "));
        }
        out
    }

    /// The bytes of a rule are those that `nft --debug=mnl` shows for the same text.
    #[test]
    fn a_rule_is_laid_out_as_nft_lays_it_out() {
        let redirect = redirect(|o| o.exclude_outbound_ports = vec![3306]);
        let batch = message::replace(TABLE, &chains(&redirect));
        let rule = "the rule `tcp dport 3306 return` of the chain output";
        let at = batch.what.iter().position(|what| what == rule);
        let (kind, flags, _, body) = messages(&batch.bytes).swap_remove(at.expect("the rule"));
        // NFT_MSG_NEWRULE; NLM_F_REQUEST, NLM_F_CREATE, NLM_F_APPEND.
        assert_eq!((kind, flags), (2566, 0xc01));
        // nfgenmsg (inet), the table, the chain, then meta, cmp, payload, cmp and immediate.
        let expected = "
            01000000  0b000100 696e6d65 73680000  0b000200 6f757470 75740000  e4000480
            24000180 09000100 6d657461 00000000 14000280 08000200 00000010 08000100 00000001
            2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000
            0c000380 05000100 06000000
            34000180 0c000100 7061796c 6f616400 24000280 08000100 00000001 08000200 00000002
            08000300 00000002 08000400 00000002
            2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000000
            0c000380 06000100 0cea0000
            30000180 0e000100 696d6d65 64696174 65000000 1c000280 08000100 00000000
            10000280 0c000280 08000100 fffffffb";
        let expected: String = expected.split_whitespace().collect();
        if cfg!(target_endian = "little") {
            assert_eq!(hex(&body), expected);
        }
    }

    #[test]
    fn each_condition_and_verdict_has_its_expressions() {
        let redirect = redirect(|options| {
            let networks = ["10.9.0.0/16", "10.9.0.0/17", "fd00::/9", "::/0"];
            options.exclude_outbound = networks.map(|n| n.parse().expect("a network")).to_vec();
        });
        let batch = message::replace(TABLE, &chains(&redirect));
        let rules: Vec<_> = messages(&batch.bytes)
            .iter()
            .filter(|(kind, ..)| *kind == message::NEW_RULE)
            .map(|(.., body)| shown(body))
            .collect();
        let user = hex(&1_337_u32.to_ne_bytes());
        let tcp = "meta(2=00000010 1=00000001) cmp(1=00000001 2=00000000 3=0500010006000000)";
        let returns = "immediate(1=00000000 2=0c00028008000100fffffffb)";
        let data = |length: u16, value: &str| {
            let length = hex(&(length + 4).to_ne_bytes());
            format!("3={length}{}{value}", hex(&1_u16.to_ne_bytes()))
        };
        let equals =
            |length, value: &str| format!("cmp(1=00000001 2=00000000 {})", data(length, value));
        let skuid = format!("meta(2=0000000a 1=00000001) {}", equals(4, &user));
        let lo = "6c6f0000000000000000000000000000";
        let to_6 = format!("meta(2=0000000f 1=00000001) {}", equals(1, "0a000000"));
        let to_4 = format!("meta(2=0000000f 1=00000001) {}", equals(1, "02000000"));
        let expect = [
            format!(
                "output: meta(2=00000010 1=00000001) cmp(1=00000001 2=00000001 3=0500010006000000) {returns}"
            ),
            format!(
                "output: {skuid} meta(2=00000007 1=00000001) cmp(1=00000001 2=00000001 {}) {returns}",
                data(16, lo)
            ),
            format!(
                "output: {skuid} {to_4} payload(1=00000001 2=00000001 3=00000010 4=00000001) {} {returns}",
                equals(1, "7f000000")
            ),
            format!(
                "output: {skuid} {to_6} payload(1=00000001 2=00000001 3=00000018 4=00000010) {} {returns}",
                equals(16, &format!("{:032x}", 1))
            ),
            format!(
                "output: {skuid} immediate(1=00000000 2=1800028008000100fffffffc0c000200{}00)",
                hex(b"inbound")
            ),
            format!(
                "output: meta(2=00000007 1=00000001) {} {returns}",
                equals(16, lo)
            ),
            format!(
                "output: {to_4} payload(1=00000001 2=00000001 3=00000010 4=00000002) {} {returns}",
                equals(2, "0a090000")
            ),
            format!(
                "output: {to_4} payload(1=00000001 2=00000001 3=00000010 4=00000004) \
                 bitwise(1=00000001 2=00000001 3=00000004 4=08000100ffff8000 5=0800010000000000) {} {returns}",
                equals(4, "0a090000"),
            ),
            format!("output: {to_6} {returns}"),
            format!(
                "output: {to_6} payload(1=00000001 2=00000001 3=00000018 4=00000010) \
                 bitwise(1=00000001 2=00000001 3=00000010 4=14000100ff80{} 5=14000100{}) {} {returns}",
                "0".repeat(28),
                "0".repeat(32),
                equals(16, &format!("fd{}", "0".repeat(30))),
            ),
            format!(
                "output: {tcp} immediate(1=00000001 2=060001003a990000) redir(1=00000001 3=00000002)"
            ),
        ];
        if cfg!(target_endian = "little") {
            assert_eq!(rules[rules.len() - expect.len()..], expect);
            // Those of the other chains.
            assert_eq!(rules.len() - expect.len(), 4, "{rules:#?}");
        }
    }

    /// Begin, then the table made, deleted and made, then the chains before their rules, then the end; the
    /// last change alone is acknowledged.
    #[test]
    fn a_batch_replaces_the_table_as_a_whole() {
        let batch = message::replace(TABLE, &chains(&redirect(|_| {})));
        let all = messages(&batch.bytes);
        let kinds: Vec<_> = all.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds[..8], [16, 2560, 2562, 2560, 2563, 2563, 2563, 2566]);
        assert_eq!(kinds.last(), Some(&17));
        assert_eq!(batch.what.len(), all.len() - 1);
        for (nth, (_, flags, sequence, body)) in all.iter().enumerate() {
            assert_eq!(*sequence as usize, nth);
            let acknowledged = flags & 4 != 0;
            assert_eq!(acknowledged, nth == all.len() - 2, "{nth}");
            // A batch names its subsystem, 10; what it holds is of the family inet.
            let of = if nth == 0 || nth == all.len() - 1 {
                [0, 0, 0, 10]
            } else {
                [1, 0, 0, 0]
            };
            assert_eq!(body[..4], of, "{nth}");
        }
        let removed = messages(&message::remove(TABLE).bytes);
        let kinds: Vec<_> = removed.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [16, 2560, 2562, 17]);
    }

    /// The kernel takes a batch as one message, which must fit into the buffer of its socket.
    #[test]
    fn the_largest_batch_fits_into_a_socket() {
        let redirect = redirect(|options| {
            options.exclude_inbound_ports = (1..=100).collect();
            options.exclude_outbound_ports = (1..=100).collect();
            // A prefix that is no whole number of bytes takes the longest rule.
            options.exclude_outbound = (0..100)
                .map(|n| format!("fd00:{n:x}::/33").parse().expect("a network"))
                .collect();
        });
        let bytes = message::replace(TABLE, &chains(&redirect)).bytes.len();
        assert!((60_000..200_000).contains(&bytes), "{bytes}");
    }

    /// An `errno` means what the message that it answers was about.
    #[test]
    fn a_refusal_says_what_is_missing() {
        let cases = [
            (0, libc::EPERM, "CAP_NET_ADMIN"),
            (5, libc::EPERM, "CAP_NET_ADMIN"),
            (0, libc::EOPNOTSUPP, "this kernel has no nf_tables"),
            (0, libc::EINVAL, "this kernel has no nf_tables"),
            (5, libc::ENOENT, "lacks a part of nf_tables, for a rule"),
            (5, libc::EOPNOTSUPP, "lacks a part of nf_tables, for a rule"),
            (5, libc::EINVAL, "the kernel refused a rule"),
            (5, libc::ENOMEM, "the kernel refused a rule"),
        ];
        for (sequence, errno, said) in cases {
            let refused = refused(sequence, "a rule".to_owned(), errno);
            assert!(refused.to_string().contains(said), "{errno}: {refused}");
        }
    }

    #[test]
    fn answers_are_read_and_what_is_cut_is_refused() {
        let header = |length: u32, kind: u16, sequence: u32| {
            let mut out = length.to_ne_bytes().to_vec();
            out.extend(kind.to_ne_bytes());
            out.extend([0; 2]);
            out.extend(sequence.to_ne_bytes());
            out.extend([0; 4]);
            out
        };
        let mut refused = header(36, 2, 7);
        refused.extend((-libc::ENOENT).to_ne_bytes());
        refused.extend([0; 16]);
        let mut all = refused.clone();
        all.extend(header(20, 3, 0));
        all.extend([0; 4]);
        let outcome = Answer::Outcome {
            sequence: 7,
            errno: libc::ENOENT,
        };
        assert_eq!(answers(&all), Some(vec![outcome, Answer::Done]));
        assert_eq!(answers(&[]), Some(vec![]));
        for cut in 1..refused.len() {
            assert_eq!(answers(&refused[..cut]), None, "{cut}");
        }
        // A length below that of the header, or beyond the end.
        assert_eq!(answers(&header(0, 3, 0)), None);
        assert_eq!(answers(&header(4_000, 3, 0)), None);
        // An attribute whose length is 0 ends the search.
        assert_eq!(attribute(&[0; 8], 1), None);
        assert_eq!(
            attribute(&[6, 0, 1, 0, b'a', 0, 0, 0], 1),
            Some(&b"a\0"[..])
        );
    }
}
