//! Traffic: what is asked of requests besides where they go: time limits, repeats, hedges, the choice of
//! an endpoint, when one is ejected, and faults that are made on purpose.
//!
//! In come the [`TrafficPolicy`]s that reach a port, out comes the one [`Traffic`] that serves. Each
//! block is taken whole from the nearest policy that has it: of a rule, its route, the port, its
//! Service, the namespace, the mesh, and last what the process was built with. What serves knows the
//! object that each block came from. What a workload takes is a block of its own, for what `selector`
//! selects. Pure.

mod bandwidth;
mod fault;
mod invalid;
mod merge;
mod policy;
mod session;
mod shown;
mod split;

use std::sync::Arc;

pub use bandwidth::Bandwidth;
pub use fault::{Abort, FaultInjection, Injected, Percentage};
pub use invalid::InvalidFault;
pub(crate) use merge::{of_port, of_rule, of_workload};
pub use policy::{Blocks, InvalidTraffic, Target, TrafficPolicy};
pub(crate) use session::{Cookie, SessionScope, Token, nth_of_name};
pub use session::{CookieLifetime, InvalidSession, SessionPersistence, SessionType};
pub(crate) use shown::{Part, block, part};
pub use split::TrafficSplit;

use crate::balance::{CheckPolicy, EjectPolicy, Nearness, RequestLimits, SlowStart, Strategy};
use crate::model::{Block, ProxyVersion};
use crate::origination::Origination;
use crate::retry::{BudgetPolicy, HedgePolicy, RetryPolicy};
use crate::route::Timeouts;

/// What is asked of requests to one port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// How an endpoint is chosen.
    pub strategy: Block<Strategy>,
    /// How a new endpoint takes its share, if little by little.
    pub warmup: Option<Block<SlowStart>>,
    /// Which endpoints are preferred by where they are, if any are.
    pub nearness: Option<Block<Nearness>>,
    /// How many requests may be in flight.
    pub limits: Block<RequestLimits>,
    /// When one is ejected.
    pub eject: Block<EjectPolicy>,
    /// How endpoints are checked, if they are.
    pub check: Option<Block<Arc<CheckPolicy>>>,
    /// How many repeats there may be of all requests together.
    pub budget: Block<BudgetPolicy>,
    /// Time limits of requests for which no route says others.
    pub timeouts: Option<Block<Timeouts>>,
    /// What is sent again of requests for which no route says it.
    pub retry: Option<Block<Arc<RetryPolicy>>>,
    /// What is sent to several endpoints at once; `None` where a nearer policy has a `retry`.
    pub hedge: Option<Block<Arc<HedgePolicy>>>,
    /// Faults that are made on purpose.
    pub fault: Option<Block<Arc<FaultInjection>>>,
    /// TLS that is spoken to its servers outside the mesh, whatever their own documents say.
    pub tls: Option<Block<Arc<Origination>>>,
    /// How each connection begins with the address of the caller, if it does.
    pub proxy_protocol: Option<Block<ProxyVersion>>,
    /// How clients stay with one endpoint, if they do.
    pub session: Option<Block<Arc<SessionPersistence>>>,
}

// === impl Traffic ===

impl Traffic {
    /// What a process is built with.
    ///
    /// ```
    /// use inmesh_core::balance::{EjectPolicy, Strategy};
    /// use inmesh_core::traffic::Traffic;
    /// let built = Traffic::built(Strategy::LeastRequest, EjectPolicy::default());
    /// assert_eq!(built, Traffic::default());
    /// ```
    pub fn built(strategy: Strategy, eject: EjectPolicy) -> Self {
        Self {
            strategy: Block::built(strategy),
            eject: Block::built(eject),
            ..Self::default()
        }
    }

    /// Whether it says something of each request that a route may say too.
    pub(crate) fn is_of_requests(&self) -> bool {
        let of_sending = self.timeouts.is_some() || self.retry.is_some();
        let of_sending = of_sending || self.hedge.is_some();
        of_sending || self.fault.is_some() || self.session.is_some()
    }
}

#[cfg(test)]
mod tests;
