//! Faults that a policy has made, of a planned request.

use std::sync::Arc;

use http::{HeaderValue, Response};

use super::Planned;
use crate::body::Body;
use crate::error::{Error, Reason, grpc_of};
use crate::model::Block;
use crate::traffic::{Abort, FaultInjection, Injected};

impl Planned {
    /// What is made to happen to the request on purpose; `None` if no policy has faults made of it.
    pub fn injected(&self) -> Option<Injected> {
        self.rare.as_ref()?.injected
    }

    /// The faults, of a policy for the rule, else for the backend.
    pub fn fault(&self) -> Option<&Block<Arc<FaultInjection>>> {
        let table = &self.asked.service.routes;
        let of_rule = self.matched.and_then(|matched| matched.fault(table));
        of_rule.or_else(|| self.traffic.as_ref()?.fault.as_ref())
    }

    /// The answer in place of the server's, if the request is aborted, and the same as an error; `grpc`
    /// is the content type of a caller of gRPC.
    pub(crate) fn aborted(&self, grpc: Option<HeaderValue>) -> Option<(Error, Response<Body>)> {
        let abort = self.injected()?.abort?;
        let mut error = Error::new(Reason::FaultInjected, "a policy aborts it on purpose");
        if let Some(from) = self.fault().and_then(|fault| fault.from.clone()) {
            error = error.with_policy(from);
        }
        let mut answer = match abort {
            Abort::Http(status) if grpc.is_none() => {
                let mut answer = error.response_as(None);
                *answer.status_mut() = status;
                answer
            }
            abort => {
                let code = match abort {
                    Abort::Grpc(code) => code,
                    Abort::Http(status) => grpc_of(status),
                };
                let mut answer = error.response_as(grpc);
                let code = HeaderValue::from(u16::from(code));
                answer.headers_mut().insert("grpc-status", code);
                answer
            }
        };
        // A caller in a browser may read it as it may any answer of the route.
        self.edit_response(answer.headers_mut());
        Some((error, answer))
    }
}
