//! Bodies that are read once more.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::mpsc;

use super::super::{BodySeen, KeptRequest};
use crate::body::Body;

type Part = Result<http_body::Frame<Bytes>, std::io::Error>;

/// A request whose body is what is sent.
fn streamed() -> (mpsc::UnboundedSender<Part>, Request<Body>) {
    let (send, mut parts) = mpsc::unbounded_channel::<Part>();
    let stream = futures_util::stream::poll_fn(move |cx| parts.poll_recv(cx));
    (
        send,
        Request::post("/a")
            .body(Body::new(StreamBody::new(stream)))
            .unwrap(),
    )
}

fn data(bytes: &'static [u8]) -> Part {
    Ok(http_body::Frame::data(Bytes::from_static(bytes)))
}

#[tokio::test]
async fn a_repeat_reads_what_was_read_and_then_what_still_comes() {
    let (send, mut request) = streamed();
    let kept = KeptRequest::of(&mut request);
    send.send(data(b"one")).unwrap();
    let mut first = request.into_body();
    assert_eq!(
        first.frame().await.unwrap().unwrap().into_data().unwrap(),
        "one"
    );
    let again = kept.again().unwrap();
    assert_eq!(
        (again.method(), again.uri().path()),
        (&http::Method::POST, "/a")
    );
    send.send(data(b"two")).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("sum", HeaderValue::from_static("6"));
    send.send(Ok(http_body::Frame::trailers(trailers.clone())))
        .unwrap();
    drop(send);
    // The first attempt takes nothing any more.
    assert!(first.frame().await.unwrap().is_err());
    let mut requests = vec![again];
    for _ in 0..2 {
        let request = requests.pop().unwrap();
        let body = request.into_body().collect().await.unwrap();
        assert_eq!(body.trailers(), Some(&trailers));
        assert_eq!(body.to_bytes(), "onetwo");
        requests.extend(kept.again());
    }
}

#[tokio::test]
async fn several_read_what_is_there_whole_and_none_before() {
    let (send, mut request) = streamed();
    let kept = KeptRequest::of(&mut request);
    send.send(data(b"one")).unwrap();
    assert_eq!(kept.body(), BodySeen::Coming);
    assert!(kept.beside().is_none());
    let mut first = request.into_body();
    first.frame().await.unwrap().unwrap();
    assert!(kept.beside().is_none());
    send.send(data(b"two")).unwrap();
    drop(send);
    first.frame().await.unwrap().unwrap();
    // The first one has read it, and not yet heard of its end.
    assert_eq!(kept.body(), BodySeen::Coming);
    assert!(first.frame().await.is_none());
    assert_eq!(kept.body(), BodySeen::Whole);
    let (other, third) = (kept.beside().unwrap(), kept.beside().unwrap());
    let (mut other, mut third) = (other.into_body(), third.into_body());
    for body in [&mut other, &mut third] {
        let frame = body.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "one");
    }
    for body in [other, third] {
        assert_eq!(body.collect().await.unwrap().to_bytes(), "two");
    }
}

#[tokio::test]
async fn a_long_or_broken_body_is_not_read_again() {
    const BIG: &[u8] = &[7; 40_000];
    for broken in [false, true] {
        let (send, mut request) = streamed();
        let kept = KeptRequest::of(&mut request);
        send.send(data(BIG)).unwrap();
        send.send(if broken {
            Err(std::io::ErrorKind::Other.into())
        } else {
            data(BIG)
        })
        .unwrap();
        drop(send);
        let read = request.into_body().collect().await;
        assert_eq!(
            read.map(|body| body.to_bytes().len()).ok(),
            (!broken).then_some(80_000)
        );
        assert!(!kept.is_whole());
        assert!(kept.again().is_none());
        assert!(kept.beside().is_none());
        assert_eq!(kept.body(), BodySeen::Gone);
    }
}

#[test]
fn a_body_in_memory_says_its_length_each_time() {
    use http_body::Body as _;
    let mut request = Request::put("/").body(Body::from("abc")).unwrap();
    let kept = KeptRequest::of(&mut request);
    for request in [request, kept.again().unwrap(), kept.again().unwrap()] {
        assert_eq!(request.body().size_hint().exact(), Some(3));
    }
}
