use proptest::prelude::*;

use super::*;

fn section(label: &str, der: &[u8]) -> String {
    let mut text = String::new();
    encode(&mut text, label, der);
    text
}

proptest! {
    #[test]
    fn what_is_encoded_reads_back(der in proptest::collection::vec(any::<u8>(), 1..300)) {
        let text = section("PRIVATE KEY", &der);
        prop_assert!(text.lines().all(|line| line.len() <= 64));
        prop_assert_eq!(&*private_key(text.as_bytes()).unwrap(), &der);
    }

    #[test]
    fn no_text_is_too_strange(text in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = (certificates(&text), private_key(&text), revocation_lists(&text));
    }
}

/// Two certificates, one after the other, as tools and people write them.
#[test]
fn every_section_counts_however_it_is_written() {
    let [one, two] = [b"one one one", b"two two two"].map(|der| section("CERTIFICATE", der));
    let indented =
        |text: &str| -> String { text.lines().map(|line| format!("  \t{line}  \n")).collect() };
    let joined = one.lines().collect::<String>();
    for text in [
        format!("{one}{two}"),
        format!("{}{two}", one.trim_end()),
        format!("\u{feff}{one}{two}"),
        format!("{one}\u{feff}{two}"),
        format!("{}{}", indented(&one), indented(&two)),
        format!("{one}{two}").replace('\n', "\r\n"),
        format!("{one}{two}").replace('\n', "\r"),
        format!("{joined} {two}"),
        format!("subject=CN = one\n-- \n{one}# two - the other\n\n{two}\n\n"),
        format!("{one}{two}").replace("CERTIFICATE", "X509 CERTIFICATE"),
        format!("{}{one}{two}", section("PRIVATE KEY", b"key")),
        format!("{one}{}{two}", section("DH PARAMETERS", b"numbers")),
        format!("{one}{}{two}", section("CERTIFICATE REQUEST", b"request")),
    ] {
        let certs = certificates(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
        let certs: Vec<&[u8]> = certs.iter().map(|cert| cert.as_ref()).collect();
        assert_eq!(certs, [b"one one one", b"two two two"], "{text}");
    }
}

#[test]
fn what_could_vanish_is_refused() {
    let good = section("CERTIFICATE", b"good");
    let label = |label: &str| PemError::UnknownLabel {
        label: label.to_owned(),
    };
    for (bad, error) in [
        (
            section("TRUSTED CERTIFICATE", b"x"),
            label("TRUSTED CERTIFICATE"),
        ),
        (section("PKCS7", b"x"), label("PKCS7")),
        (section("certificate", b"x"), label("certificate")),
        (section("CERTIFICATE", b""), PemError::Section),
        (good.replace("-----BEGIN", "----BEGIN"), PemError::Section),
        (
            good.replace("-----BEGIN ", "----- BEGIN "),
            PemError::Section,
        ),
        (good.replace("BEGIN", "Begin"), PemError::Section),
        (good.replace("-----END", "----END"), PemError::Section),
        (
            good.replace("END CERTIFICATE", "END X509 CRL"),
            PemError::Section,
        ),
        (good.replace("Z29v", "Z2#v"), PemError::Base64),
        (good.replace("Z29v", "Z2=v"), PemError::Base64),
        (good[..good.len() - 9].to_owned(), PemError::Section),
        (good[..30].to_owned(), PemError::Section),
        ("-----END CERTIFICATE-----\n".to_owned(), PemError::Section),
        (
            format!("-----BEGIN {}-----", "A".repeat(99)),
            PemError::Section,
        ),
    ] {
        for text in [format!("{good}{bad}"), format!("{bad}{good}")] {
            assert_eq!(
                certificates(text.as_bytes()).as_ref(),
                Err(&error),
                "{text}"
            );
            assert_eq!(private_key(text.as_bytes()), Err(error.clone()), "{text}");
            assert_eq!(
                revocation_lists(text.as_bytes()),
                Err(error.clone()),
                "{text}"
            );
        }
    }
    assert_eq!(certificates(b"\xff\xfe-\0"), Err(PemError::NotText));
    assert_eq!(certificates(b""), Err(PemError::NoCertificate));
    assert_eq!(revocation_lists(good.as_bytes()), Err(PemError::NoCrl));
    assert_eq!(private_key(good.as_bytes()), Err(PemError::NoKey));
}

/// A certificate as long as one is.
fn long(label: &str) -> String {
    let der: Vec<u8> = (0..400_u32).map(|n| (n * n * 31 % 251) as u8).collect();
    section(label, &der)
}

/// `text` in UTF-16, with the lower byte of each unit first.
fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn what_is_no_section_and_was_meant_as_one_is_refused() {
    let (good, other) = (long("CERTIFICATE"), long("X509 CERTIFICATE"));
    let bare: String = other.lines().filter(|l| !l.starts_with('-')).collect();
    let lines = |width: usize| {
        let lines = bare.as_bytes().chunks(width);
        let lines = lines.map(|line| format!("{}\n", String::from_utf8_lossy(line)));
        lines.collect::<String>()
    };
    let with = |dashes: &str| other.replace("-----", dashes);
    let texts = [
        (with("\u{2013}\u{2013}\u{2013}"), PemError::Section),
        (with("\u{2014}"), PemError::Section),
        (with("-"), PemError::Section),
        (with("\u{2212}\u{2212}"), PemError::Section),
        (with(""), PemError::Section),
        (with("*****"), PemError::Section),
        (with("===== "), PemError::Section),
        (with("\u{2014}\u{2014} "), PemError::Section),
        (
            other.replace("-----BEGIN ", "-----\u{a0}BEGIN "),
            PemError::Section,
        ),
        (
            other.replace("BEGIN X509 ", "BEGIN\u{a0}X509\u{a0}"),
            PemError::Section,
        ),
        (other.replace("BEGIN ", "BEGIN  "), PemError::Section),
        (other.replace("BEGIN ", "begin "), PemError::Section),
        (
            "_BEGIN_CERTIFICATE REQUEST_\n".to_owned(),
            PemError::Section,
        ),
        ("# END RSA PRIVATE KEY\r\n".to_owned(), PemError::Section),
        (bare.replace("BEGIN", ""), PemError::Unarmoured),
        (lines(64), PemError::Unarmoured),
        (lines(76), PemError::Unarmoured),
        (lines(48), PemError::Unarmoured),
        (lines(64).replace('\n', "\r"), PemError::Unarmoured),
        (
            format!("CERTIFICATE-----\n{}", lines(64)),
            PemError::Unarmoured,
        ),
        (format!("> {}", lines(64)), PemError::Unarmoured),
        (format!(r#"{{"x5c": ["{bare}"]}}"#), PemError::Unarmoured),
        (format!("ca.crt: {bare}\n"), PemError::Unarmoured),
    ];
    let der: Vec<u8> = [&[0x30, 0x82, 0x01, 0x00][..], &[0x41; 256]].concat();
    let key = [&[0x30, 0x2e, 2, 1, 0][..], b"an Ed25519 key"].concat();
    let mut unbroken = utf16(&other);
    unbroken.drain(..2);
    let bytes = [
        der,
        key,
        utf16(&other),
        utf16(&format!("\u{feff}{other}")),
        unbroken,
        b"\xe9".to_vec(),
        b"\x1b[1m".to_vec(),
    ];
    let bytes = bytes.map(|bytes| (bytes, PemError::NotText));
    let texts = texts.map(|(text, error)| (text.into_bytes(), error));
    for (bad, error) in texts.into_iter().chain(bytes) {
        for text in [
            [good.as_bytes(), &bad].concat(),
            [&bad, &b"\n"[..], good.as_bytes()].concat(),
            [good.as_bytes(), &bad, &b"\n"[..], good.as_bytes()].concat(),
            bad.clone(),
        ] {
            let shown = String::from_utf8_lossy(&text).into_owned();
            assert_eq!(certificates(&text), Err(error.clone()), "{shown}");
            assert_eq!(roots(&text), Err(error.clone()), "{shown}");
            assert_eq!(private_key(&text), Err(error.clone()), "{shown}");
            assert_eq!(revocation_lists(&text), Err(error.clone()), "{shown}");
        }
    }
}

/// What tools and people write between sections.
#[test]
fn comments_are_passed_over() {
    let good = long("CERTIFICATE");
    let ruler = "=".repeat(70);
    for comment in [
        "",
        "\u{feff}",
        "Bag Attributes\n    friendlyName: cart\n    localKeyID: 54 69 6D 65 20 31 \n\
         Key Attributes: <No Attributes>\nsubject=C = US, O = \"Shop, Inc.\", CN = cart\n\n\
         issuer=/C=US/O=Shop/OU=2048/CN=Shop Root CA - G2\n",
        "Certificate:\n    Data:\n        Version: 3 (0x2)\n        Serial Number:\n            \
         5c:33:cb:62:2c:5f:b3:32:b8:20:00:00:00:00:00:01\n    Signature Algorithm: \
         ecdsa-with-SHA256\n        Validity\n            Not Before: Nov 29 06:38:00 2026 GMT\n\
         \x20       X509v3 extensions:\n            X509v3 Subject Alternative Name: critical\n\
         \x20               URI:spiffe://td/ns/shop/sa/cart\n            X509v3 Key Usage: \
         critical\n                Certificate Sign, CRL Sign\n    Signature Value:\n        \
         30:45:02:21:00:c9:63:40:7a:fb:11:4a:90:6b:0c:fd:b2:d3:\n        a0:9b\n",
        &format!(
            "# Issuer: CN=GlobalSign Root CA O=GlobalSign nv-sa\n# Label: \"GlobalSign\"\n{ruler}\n"
        ),
        "# SHA256 Fingerprint: eb:d4:10:40:e4:bb:3e:c7:42:c9:e3:81:d3:1e\n",
        "sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\n",
        "Modulus=B0A1C2D3E4F5061728394A5B6C7D8E9FB0A1C2D3E4F5061728394A5B6C7D8E9F01\n",
        "SHA1 Fingerprint=B1:BC:96:8B:D4:F4:9D:62:2A:A8:9A:81:F2:15:01:52:A4:1D:82:9C\n",
        "# pin-sha256: 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n",
        "Alias name: cart\nCreation date: Nov 29, 2026\nEntry type: trustedCertEntry\n\n\
         *******************************************\n",
        "--\n-- \n---\n",
        "# the end certificate - and at the end the root - END OF LIST\n",
        "# ===== BEGIN CERTIFICATES OF THE SHOP =====\n# Certificados raíz — fin\n",
        "ISSUER: CN=Weekend Private Key Recovery, BEGINNING 2026\n",
        "\x1a",
    ] {
        for text in [
            format!("{comment}{good}"),
            format!("{good}{comment}"),
            format!("{good}{comment}{good}"),
        ] {
            let read = roots(text.as_bytes());
            let count = text.matches("BEGIN CERTIFICATE-").count();
            assert_eq!(read.map(|certs| certs.len()), Ok(count), "{text}");
        }
    }
}

/// What may stand beside what is read, and what would be ignored there.
#[test]
fn a_section_that_is_not_read_there_is_refused() {
    let [cert, key, crl] = ["CERTIFICATE", "PRIVATE KEY", "X509 CRL"].map(long);
    let here = |label| PemError::NotReadHere { label };
    let others = [
        ("CERTIFICATE", &cert),
        ("CERTIFICATE REQUEST", &long("NEW CERTIFICATE REQUEST")),
        ("EC PARAMETERS", &long("EC PARAMETERS")),
        ("EC PRIVATE KEY", &long("EC PRIVATE KEY")),
        ("ENCRYPTED PRIVATE KEY", &long("ENCRYPTED PRIVATE KEY")),
        ("PRIVATE KEY", &key),
        ("PUBLIC KEY", &long("DH PARAMETERS")),
        ("RSA PRIVATE KEY", &long("RSA PRIVATE KEY")),
        ("X509 CRL", &crl),
    ];
    for (label, other) in others {
        let expected = |own: &str, refused: bool| match refused && label != own {
            true => Err(here(label)),
            false => Ok(()),
        };
        for order in [false, true] {
            let beside = |own: &String| match order {
                true => format!("{own}{other}"),
                false => format!("{other}{own}"),
            };
            let (certs, lists) = (beside(&cert), beside(&crl));
            let read = roots(certs.as_bytes()).map(drop);
            assert_eq!(read, expected("CERTIFICATE", true), "roots and {label}");
            let read = revocation_lists(lists.as_bytes()).map(drop);
            assert_eq!(read, expected("X509 CRL", true), "lists and {label}");
            let list = label == "X509 CRL";
            let read = certificates(certs.as_bytes()).map(drop);
            assert_eq!(read, expected("", list), "a chain and {label}");
            if list || label.starts_with("CERTIFICATE") {
                let read = private_key(beside(&key).as_bytes()).map(drop);
                assert_eq!(read, expected("", list), "a key and {label}");
            }
            let (found, lists) = certificates_and_lists(certs.as_bytes()).unwrap();
            assert_eq!(lists.len(), usize::from(list));
            assert!(!found.is_empty());
        }
    }
}

#[test]
fn encrypted_broken_and_several_keys_are_refused() {
    let plain = section("PRIVATE KEY", b"0");
    let header = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
         DEK-Info: AES-128-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    for (text, error) in [
        (section("ENCRYPTED PRIVATE KEY", b"0"), PemError::Encrypted),
        (header.to_owned(), PemError::Encrypted),
        (format!("{plain}{plain}"), PemError::ManyKeys),
        (
            format!("{plain}{}", section("EC PRIVATE KEY", b"0")),
            PemError::ManyKeys,
        ),
        (
            section("EC PRIVATE KEY", b"0"),
            PemError::KeyForm {
                label: "EC PRIVATE KEY",
            },
        ),
        (
            section("RSA PRIVATE KEY", b"0"),
            PemError::KeyForm {
                label: "RSA PRIVATE KEY",
            },
        ),
    ] {
        assert_eq!(private_key(text.as_bytes()), Err(error), "{text}");
    }
}

#[cfg(feature = "aws-lc-rs")]
#[test]
fn pkcs1_keys_become_pkcs8() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let pkcs8 = pair.serialize_der();
    let pkcs1 = der::tests::key_of_pkcs8(&pkcs8);
    let text = section("RSA PRIVATE KEY", &pkcs1);
    assert_eq!(*private_key(text.as_bytes()).unwrap(), pkcs8);
}

/// The same key in each form that OpenSSL writes is the same key here.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
#[test]
fn sec1_keys_become_pkcs8() {
    let pair = rcgen::KeyPair::generate().unwrap();
    let pkcs8 = pair.serialize_der();
    let (curve, sec1) = der::tests::parts_of_ec_pkcs8(&pkcs8);
    // As PKCS#8 holds it, without its curve, and as a file of its own does, with it.
    let with_curve = der::tests::with_curve(&sec1, &curve);
    for text in [
        section("EC PRIVATE KEY", &with_curve),
        section("EC PARAMETERS", &curve) + &section("EC PRIVATE KEY", &with_curve),
        section("EC PARAMETERS", &curve) + &section("EC PRIVATE KEY", &sec1),
    ] {
        let key = crate::svid::PrivateKey::from_pem(text.as_bytes()).unwrap();
        let read = crate::issue::make::CaKey::read(&key).unwrap();
        use rcgen::PublicKeyData;
        assert_eq!(read.der_bytes(), pair.der_bytes());
    }
    let lost = section("EC PRIVATE KEY", &sec1);
    assert!(private_key(lost.as_bytes()).is_err(), "no curve");
}
