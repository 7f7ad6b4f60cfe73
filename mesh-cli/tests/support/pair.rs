//! An agent in front of a plain server and one in front of its callers, as most tests need them.

use std::net::SocketAddr;
use std::path::Path;

use super::{Agent, Home, free, service};

/// Only `web` of `test.local` may reach the application.
const POLICY: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: app, namespace: shop}
spec:
  selector: {matchLabels: {app: app}}
  action: ALLOW
  rules: [{from: [{source: {principals: [test.local/ns/shop/sa/web]}}]}]
";

/// What a pair is made of. The agents' files deny by default and take no plaintext.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    /// Where the plain server listens.
    pub(crate) app: SocketAddr,
    /// What it speaks: `http` or `tcp`.
    pub(crate) protocol: &'a str,
    /// The ID of the agent before it.
    pub(crate) id: &'a str,
    /// What else stands in that agent's file.
    pub(crate) server: &'a str,
    /// What else stands in the file of the agent before the callers, and in its environment.
    pub(crate) client: &'a str,
    pub(crate) environment: &'a [(&'a str, &'a Path)],
}

impl<'a> Pair<'a> {
    /// Two workloads of `test.local` before an HTTP server.
    pub(crate) fn new(app: SocketAddr) -> Self {
        Self {
            app,
            protocol: "http",
            id: "spiffe://test.local/ns/shop/sa/app",
            server: "",
            client: "",
            environment: &[],
        }
    }

    /// Starts both, the server's first, and waits until they are ready; returns where callers knock.
    pub(crate) async fn start(self, home: &Home) -> (Agent, Agent, SocketAddr) {
        let (inner, door) = (free(), free());
        let (app, protocol) = (self.app, self.protocol);
        let file = |more: &str, listener: String| {
            format!("{more}defaultAction: deny\npeers: strict\nlisteners: [{{{listener}}}]\n")
        };
        let inbound =
            format!("bind: '{inner}', inbound: {{app: '{app}', appProtocol: {protocol}}}");
        let server = file(self.server, inbound);
        let server = home.agent("app", &server, &[("policy.yaml", POLICY)]).await;

        // Bytes that name no authority need a Service that is named for them.
        let to = if protocol == "tcp" {
            ", service: {name: app, port: 80}"
        } else {
            ""
        };
        let outbound = format!("bind: '{door}', outbound: {{appProtocol: {protocol}{to}}}");
        let ids = format!("inmesh.dev/ids: {}", self.id);
        let documents = service("app", inner, &ids)
            .replace("appProtocol: http", &format!("appProtocol: {protocol}"));
        let client = file(self.client, outbound);
        let documents = [("app.yaml", &*documents)];
        let client = home
            .agent_with("web", &client, &documents, self.environment)
            .await;
        (server, client, door)
    }
}
