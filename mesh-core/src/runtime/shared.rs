//! What all stacks of a runtime share.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use inmesh_pki::Crypto;
use inmesh_pki::clock::Clock;
use inmesh_pki::serve::Places;
use inmesh_pki::store::IdentityReader;
use tokio_util::task::TaskTracker;

use super::asked::AskedHosts;
use super::call::Call;
use super::exchange::{Ledger, Pending};
use super::first::ServerFirst;
use super::limits::Limits;
use super::listening::Listening;
use super::mirror::places::Mirrors;
use super::spent::Spent;
use super::upstream::Upstreams;
use crate::accept::{ConnState, Sockets};
use crate::authorize::{Authorizers, PathForm};
use crate::body::Body;
use crate::budget::Budget;
use crate::connect::{Flow, Switched, drained, splice};
use crate::discover::Demand;
use crate::drain::Drain;
use crate::error::Error;
use crate::fields::NO_RETRY;
use crate::identify::{Live, Tls};
use crate::local::Local;
use crate::retry::NoRetry;
use crate::snapshot::SnapshotReader;
use crate::telemetry::{LabelText, Recorder, Seldom, Series};

pub(super) struct Shared {
    pub(super) reader: SnapshotReader,
    pub(super) identity: IdentityReader,
    pub(super) crypto: Crypto,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) live: Arc<Live>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) authorizers: Authorizers,
    pub(super) limits: Arc<Limits>,
    pub(super) sockets: Arc<Sockets>,
    /// The connections of each peer to all inbound listeners.
    pub(super) peers: Places,
    /// What bodies may hold.
    pub(super) budget: Arc<Budget>,
    pub(super) paths: PathForm,
    pub(super) server_first: ServerFirst,
    pub(super) spent: Spent,
    pub(super) drain: Drain,
    /// The tasks that serve connections.
    pub(super) tracker: TaskTracker,
    pub(super) listening: Listening,
    pub(super) mirrors: Mirrors,
    pub(super) asked: AskedHosts,
    /// What no source has pushed.
    pub(super) demand: Demand,
    /// Lines of the log about callers that have no identity.
    pub(super) strangers: Seldom,
}

impl Shared {
    /// Mesh TLS as a local workload.
    pub(super) fn tls(&self, local: &Arc<Local>) -> Arc<Tls> {
        let (identity, crypto) = (&self.identity, &self.crypto);
        Arc::new(Tls::new(local, identity, crypto, &self.clock, &self.live))
    }

    /// Where the requests of a connection, or those of this process itself, are written.
    pub(super) fn ledger(&self, series: Arc<Series>, state: Option<Arc<ConnState>>) -> Arc<Ledger> {
        Arc::new(Ledger {
            recorder: Arc::clone(&self.recorder),
            upstreams: Arc::clone(&self.upstreams),
            series,
            state,
        })
    }

    /// An endpoint's answer has failed for good, if it has: it says so to the hop above if this hop or one
    /// below has done what may be done.
    #[cold]
    pub(super) fn failed_below(&self, answer: &mut Response<Body>, call: &Call) {
        if !is_failure(answer, call) {
            // What was sent again has come to a good end, or a code that only looks like a failure.
            answer.headers_mut().remove(NO_RETRY);
            return;
        }
        let here = call.attempts.no_retry();
        if !NoRetry::is_in(answer.headers()) {
            let Some(why) = here else {
                return;
            };
            why.write(answer.headers_mut());
        }
        self.spent.note(call.exchange.trace.trace_id, self.now());
    }

    /// The same of a request that no endpoint has answered.
    #[cold]
    pub(super) fn failed_here(&self, error: Error, call: &Call) -> Error {
        let error = error.with_no_retry(call.attempts.no_retry());
        if error.no_retry().is_some() {
            self.spent.note(call.exchange.trace.trace_id, self.now());
        }
        error
    }

    /// An application's answer fails because of one that it has got, if that is so: it says the same to
    /// the hop above.
    #[cold]
    pub(super) fn fails_by_other(&self, answer: &mut Response<Body>, call: &Call) {
        let trace = call.exchange.trace.trace_id;
        if is_failure(answer, call) && self.spent.has(trace, self.now()) {
            NoRetry::Spent.write(answer.headers_mut());
        }
    }

    /// The same of an application that has not answered.
    #[cold]
    pub(super) fn failed_by_other(&self, error: Error, call: &Call) -> Error {
        let trace = call.exchange.trace.trace_id;
        let known = self.spent.any() && self.spent.has(trace, self.now());
        error.with_no_retry(known.then_some(NoRetry::Spent))
    }

    fn now(&self) -> Duration {
        self.upstreams.now()
    }

    /// Joins two connections that have left HTTP, in a task of their own, until both have ended or
    /// `denied` says that they must.
    pub(super) fn splice(
        &self,
        mut pending: Pending,
        switched: Switched,
        denied: impl Future<Output = Error> + Send + 'static,
    ) {
        pending.switched(&switched.caller);
        let drain = self.drain.clone();
        self.tracker.spawn(async move {
            let mut flow = Flow::default();
            let cut = async {
                tokio::select! {
                    biased;
                    // What is cut fails too, and would hide why.
                    error = drained(drain) => error,
                    error = denied => error,
                }
            };
            let result = splice(switched, cut, &mut flow).await;
            pending.joined(&flow, result);
        });
    }

    /// The SPIFFE ID of a local workload, as metrics name it. Where it has none of its own the name
    /// follows the default identity, which may come later and may change.
    pub(super) fn principal(&self, local: &Local) -> LabelText {
        match local.identity() {
            Some(id) => id.as_str().into(),
            None => LabelText::Identity(self.identity.clone()),
        }
    }
}

/// Whether an answer says, with its head, that the request has failed.
fn is_failure(answer: &Response<Body>, call: &Call) -> bool {
    let status = answer.status();
    let grpc = call.exchange.protocol.grpc_status(answer.headers());
    status.is_client_error() || status.is_server_error() || grpc.is_some_and(|code| code != 0)
}
