//! The webhook of a control plane that puts the mesh beside Pods as they are made.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use inmesh_discovery::inject::{Sidecar, review};
use inmesh_pki::Crypto;
use inmesh_pki::bundle::federate::{HttpsCertificate, WebCertificate, serve_https};
use inmesh_pki::clock::SystemClock;
use inmesh_pki::store::IdentityReader;
use tokio::net::TcpListener;

use crate::agent::Agent;

/// The largest review that is read: an object has 1.5 MiB at most, and a review two of them.
const MAX_REVIEW: usize = 8 * 1024 * 1024;

/// A webhook that is bound and does not serve yet.
pub(crate) struct Webhook {
    sidecar: Sidecar,
    socket: TcpListener,
    /// What it serves with, where that is not its SVID.
    web: Option<WebCertificate>,
}

impl Webhook {
    /// Binds it, where the agent is a control plane with one.
    pub(crate) async fn bind(agent: &Agent) -> anyhow::Result<Option<Self>> {
        let plane = agent.followed.control_plane.as_ref();
        let Some(inject) = plane.and_then(|plane| plane.inject.as_ref()) else {
            return Ok(None);
        };
        let bound = TcpListener::bind(inject.bind).await;
        let socket = bound.with_context(|| format!("listening on {}", inject.bind))?;
        let web = match &inject.files {
            None => None,
            Some([certificate, key]) => {
                let web = WebCertificate::open(certificate, key, &Crypto::aws_lc_rs());
                Some(web.context("controlPlane.inject of the agent's file")?)
            }
        };
        Ok(Some(Self {
            sidecar: inject.sidecar.clone(),
            socket,
            web,
        }))
    }

    /// Serves reviews at `/inject` for as long as the process runs, in a task of its own. It needs nothing
    /// that a source brings, for the API server that calls it may be starting itself.
    pub(crate) fn serve(self, identity: IdentityReader) {
        if let Ok(address) = self.socket.local_addr() {
            tracing::info!(%address, "Pods are injected by reviews at /inject");
        }
        let certificate = match self.web {
            Some(web) => web.into(),
            None => HttpsCertificate::Svid(identity),
        };
        let (socket, sidecar) = (self.socket, Arc::new(self.sidecar));
        let answer = move |request: Request<Bytes>| {
            let sidecar = Arc::clone(&sidecar);
            async move { answer(&request, &sidecar) }
        };
        tokio::spawn(async move {
            let (crypto, clock) = (Crypto::aws_lc_rs(), SystemClock::shared());
            let for_ever = std::future::pending();
            serve_https(
                socket,
                certificate,
                &crypto,
                clock,
                MAX_REVIEW,
                answer,
                for_ever,
            )
            .await;
        });
    }
}

/// The answer to one review.
fn answer(request: &Request<Bytes>, sidecar: &Sidecar) -> Response<Bytes> {
    let plain = |status: StatusCode, text: String| {
        let mut response = Response::new(Bytes::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/inject" || *request.method() != Method::POST {
        return plain(StatusCode::NOT_FOUND, String::new());
    }
    match review(request.body(), sidecar) {
        Ok(answer) => {
            let mut response = plain(StatusCode::OK, answer.to_string());
            let kind = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, kind);
            response
        }
        Err(error) => plain(StatusCode::BAD_REQUEST, error.to_string()),
    }
}
