//! Edits of heads, one table each.

use super::*;

type Result = std::result::Result<(), Box<dyn std::error::Error>>;

/// The table of the Gateway API (HTTPPathModifier, ReplacePrefixMatch).
#[test]
fn a_prefix_is_replaced_as_the_gateway_api_has_it() -> Result {
    for (path, prefix, replacement, wanted) in [
        ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
        ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
        ("/foo", "/foo", "/xyz", "/xyz"),
        ("/foo/", "/foo", "/xyz", "/xyz/"),
        ("/foo/bar", "/foo", "", "/bar"),
        ("/foo/", "/foo", "", "/"),
        ("/foo", "/foo", "", "/"),
        ("/foo/", "/foo", "/", "/"),
        ("/foo", "/foo", "/", "/"),
        ("/foo", "/", "/xyz", "/xyz/foo"),
        // What comes after the prefix stays as it came, whatever its spelling.
        ("/%C3%BC//b%2Fc", "/ü", "/xyz", "/xyz//b%2Fc"),
        ("/ü/a%3ab/é", "/%c3%bc/a:b", "/xyz", "/xyz/é"),
        ("/ü", "/%c3%bc", "/xyz", "/xyz"),
    ] {
        let matched = PathMatch::literal(prefix, true)?;
        let rewrite = PathRewrite::prefix(replacement)?;
        let found = rewrite.apply(path, Some(&matched));
        assert_eq!(found, wanted, "{path} {prefix} {replacement:?}");
    }
    // No condition is the prefix `/`.
    assert_eq!(PathRewrite::prefix("/xyz")?.apply("/foo", None), "/xyz/foo");
    // Only a prefix can be replaced.
    let exact = PathMatch::literal("/foo", false)?;
    let found = PathRewrite::prefix("/xyz")?;
    assert_eq!(found.apply("/foo", Some(&exact)), "/foo");
    assert_eq!(
        PathRewrite::full("/xyz")?.apply("/foo", Some(&exact)),
        "/xyz"
    );
    Ok(())
}

#[test]
fn a_path_that_is_not_canonical_is_no_replacement() {
    for path in [
        "a", "/a/./b", "/a/../b", "/%2e", "/a?b", "/a#b", "/%2f", "*", "/%00",
    ] {
        assert!(PathRewrite::full(path).is_err(), "{path}");
        assert!(PathRewrite::prefix(path).is_err(), "{path}");
    }
    assert!(PathRewrite::full("").is_err());
}

/// Ports as the Gateway API has them (HTTPRequestRedirectFilter, `port`).
#[test]
fn a_location_names_a_port_where_it_must() -> Result {
    let redirect = Redirect::new;
    for (redirect, authority, port, wanted) in [
        (redirect(), "cart", 80, "http://cart/a"),
        (redirect(), "cart:8080", 8080, "http://cart:8080/a"),
        (
            redirect().with_scheme("https")?,
            "cart:8080",
            8080,
            "https://cart/a",
        ),
        (
            redirect().with_scheme("http")?,
            "cart:8080",
            8080,
            "http://cart/a",
        ),
        (redirect().with_port(8443), "cart", 80, "http://cart:8443/a"),
        (
            redirect().with_scheme("https")?.with_port(443),
            "cart",
            80,
            "https://cart/a",
        ),
        (
            redirect().with_host("next.lab")?,
            "cart",
            80,
            "http://next.lab/a",
        ),
        (redirect(), "[::1]:8080", 8080, "http://[::1]:8080/a"),
        (
            redirect().with_path(PathRewrite::full("/b")?),
            "cart",
            80,
            "http://cart/b",
        ),
    ] {
        let found = redirect.location(authority, port, "/a", None, None);
        assert_eq!(found, wanted, "{redirect:?}");
    }
    Ok(())
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    for status in [0, 200, 300, 304, 309, 404] {
        assert!(Redirect::new().with_status(status).is_err(), "{status}");
    }
    assert!(Redirect::new().with_scheme("ftp").is_err());
    for host in ["", "a b", "a:80", "u@a", "a/b"] {
        assert!(Redirect::new().with_host(host).is_err(), "{host:?}");
        assert!(Rewrite::new().with_host(host).is_err(), "{host:?}");
    }
    for status in [0, 101, 199, 600] {
        assert!(Respond::new(status, "").is_err(), "{status}");
    }
    assert!(Respond::new(200, vec![0; 64 * 1024]).is_ok());
    assert!(Respond::new(200, vec![0; 64 * 1024 + 1]).is_err());
}

