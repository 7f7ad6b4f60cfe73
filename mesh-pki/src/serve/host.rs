//! Whether a request for a page was meant for this process, and was not sent by a web page.

use std::net::IpAddr;

/// Why a request for a page is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotForUs {
    /// The Host is missing, stands twice, or is a name that may lead anywhere.
    #[error("the Host must be an address or localhost")]
    Host,
    /// A web page of another origin has sent it.
    #[error("a web page of another origin has sent this request")]
    Origin,
}

/// Checks the fields of a request for pages that ask for no identity, and the authority of its target where
/// that is in absolute form (`GET http://site.example/livez`), which counts in place of `Host` (RFC 9112
/// section 3.2.2).
///
/// 1. The one `Host`, and the authority, must be an address or `localhost`: a browser that a foreign name leads to this
///    process (DNS rebinding) sends that name.
/// 2. An `Origin` must be that of the Host, and a `Sec-Fetch-Site` must be `same-origin` or `none`
///    (the operator has typed the address): a browser sends them with what a web page asks for, and
///    no page can leave them out. Clients that are no browsers send neither.
///
/// # Errors
///
/// [`NotForUs`]; the request must be answered with 403.
///
/// ```
/// use inmesh_pki::serve::{NotForUs, is_for_us};
///
/// let curl: [(&str, &[u8]); 1] = [("host", b"127.0.0.1:15000")];
/// assert_eq!(is_for_us(None, curl), Ok(()));
/// assert_eq!(is_for_us(Some("site.example"), curl), Err(NotForUs::Host));
/// let page: [(&str, &[u8]); 2] = [("host", b"localhost"), ("origin", b"https://site.example")];
/// assert_eq!(is_for_us(None, page), Err(NotForUs::Origin));
/// ```
pub fn is_for_us<'h>(
    authority: Option<&str>,
    fields: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<(), NotForUs> {
    let (mut host, mut origins, mut from_page) = (None, Vec::new(), false);
    for (name, value) in fields {
        match name {
            "host" if host.is_some() => return Err(NotForUs::Host),
            "host" => host = Some(value),
            "origin" => origins.push(value),
            "sec-fetch-site" => from_page |= value != b"same-origin" && value != b"none",
            _ => {}
        }
    }
    let host = host.and_then(|host| std::str::from_utf8(host).ok());
    let host = host.filter(|host| is_local(host)).ok_or(NotForUs::Host)?;
    if authority.is_some_and(|authority| !is_local(authority)) {
        return Err(NotForUs::Host);
    }
    let host = authority.unwrap_or(host);
    let own = format!("http://{host}");
    let foreign = |origin: &[u8]| !origin.eq_ignore_ascii_case(own.as_bytes());
    if from_page || origins.into_iter().any(foreign) {
        return Err(NotForUs::Origin);
    }
    Ok(())
}

fn is_local(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
        Some((v6, _)) => v6,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_no_web_page_can_send_is_for_us() {
        use NotForUs::{Host, Origin};

        const OWN: &str = "host: 127.0.0.1:15000";
        let check = |fields: &[&str], expected: Result<(), NotForUs>| {
            let split = fields.iter().map(|field| {
                let (name, value) = field.split_once(": ").unwrap_or((field, ""));
                (name, value.as_bytes())
            });
            assert_eq!(is_for_us(None, split.clone()), expected, "{fields:?}");
            // The authority of a target is no way past them.
            if expected.is_err() && !fields.iter().any(|field| field.starts_with("origin")) {
                assert_eq!(is_for_us(Some("localhost"), split.clone()), expected);
            }
            assert!(is_for_us(Some("site.example"), split).is_err());
        };
        for host in ["localhost", "LOCALHOST:1", "[::1]:15000", "10.0.0.7:80"] {
            check(&[&format!("host: {host}")], Ok(()));
        }
        check(&[], Err(Host));
        check(&[OWN, "host: site.example"], Err(Host));
        check(&[OWN, OWN], Err(Host));
        for host in ["rebound.example:15000", "", "localhost.site.example", "["] {
            check(&[&format!("host: {host}")], Err(Host));
        }
        check(&[OWN, "user-agent: curl", "accept: */*"], Ok(()));
        check(&[OWN, "origin: http://127.0.0.1:15000"], Ok(()));
        for origin in [
            "null",
            "",
            "https://site.example",
            "http://127.0.0.1:8080",
            "http://127.0.0.1",
            "https://127.0.0.1:15000",
            "http://localhost:15000",
            "http://127.0.0.1:15000.site.example",
            "http://127.0.0.1:15000 http://site.example",
        ] {
            check(&[OWN, &format!("origin: {origin}")], Err(Origin));
        }
        let absolute = |authority, fields: &[(&'static str, &'static [u8])]| {
            is_for_us(Some(authority), fields.iter().copied())
        };
        let host: (&str, &[u8]) = ("host", b"127.0.0.1:15000");
        for good in ["localhost", "127.0.0.1:15000", "[::1]"] {
            assert_eq!(absolute(good, &[host]), Ok(()), "{good}");
        }
        for bad in [
            "site.example",
            "site.example:80",
            "u@localhost",
            "localhost.site.example",
        ] {
            assert_eq!(absolute(bad, &[host]), Err(Host), "{bad}");
        }
        // The origin is compared with what counts.
        let origin: (&str, &[u8]) = ("origin", b"http://127.0.0.1:15000");
        assert_eq!(absolute("localhost", &[host, origin]), Err(Origin));
        assert_eq!(absolute("127.0.0.1:15000", &[host, origin]), Ok(()));
        let own = "origin: http://127.0.0.1:15000";
        check(&[OWN, own, "origin: http://site.example"], Err(Origin));
        for site in ["none", "same-origin"] {
            check(&[OWN, &format!("sec-fetch-site: {site}")], Ok(()));
        }
        for site in ["cross-site", "same-site", "", "None", "same-origin, none"] {
            check(&[OWN, &format!("sec-fetch-site: {site}")], Err(Origin));
            check(&[OWN, own, &format!("sec-fetch-site: {site}")], Err(Origin));
        }
    }
}
