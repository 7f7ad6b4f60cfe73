//! Tokens, and how long what they stand for lasts.

use http::header::COOKIE;
use proptest::prelude::*;

use super::*;
use crate::model::{Kind, Namespace};

const NOW: u32 = 1_700_000_000;

fn at(seconds: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds.into())
}

fn limits(absolute: Option<u64>, idle: Option<u64>) -> SessionPersistence {
    let [absolute, idle] = [absolute, idle].map(|limit| limit.map(Duration::from_secs));
    let by = SessionPersistence::new(SessionType::Cookie(CookieLifetime::Session));
    by.with_timeouts(absolute, idle).unwrap()
}

fn token(begun: u32, used: u32) -> Token {
    Token {
        backend: 7,
        endpoint: NonZeroU64::MIN,
        begun,
        used,
    }
}

fn rule(name: &str) -> ObjectKey {
    ObjectKey::new(Kind::HttpRoute, &Namespace::new("shop").unwrap(), name).unwrap()
}

fn service(name: &str) -> ServiceName {
    ServiceName::new(&Namespace::new("shop").unwrap(), name).unwrap()
}

#[test]
fn a_session_ends_after_its_timeouts() {
    for (absolute, idle, begun, used, ended) in [
        (None, None, 0, 0, false),
        (None, None, NOW + 1_000, 0, false),
        (Some(100), None, NOW - 99, 0, false),
        (Some(100), None, NOW - 100, NOW, true),
        (None, Some(10), 0, NOW - 9, false),
        (None, Some(10), NOW, NOW - 10, true),
        (Some(100), Some(10), NOW - 99, NOW - 9, false),
        (Some(100), Some(10), NOW - 100, NOW - 9, true),
        (Some(100), Some(10), NOW - 99, NOW - 10, true),
        // What another agent, whose clock is ahead, has handed out; and what nothing has.
        (Some(100), None, NOW + 60, NOW, false),
        (Some(100), None, NOW + 61, NOW, true),
        (None, Some(100), NOW, u32::MAX, true),
    ] {
        let (policy, token) = (limits(absolute, idle), token(begun, used));
        let shown = (absolute, idle, begun, used);
        assert_eq!(policy.has_ended(token, at(NOW)), ended, "{shown:?}");
    }
}

#[test]
fn an_answer_hands_out_what_the_request_has_not_shown() {
    let (own, other) = (NonZeroU64::MIN, NonZeroU64::MAX);
    let old = token(NOW - 50, NOW - 5);
    let fresh = |endpoint| {
        Some(Token {
            endpoint,
            ..token(NOW, NOW)
        })
    };
    for (idle, shown, endpoint, wanted) in [
        (None, None, own, fresh(own)),
        (None, Some(old), own, None),
        // Another endpoint: another session.
        (None, Some(old), other, fresh(other)),
        // Its use is noted, once in a second.
        (Some(60), Some(old), own, Some(token(NOW - 50, NOW))),
        (Some(60), Some(token(NOW - 50, NOW)), own, None),
    ] {
        let next = limits(Some(100), idle).next(7, shown, endpoint, at(NOW));
        assert_eq!(next, wanted, "{shown:?}");
    }
}

#[test]
fn a_cookie_is_as_its_lifetime_says() {
    let scope = SessionScope::of_rule((&rule("cart"), 0));
    let hour = Some(Duration::from_secs(3_600));
    let of = |by| SessionPersistence::new(by).named("stay").unwrap();
    let cookie = |lifetime| of(SessionType::Cookie(lifetime));
    let permanent = cookie(CookieLifetime::Permanent).with_timeouts(hour, None);
    let at_root = Cookie {
        path: Some("/".into()),
        secure: false,
    };
    let bare = Cookie {
        path: None,
        secure: true,
    };
    let text = token(NOW - 600, NOW).to_string();
    assert_eq!(text.len(), DIGITS);
    for (policy, to, name, wanted) in [
        (
            cookie(CookieLifetime::Session),
            &at_root,
            "set-cookie",
            format!("stay={text}; Path=/; HttpOnly; SameSite=Strict"),
        ),
        (
            permanent.unwrap(),
            &bare,
            "set-cookie",
            format!("stay={text}; Max-Age=3000; Secure; HttpOnly; SameSite=Strict"),
        ),
        (of(SessionType::Header), &at_root, "stay", text.clone()),
    ] {
        let field = policy.hand_out(scope, token(NOW - 600, NOW), to, at(NOW));
        let (named, value) = field.unwrap();
        assert_eq!((named.as_str(), value.to_str().unwrap()), (name, &*wanted));
        // What is handed out is read again.
        let mut headers = HeaderMap::new();
        let (name, value) = match policy.by() {
            SessionType::Header => (named, value),
            SessionType::Cookie(_) => {
                let pair = wanted.split(';').next().unwrap();
                (
                    COOKIE,
                    HeaderValue::try_from(format!("a=b; {pair}")).unwrap(),
                )
            }
        };
        headers.insert(name, value);
        let read = |backend| policy.shown(scope, &headers, |of| of == backend);
        assert_eq!(read(7), Some(token(NOW - 600, NOW)));
        assert_eq!(read(8), None, "it is another's");
    }
}