#[test]
fn fields_that_frame_a_message_are_the_proxys_own() {
    for name in [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "x-mesh-mirrored",
        "x-mesh-no-retry",
        "x-mesh-reason",
    ] {
        let name = http::HeaderName::from_static(name);
        let value = HeaderValue::from_static("1");
        let changes = HeaderChanges::new;
        assert!(
            changes().set(name.clone(), value.clone()).is_err(),
            "{name}"
        );
        assert!(changes().add(name.clone(), value).is_err(), "{name}");
        assert!(changes().remove(name.clone()).is_err(), "{name}");
    }
}

/// The Gateway API, HTTPHeaderFilter.
#[test]
fn a_field_is_changed_once() {
    type Changed = std::result::Result<HeaderChanges, crate::route::InvalidRoute>;
    type Change = fn(HeaderChanges, http::HeaderName) -> Changed;
    let all: [Change; 3] = [
        |changes, name| changes.set(name, HeaderValue::from_static("1")),
        |changes, name| changes.add(name, HeaderValue::from_static("2")),
        HeaderChanges::remove,
    ];
    let name = |name: &str| name.parse::<http::HeaderName>().expect("a name");
    for first in all {
        for second in all {
            let one = first(HeaderChanges::new(), name("x-a")).expect("free");
            assert!(second(one.clone(), name("x-b")).is_ok());
            let again = second(one, name("X-A")).expect_err("it is changed");
            assert!(again.to_string().contains("x-a"), "{again}");
        }
    }
}

fn fields(of: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in of {
        let name: http::HeaderName = name.parse().expect("a name");
        headers.append(name, HeaderValue::from_str(value).expect("a value"));
    }
    headers
}

fn sorted(headers: &HeaderMap) -> Vec<String> {
    let line = |(name, value): (&http::HeaderName, &HeaderValue)| {
        format!("{name}: {}", value.to_str().expect("text"))
    };
    let mut lines: Vec<_> = headers.iter().map(line).collect();
    lines.sort();
    lines
}

/// The table of the Gateway API (HTTPCORSFilter, `allowOrigins`).
#[test]
fn an_origin_is_allowed_by_scheme_host_and_port() -> Result {
    for (allowed, origin, wanted) in [
        ("*", "https://a.b", true),
        ("*", "null", true),
        ("https://a.b", "https://a.b", true),
        ("https://a.b", "https://A.B", true),
        ("https://a.b", "https://a.b:443", true),
        ("https://a.b:443", "https://a.b", true),
        ("http://a.b", "http://a.b:80", true),
        ("https://a.b", "https://a.b:8443", false),
        ("https://a.b:8443", "https://a.b:8443", true),
        ("https://a.b", "http://a.b", false),
        ("https://a.b", "https://x.a.b", false),
        ("https://a.b", "https://a.b.x", false),
        ("https://a.b", "https://a.b/", false),
        ("https://a.b", "null", false),
        ("https://a.b", "", false),
        ("https://*.a.b", "https://x.a.b", true),
        ("https://*.a.b", "https://x.y.A.b", true),
        ("https://*.a.b", "https://a.b", false),
        ("https://*.a.b", "https://.a.b", false),
        ("https://*.a.b", "https://xa.b", false),
        ("https://*.a.b", "https://x.a.b:8443", false),
        ("https://*.a.b:8443", "https://x.a.b:8443", true),
        ("https://*", "https://a", true),
        ("https://*", "https://[::1]", true),
        ("https://*", "http://a", false),
        ("http://*:81", "http://[::1]:81", true),
        ("http://*:81", "http://a:82", false),
        ("http://127.0.0.1:81", "http://127.0.0.1:81", true),
        ("http://*", "http://a:b", false),
    ] {
        let cors = Cors::new().allow_origin(allowed)?;
        assert_eq!(cors.allows(origin), wanted, "{allowed} {origin:?}");
    }
    for wrong in [
        "",
        "a",
        "http://",
        "http://a b",
        "http://*a",
        "http://a.*.b",
        "http://a..b",
        "http://a:",
        "http://a:x",
        "http://u@a",
        "HTTP://a",
        "http://a?b",
        "**",
    ] {
        assert!(Cors::new().allow_origin(wrong).is_err(), "{wrong:?}");
    }
    Ok(())
}

