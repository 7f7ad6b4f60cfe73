use proptest::prelude::*;

use super::*;
use crate::testing::fixture;

#[track_caller]
fn refused(text: &str, why: IdError) {
    assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
}

#[test]
fn each_rule_has_its_own_error() {
    refused("", IdError::Empty);
    refused("https://td/a", IdError::Scheme);
    refused("SPIFFE://td/a", IdError::Scheme);
    refused("spiffe:/td/a", IdError::Scheme);
    refused("spiffe://", IdError::NoTrustDomain);
    refused("spiffe:///a", IdError::NoTrustDomain);
    refused("spiffe://Td/a", IdError::TrustDomainChar { got: 'T' });
    refused("spiffe://u@td/a", IdError::TrustDomainChar { got: '@' });
    refused("spiffe://td:443/a", IdError::TrustDomainChar { got: ':' });
    refused("spiffe://t%64/a", IdError::TrustDomainChar { got: '%' });
    refused("spiffe://td?q", IdError::TrustDomainChar { got: '?' });
    refused("spiffe://td/a?q=1", IdError::PathChar { got: '?' });
    refused("spiffe://td/a#f", IdError::PathChar { got: '#' });
    refused("spiffe://td/%61", IdError::PathChar { got: '%' });
    refused("spiffe://td/a b", IdError::PathChar { got: ' ' });
    refused("spiffe://td/ä", IdError::PathChar { got: 'ä' });
    refused("spiffe://td/", IdError::TrailingSlash);
    refused("spiffe://td/a/", IdError::TrailingSlash);
    refused("spiffe://td//a", IdError::EmptySegment);
    refused("spiffe://td/a/./b", IdError::DotSegment);
    refused("spiffe://td/a/../b", IdError::DotSegment);
}

#[test]
fn the_length_limits_are_inclusive() {
    let longest = format!("spiffe://td/{}", "a".repeat(MAX_ID_LEN - 12));
    assert_eq!(
        longest.parse::<SpiffeId>().unwrap().as_str().len(),
        MAX_ID_LEN
    );
    refused(
        &format!("{longest}a"),
        IdError::TooLong {
            got: 2049,
            max: 2048,
        },
    );
    let name = "d".repeat(MAX_TRUST_DOMAIN_LEN);
    assert_eq!(name.parse::<TrustDomain>().unwrap().as_str(), name);
    refused(
        &format!("spiffe://{name}d/a"),
        IdError::TrustDomainTooLong { got: 256, max: 255 },
    );
}

#[test]
fn ip_like_names_are_names_and_paths_keep_their_case() {
    let id: SpiffeId = "spiffe://127.0.0.1/A".parse().unwrap();
    assert_eq!(id.trust_domain().as_str(), "127.0.0.1");
    assert_ne!(id, "spiffe://127.0.0.1/a".parse().unwrap());
}

#[test]
fn a_trust_domain_is_a_bare_name() {
    assert_eq!(
        "spiffe://td".parse::<TrustDomain>(),
        Err(IdError::TrustDomainChar { got: ':' })
    );
    assert_eq!("".parse::<TrustDomain>(), Err(IdError::NoTrustDomain));
    let domain: TrustDomain = "td".parse().unwrap();
    assert_eq!(domain.id().as_str(), "spiffe://td");
    assert_eq!(domain.id().path(), "");
}

#[test]
fn the_workload_shape_is_exact() {
    let domain: TrustDomain = "td".parse().unwrap();
    let id = SpiffeId::for_workload(&domain, "shop", "cart").unwrap();
    assert_eq!(id.as_str(), "spiffe://td/ns/shop/sa/cart");
    assert_eq!(id.workload(), Some(("shop", "cart")));
    for other in [
        "/ns/a",
        "/ns/a/sa",
        "/ns/a/sa/b/c",
        "/x/a/sa/b",
        "/sa/b/ns/a",
        "/ns/a/b/sa/c",
    ] {
        let id: SpiffeId = format!("spiffe://td{other}").parse().unwrap();
        assert_eq!(id.workload(), None, "{other}");
    }
    assert_eq!(
        SpiffeId::for_workload(&domain, "shop/sa/root", "cart"),
        Err(IdError::PathChar { got: '/' })
    );
    assert_eq!(
        SpiffeId::for_workload(&domain, "..", "cart"),
        Err(IdError::DotSegment)
    );
    assert_eq!(
        SpiffeId::for_workload(&domain, "shop", ""),
        Err(IdError::EmptySegment)
    );
}

#[test]
fn serde_checks_what_it_reads() {
    let id: SpiffeId = serde_json::from_str("\"spiffe://td/a\"").unwrap();
    assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/a\"");
    assert!(serde_json::from_str::<SpiffeId>("\"spiffe://td/\"").is_err());
    assert!(serde_json::from_str::<TrustDomain>("\"TD\"").is_err());
}

#[test]
fn bytes_are_refused_before_they_are_text() {
    assert_eq!(parse_bytes(b"spiffe://td/\xff"), Err(IdError::NotAscii));
    assert_eq!(
        parse_bytes(&vec![b'a'; 1 << 20]),
        Err(IdError::TooLong {
            got: 1 << 20,
            max: MAX_ID_LEN
        })
    );
    assert_eq!(parse_bytes(b"spiffe://td/a").unwrap().path(), "/a");
}

#[test]
fn go_spiffe_vectors() {
    let Some(text) = fixture("spiffe/spiffe-id-vectors.json", 537) else {
        return;
    };
    let vectors: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let valid: Vec<String> = serde_json::from_value(vectors["valid"].clone()).unwrap();
    let invalid: Vec<(String, String)> =
        serde_json::from_value(vectors["invalid"].clone()).unwrap();
    assert_eq!(valid.len() + invalid.len(), 537);
    for text in valid {
        assert_eq!(text.parse::<SpiffeId>().map(|id| id.to_string()), Ok(text));
    }
    for (text, why) in invalid {
        let error = text.parse::<SpiffeId>().expect_err(&text);
        let ours = match error {
            IdError::DotSegment => "path cannot contain dot segments",
            IdError::Empty => "cannot be empty",
            IdError::EmptySegment => "path cannot contain empty segments",
            IdError::NoTrustDomain => "trust domain is missing",
            IdError::PathChar { .. } => "path segment characters",
            IdError::Scheme => "scheme is missing or invalid",
            IdError::TrailingSlash => "path cannot have a trailing slash",
            IdError::TrustDomainChar { .. } => "trust domain characters",
            other => panic!("{text}: {other}"),
        };
        assert!(
            why.starts_with(ours),
            "{text}: we say {ours}, they say {why}"
        );
    }
}

proptest! {
    #[test]
    fn what_parses_prints_back(text in "spiffe://[a-z0-9._-]{1,20}(/[a-zA-Z0-9._-]{1,8}){0,4}") {
        if let Ok(id) = text.parse::<SpiffeId>() {
            prop_assert_eq!(id.as_str(), &text);
            let parts = format!("spiffe://{}{}", id.trust_domain(), id.path());
            prop_assert_eq!(parts, text);
        } else {
            // Only a segment of dots can be wrong in this alphabet.
            prop_assert!(text.split('/').any(|s| s == "." || s == ".."));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut text = b"spiffe://".to_vec();
        text.extend(&bytes);
        if let Ok(id) = parse_bytes(&text) {
            prop_assert_eq!(id.as_str().as_bytes(), &text[..]);
        }
        let _ = parse_bytes(&bytes);
    }
}
