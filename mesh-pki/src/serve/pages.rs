//! Pages about a process over HTTP/1.1, for people and scrapers.

use std::future::{Future, pending};
use std::sync::Arc;

use bytes::Bytes;
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;

use super::{accept, http1, is_for_us};

/// Connections to [`pages`] at once; more wait to be accepted.
const MAX_PAGES: usize = 256;

/// Serves pages about this process over HTTP/1.1, for people and scrapers; it never ends.
///
/// `answer` gets the head of each request; a body is not read. HEAD comes to it as GET, and the body of its
/// answer is not sent. A request that a web page may have sent
/// through a browser ([`is_for_us`]) is answered with 403 before `answer` sees it. At most 256 connections are open at once, each idle for 5 s at most. Bind it to
/// loopback: it asks for no identity.
///
/// ```no_run
/// # async fn run(listener: tokio::net::TcpListener) {
/// use http::{Request, Response};
/// use inmesh_pki::serve::pages;
///
/// pages(listener, async |request: Request<()>| {
///     Response::new(format!("no page at {}", request.uri().path()).into())
/// })
/// .await;
/// # }
/// ```
pub async fn pages<F, R>(listener: TcpListener, answer: F)
where
    F: Fn(Request<()>) -> R + Send + Sync + 'static,
    R: Future<Output = Response<Bytes>> + Send,
{
    let answer = Arc::new(answer);
    let serve = |stream, _| {
        let answer = Arc::clone(&answer);
        Some(http1(stream, true, move |request| {
            let answer = Arc::clone(&answer);
            async move {
                let fields = request.headers().iter();
                let fields = fields.map(|(name, value)| (name.as_str(), value.as_bytes()));
                let authority = request.uri().authority().map(Authority::as_str);
                if let Err(reason) = is_for_us(authority, fields) {
                    let mut refusal = Response::new(Full::from(format!("{reason}\n")));
                    *refusal.status_mut() = StatusCode::FORBIDDEN;
                    return refusal;
                }
                let mut request = request.map(drop);
                if request.method() == Method::HEAD {
                    // The library sends the head of the answer alone (RFC 9110 section 9.3.2).
                    *request.method_mut() = Method::GET;
                }
                answer(request).await.map(Full::new)
            }
        }))
    };
    accept(&listener, "pages", MAX_PAGES, serve, pending()).await;
}
