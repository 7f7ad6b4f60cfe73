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
    ] {
        let name = http::HeaderName::from_static(name);
        let value = http::HeaderValue::from_static("1");
        let changes = HeaderChanges::new;
        assert!(
            changes().set(name.clone(), value.clone()).is_err(),
            "{name}"
        );
        assert!(changes().add(name.clone(), value).is_err(), "{name}");
        assert!(changes().remove(name.clone()).is_err(), "{name}");
    }
}