/// Preflights and answers: the examples of the Gateway API.
#[test]
fn a_preflight_and_an_answer_say_what_is_allowed() -> Result {
    let some = Cors::new()
        .allow_origin("https://foo.lab")?
        .allow_method("GET")?
        .allow_method("OPTIONS")?
        .allow_header("x-1")?
        .allow_header("X-2")?
        .expose_header("x-3")?;
    let all = || {
        let cors = Cors::new().allow_origin("*")?.allow_method("*")?;
        cors.allow_header("*")?.expose_header("*")
    };
    let with = all()?.allow_credentials(true).with_max_age(60);
    let (own, names) = (
        ("vary", "origin"),
        "access-control-request-method, access-control-request-headers",
    );
    let asked = [
        ("origin", "https://foo.lab"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-9, x-8"),
    ];
    type Said<'a> = Vec<(&'a str, &'a str)>;
    let rows: [(&Cors, Said<'_>, Said<'_>, Said<'_>); 5] = [
        (
            &some,
            asked.to_vec(),
            vec![
                ("access-control-allow-headers", "x-1, X-2"),
                ("access-control-allow-methods", "GET, OPTIONS"),
                ("access-control-allow-origin", "https://foo.lab"),
                ("access-control-expose-headers", "x-3"),
                ("access-control-max-age", "5"),
                own,
            ],
            vec![
                ("access-control-allow-origin", "https://foo.lab"),
                ("access-control-expose-headers", "x-3"),
                own,
            ],
        ),
        (
            &some,
            vec![("origin", "https://bar.lab"), asked[1]],
            vec![own],
            vec![own],
        ),
        (
            &all()?,
            asked.to_vec(),
            vec![
                ("access-control-allow-headers", "*"),
                ("access-control-allow-methods", "*"),
                ("access-control-allow-origin", "*"),
                ("access-control-expose-headers", "*"),
                ("access-control-max-age", "5"),
            ],
            vec![
                ("access-control-allow-origin", "*"),
                ("access-control-expose-headers", "*"),
            ],
        ),
        (
            &with,
            asked.to_vec(),
            vec![
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-headers", "x-9, x-8"),
                ("access-control-allow-methods", "PUT"),
                ("access-control-allow-origin", "https://foo.lab"),
                ("access-control-max-age", "60"),
                ("vary", names),
                own,
            ],
            vec![
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-origin", "https://foo.lab"),
                own,
            ],
        ),
        // What is not asked for is not allowed.
        (
            &with,
            asked[..2].to_vec(),
            vec![
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-methods", "PUT"),
                ("access-control-allow-origin", "https://foo.lab"),
                ("access-control-max-age", "60"),
                ("vary", names),
                own,
            ],
            vec![
                ("access-control-allow-credentials", "true"),
                ("access-control-allow-origin", "https://foo.lab"),
                own,
            ],
        ),
    ];
    for (cors, asked, preflight, answer) in rows {
        let asked = fields(&asked);
        let mut found = HeaderMap::new();
        cors.answer_preflight(&asked, &mut found);
        assert_eq!(sorted(&found), sorted(&fields(&preflight)), "{cors:?}");
        // As an answer that the filters of its rule have seen.
        let mut found = HeaderMap::new();
        cors.edit_answer(asked.get("origin"), &mut found);
        cors.answer_preflight(&asked, &mut found);
        assert_eq!(sorted(&found), sorted(&fields(&preflight)), "{cors:?}");
        // What a server has said of its origin is not said again.
        for said in ["*", "accept, Origin"] {
            let mut found = fields(&[("vary", said)]);
            cors.edit_answer(asked.get("origin"), &mut found);
            assert_eq!(found.get_all("vary").iter().count(), 1, "{cors:?}");
        }
        // What the server says of it is replaced.
        let mut found = fields(&[
            ("access-control-allow-origin", "https://evil.lab"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "DELETE"),
        ]);
        cors.edit_answer(asked.get("origin"), &mut found);
        assert_eq!(sorted(&found), sorted(&fields(&answer)), "{cors:?}");
    }
    Ok(())
}