/// Of cookies of one name, which have several paths, the one of the backend counts.
#[test]
fn the_cookie_of_the_backend_is_found_among_others_of_its_name() {
    let policy = SessionPersistence::new(SessionType::Cookie(CookieLifetime::Session));
    let policy = policy.named("stay").unwrap();
    let other = Token {
        backend: 8,
        ..token(1, 1)
    };
    let text = format!("stay=x; stay={other}; stay={}; stay", token(2, 2));
    let mut headers = HeaderMap::new();
    headers.insert(COOKIE, HeaderValue::try_from(text).unwrap());
    let scope = SessionScope::of_rule((&rule("cart"), 0));
    let shown = policy.shown(scope, &headers, |of| of == 7);
    assert_eq!(shown, Some(token(2, 2)));
}

/// A session is of one rule, one backend and, of equal backends, one place.
#[test]
fn no_two_backends_have_one_number() {
    let (cart, web) = (rule("cart"), rule("web"));
    let mut met = std::collections::BTreeSet::new();
    let (v1, v2) = (service("v1"), service("v2"));
    let scopes = [
        SessionScope::of_rule((&cart, 0)),
        SessionScope::of_rule((&cart, 1)),
        SessionScope::of_rule((&web, 0)),
        SessionScope::of_service(None, (&v1, 80)),
        SessionScope::of_service(None, (&v1, 81)),
        SessionScope::of_service(Some((&cart, 0)), (&v1, 80)),
        SessionScope::of_service(Some((&cart, 1)), (&v1, 80)),
    ];
    for scope in scopes {
        for (service, port, nth) in [(&v1, 80, 0), (&v1, 80, 1), (&v1, 81, 0), (&v2, 80, 0)] {
            assert!(met.insert(scope.backend(service, port, nth)));
        }
    }
    let names = [(&v1, 80), (&v2, 80), (&v1, 80), (&v1, 81), (&v1, 80)];
    let nth = |place| nth_of_name(names.into_iter(), place);
    assert_eq!([0, 1, 2, 3, 4].map(nth), [0, 0, 1, 0, 2]);
}

#[test]
fn what_cannot_be_is_refused() {
    let cookie = || SessionPersistence::new(SessionType::Cookie(CookieLifetime::Permanent));
    let header = || SessionPersistence::new(SessionType::Header);
    let long = "a".repeat(NAME_BYTES);
    assert!(cookie().named(&long).is_ok() && header().named(&long).is_ok());
    for name in ["", "a b", "a=b", "a;b", "ä", &format!("{long}a")] {
        assert!(cookie().named(name).is_err(), "{name:?}");
        assert!(header().named(name).is_err(), "{name:?}");
    }
    // A cookie has its own room of names.
    for name in ["host", "content-length", "Set-Cookie", "x-mesh-reason"] {
        assert!(cookie().named(name).is_ok(), "{name}");
        assert!(header().named(name).is_err(), "{name}");
    }
    let second = Duration::from_secs(1);
    for limit in [
        Duration::ZERO,
        Duration::from_millis(999),
        315_360_001 * second,
    ] {
        assert!(cookie().with_timeouts(Some(limit), None).is_err());
        assert!(cookie().with_timeouts(None, Some(limit)).is_err());
    }
    assert!(cookie().check().is_err() && header().check().is_ok());
    assert!(
        cookie()
            .with_timeouts(Some(second), None)
            .unwrap()
            .check()
            .is_ok()
    );
}

proptest! {
    #[test]
    fn a_token_is_read_as_it_is_written(
        backend: u64,
        endpoint in 1_u64..,
        begun: u32,
        used: u32,
    ) {
        let endpoint = NonZeroU64::new(endpoint).unwrap_or(NonZeroU64::MIN);
        let token = Token { backend, endpoint, begun, used };
        prop_assert_eq!(Token::parse(token.to_string().as_bytes()), Some(token));
    }

    #[test]
    fn what_is_no_token_is_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let read = Token::parse(&bytes);
        prop_assert!(read.is_none() || bytes.len() == DIGITS);
    }
}
