//! The size of header lists as HTTP/2 counts it (RFC 9113 section 6.5.2), and what a peer takes of them.

use http::{HeaderMap, Request, Response, header};
use http_body::Body as _;

use crate::body::Body;

/// What counts for each field beside its name and value.
const FIELD: usize = 32;
/// `:status` and three digits.
const STATUS: usize = 7 + 3 + FIELD;
/// A `Date` field.
const DATE: usize = 4 + 29 + FIELD;
/// A `Content-Length` field with the longest number.
const LENGTH: usize = 14 + 20 + FIELD;

/// The largest header list that a caller takes: an extension of its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room(pub(super) u32);

/// A header list that is larger than what its reader takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header list of {size} bytes, at most {most} are taken")]
pub(crate) struct TooLarge {
    /// The size as HTTP/2 counts it.
    size: u32,
    /// What the reader's settings say.
    most: u32,
}

// === impl Room ===

impl Room {
    /// Compares a size with it.
    pub(super) fn check(self, size: usize) -> Result<(), TooLarge> {
        let (size, most) = (u32::try_from(size).unwrap_or(u32::MAX), self.0);
        match size > most {
            true => Err(TooLarge { size, most }),
            false => Ok(()),
        }
    }

    /// Compares trailers with it.
    pub(crate) fn check_trailers(self, trailers: &HeaderMap) -> Result<(), TooLarge> {
        self.check(fields(trailers))
    }

    /// Compares the head of an answer with it, and what the connection may add to that.
    pub(crate) fn check_answer(self, answer: &Response<Body>) -> Result<(), TooLarge> {
        let headers = answer.headers();
        let mut size = STATUS + fields(headers);
        if !headers.contains_key(header::DATE) {
            size += DATE;
        }
        let exact = answer.body().size_hint().exact();
        if exact.is_some() && !headers.contains_key(header::CONTENT_LENGTH) {
            size += LENGTH;
        }
        self.check(size)
    }
}

/// The size of the fields of a head or of trailers.
fn fields(fields: &HeaderMap) -> usize {
    let sizes = fields.iter().map(|(n, v)| field(n.as_str().len(), v.len()));
    sizes.sum()
}

fn field(name: usize, value: usize) -> usize {
    name + value + FIELD
}

/// The size of the head of a request.
pub(super) fn of_request(request: &Request<Body>) -> usize {
    let uri = request.uri();
    let part = |text: Option<&str>| text.map_or(0, str::len);
    field(7, request.method().as_str().len())
        + field(7, part(uri.scheme_str()))
        + field(10, part(uri.authority().map(|a| a.as_str())))
        + field(5, part(uri.path_and_query().map(|p| p.as_str())))
        + fields(request.headers())
}

/// The size of the head of an answer as it is sent.
pub(super) fn of_answer(headers: &HeaderMap) -> usize {
    STATUS + fields(headers)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_list_is_as_large_as_http2_counts_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(of_answer(&headers), 42);
        headers.append("x-a", HeaderValue::from_static("bc"));
        headers.append("x-a", HeaderValue::from_static("d"));
        assert_eq!(of_answer(&headers), 42 + 37 + 36);
        let room = Room(73);
        assert_eq!(room.check_trailers(&headers), Ok(()));
        headers.append("x-a", HeaderValue::from_static(""));
        let (size, most) = (108, 73);
        let large = TooLarge { size, most };
        assert_eq!(room.check_trailers(&headers), Err(large));
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = "http://cart/a".parse().unwrap();
        assert_eq!(of_request(&request), 42 + 43 + 46 + 39);
    }

    /// What is found to fit does fit with the fields that are added on the way.
    #[test]
    fn an_answer_has_room_for_its_date_and_length() {
        let answer = Response::new(Body::from("whole"));
        let size = u32::try_from(STATUS + DATE + LENGTH).unwrap();
        assert!(Room(size).check_answer(&answer).is_ok());
        assert!(Room(size - 1).check_answer(&answer).is_err());
        let (mut head, body) = answer.into_parts();
        let value = |text| HeaderValue::from_static(text);
        head.headers.insert(header::CONTENT_LENGTH, value("5"));
        head.headers
            .insert(header::DATE, value("Sun, 06 Nov 1994 08:49:37 GMT"));
        let size = u32::try_from(of_answer(&head.headers)).unwrap();
        let answer = Response::from_parts(head, body);
        assert!(Room(size).check_answer(&answer).is_ok());
        assert!(Room(size - 1).check_answer(&answer).is_err());
    }
}
