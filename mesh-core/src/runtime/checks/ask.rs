//! One check of one endpoint.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderValue, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::balance::CheckKind;
use crate::body::Body;
use crate::connect::{Connector, Way, forward};
use crate::identify::{Inner, Tls};
use crate::model::AppProtocol;
use crate::retry::Reuse;
use crate::snapshot::Checkable;

/// How much of an answer is read, in bytes.
const ANSWER: usize = 64 << 10;
/// The method of gRPC's health checking protocol.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The bytes of a message that begins with `status: SERVING` (field 1, a varint of 1).
const SERVING: [u8; 2] = [0x08, 0x01];
/// What comes before a message of gRPC: a flag, and its length.
const PREFIX: usize = 5;

/// Asks an endpoint whether it serves; the error says why it does not.
pub(super) async fn ask(
    connector: &Connector,
    tls: &Tls,
    target: &Checkable,
) -> Result<(), String> {
    match &target.policy.kind {
        CheckKind::Grpc(service) => {
            let mut request = Request::new(Body::from(message(service)));
            *request.method_mut() = Method::POST;
            *request.uri_mut() = Uri::from_static(CHECK);
            let grpc = HeaderValue::from_static("application/grpc");
            request.headers_mut().insert(CONTENT_TYPE, grpc);
            request
                .headers_mut()
                .insert(TE, HeaderValue::from_static("trailers"));
            let (_, bytes, trailers) =
                send(connector, tls, target, request, AppProtocol::Grpc).await?;
            let status = trailers.get("grpc-status").map(HeaderValue::as_bytes);
            match (status, bytes.get(PREFIX..)) {
                (Some(b"0"), Some(message)) if message.starts_with(&SERVING) => Ok(()),
                (Some(b"0"), _) => Err("it says that it does not serve".into()),
                (Some(status), _) => Err(format!("grpc-status {}", status.escape_ascii())),
                (None, _) => Err("an answer without a grpc-status".into()),
            }
        }
        CheckKind::Http(path, statuses) => {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = Uri::try_from(&**path).map_err(|e| e.to_string())?;
            let (status, ..) = send(connector, tls, target, request, target.protocol).await?;
            match statuses.contains(&status) {
                true => Ok(()),
                false => Err(format!("status {status}")),
            }
        }
        CheckKind::Tcp => {
            let inner = match target.protocol {
                AppProtocol::Grpc | AppProtocol::Http2 => Inner::Http2,
                AppProtocol::Http1 => Inner::Http1,
                AppProtocol::Detect | AppProtocol::Tcp => Inner::Tcp,
            };
            let opened = connector.open(tls, &target.member, inner, None, None).await;
            opened.map(drop).map_err(|e| e.to_string())
        }
    }
}

/// The status of an answer, the begin of its body, and its trailers, or its header where it has none.
async fn send(
    connector: &Connector,
    tls: &Tls,
    target: &Checkable,
    mut request: Request<Body>,
    protocol: AppProtocol,
) -> Result<(u16, Bytes, HeaderMap), String> {
    let agent = HeaderValue::from_static("inmesh-health-check");
    request.headers_mut().insert(USER_AGENT, agent);
    let authority = format!("{}:{}", target.host, target.port);
    let version = forward(&mut request, protocol, &authority).version();
    // It finds out about the endpoint, also while as many connections are open as may be.
    let way = Way {
        version,
        reuse: Reuse::Allowed,
        waits: None,
        now: Instant::now(),
        origin: None,
    };
    let sent = connector.send(tls, &target.member, &mut request, way).await;
    let sent = sent.map_err(|unsent| unsent.error.to_string())?;
    let (head, mut body) = sent.response.into_parts();
    let (mut bytes, mut trailers) = (BytesMut::new(), head.headers);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| e.to_string())?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > ANSWER => break,
            Ok(data) => bytes.put(data),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok((head.status.as_u16(), bytes.freeze(), trailers))
}

/// A `HealthCheckRequest` (field 1, the service's name) with its prefix.
fn message(service: &str) -> Bytes {
    let mut text = BytesMut::new();
    if !service.is_empty() {
        text.put_u8(0x0a);
        // Its length is bounded to one byte of a varint where it is read.
        text.put_u8(u8::try_from(service.len()).unwrap_or(u8::MAX).min(0x7f));
        text.put(service.as_bytes());
    }
    let mut message = BytesMut::new();
    message.put_u8(0);
    message.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    message.put(text);
    message.freeze()
}
