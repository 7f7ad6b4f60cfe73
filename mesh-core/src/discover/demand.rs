//! What requests ask for and no source has pushed: a source that knows more than it pushes is asked for it.
//!
//! 1. Something that is asked for the first time waits until a source has answered, for a bounded time.
//! 2. What a source has found stays wanted, so that it is followed. What it has not found is answered at
//!    once from then on, and stays wanted too: it may come.
//! 3. Of what is wanted there is a bounded number. What was not found makes place, the oldest first;
//!    where all was found nothing more is taken.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::model::{Namespace, ServiceName};

/// The most that is wanted at once.
const MOST: usize = 4_096;
/// The longest host that may be wanted (RFC 1035).
const LONGEST: usize = 253;

/// Something that a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Wanted {
    /// The Service that has a virtual address.
    Address(IpAddr),
    /// The Service that a host leads to: in lower case, with its namespace where it is one of the mesh.
    Host(Arc<str>),
    /// A Service.
    Service(ServiceName),
}

/// What requests ask for, as one source of a process hears of it; it answers for as long as it holds this.
#[derive(Debug)]
pub struct Demands {
    demand: Demand,
    changed: watch::Receiver<u64>,
}

/// What requests ask for; one for each process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Demand(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Counts what is wanted anew.
    asked: watch::Sender<u64>,
    /// Counts answers.
    answered: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    wanted: HashMap<Wanted, (u64, Answer)>,
    /// How many sources answer.
    sources: usize,
    /// The number of the next that is wanted.
    next: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Absent,
    Found,
    Waits,
}

/// What came of asking.
#[cfg(feature = "runtime")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A source has pushed it since.
    Found,
    /// Nothing more is to be had.
    Nothing,
    /// No source has answered in time.
    Silence,
}

// === impl Wanted ===

impl Wanted {
    /// A host as a caller in a namespace asks for it, with a port or not; `None` where it is no name.
    ///
    /// ```
    /// use inmesh_core::discover::Wanted;
    /// use inmesh_core::model::Namespace;
    /// let shop = Namespace::new("shop")?;
    /// let shown = |host| Wanted::host(host, &shop).map(|wanted| wanted.to_string());
    /// assert_eq!(shown("Cart:8080").as_deref(), Some("host/cart.shop"));
    /// assert_eq!(shown("cart.shop.svc.cluster.local.").as_deref(), Some("host/cart.shop.svc.cluster.local"));
    /// assert_eq!(shown("10.96.0.1:80").as_deref(), Some("address/10.96.0.1"));
    /// assert_eq!(shown("a b"), None);
    /// # Ok::<(), inmesh_core::model::InvalidName>(())
    /// ```
    pub fn host(authority: &str, namespace: &Namespace) -> Option<Self> {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        if let Ok(address) = address.unwrap_or(host).parse() {
            return Some(Self::Address(address));
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let named = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if host.is_empty() || host.len() > LONGEST || !host.bytes().all(named) {
            return None;
        }
        Some(Self::Host(match host.contains('.') {
            true => host.into(),
            false => format!("{host}.{namespace}").into(),
        }))
    }
}

/// As a subscription names it: `service/shop/cart`, `host/cart.shop` or `address/10.96.0.1`.
impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => write!(f, "address/{address}"),
            Self::Host(host) => write!(f, "host/{host}"),
            Self::Service(service) => {
                write!(f, "service/{}/{}", service.namespace(), service.name())
            }
        }
    }
}

// === impl Demands ===

impl Demands {
    pub(super) fn of(demand: &Demand) -> Self {
        demand.state().sources += 1;
        Self {
            demand: demand.clone(),
            changed: demand.0.asked.subscribe(),
        }
    }

    /// All that is wanted, in the order in which it was first asked for.
    pub fn wanted(&mut self) -> Vec<Wanted> {
        self.changed.mark_unchanged();
        let state = self.demand.state();
        let mut wanted: Vec<_> = state
            .wanted
            .iter()
            .map(|(of, (nth, _))| (*nth, of))
            .collect();
        wanted.sort_unstable();
        wanted.into_iter().map(|(_, of)| of.clone()).collect()
    }

    /// Waits until something is wanted that was not when this was last asked.
    pub async fn changed(&mut self) {
        if self.changed.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// It has been pushed.
    pub fn found(&self, wanted: &Wanted) {
        self.demand.answer(wanted, Answer::Found);
    }

    /// There is no such thing, or no longer.
    pub fn absent(&self, wanted: &Wanted) {
        self.demand.answer(wanted, Answer::Absent);
    }
}

impl Drop for Demands {
    fn drop(&mut self) {
        self.demand.state().sources -= 1;
        self.demand.0.answered.send_modify(|n| *n += 1);
    }
}

// === impl Demand ===

impl Demand {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, wanted: &Wanted, answer: Answer) {
        if let Some((_, known)) = self.state().wanted.get_mut(wanted) {
            *known = answer;
        }
        self.0.answered.send_modify(|n| *n += 1);
    }
}

#[cfg(feature = "runtime")]
impl Demand {
    /// Whether a source answers.
    pub(crate) fn is_answered(&self) -> bool {
        self.state().sources > 0
    }

    /// Asks for something that is not known, and waits for the answer until then.
    pub(crate) async fn ask(&self, wanted: &Wanted, until: tokio::time::Instant) -> Heard {
        let mut answered = self.0.answered.subscribe();
        if !self.want(wanted) {
            return Heard::Nothing;
        }
        let heard = async {
            loop {
                answered.mark_unchanged();
                if let Some(heard) = self.heard(wanted) {
                    return heard;
                }
                if answered.changed().await.is_err() {
                    return Heard::Nothing;
                }
            }
        };
        let heard = tokio::time::timeout_at(until, heard).await;
        heard.unwrap_or(Heard::Silence)
    }

    /// What was answered, if that is not to be waited for.
    fn heard(&self, wanted: &Wanted) -> Option<Heard> {
        let state = self.state();
        match state.wanted.get(wanted) {
            Some((_, Answer::Waits)) if state.sources > 0 => None,
            Some((_, Answer::Found)) => Some(Heard::Found),
            _ => Some(Heard::Nothing),
        }
    }

    /// Wants something; `false` if its answer is known, or it finds no place.
    fn want(&self, wanted: &Wanted) -> bool {
        let mut state = self.state();
        if state.sources == 0 {
            return false;
        }
        if let Some((_, answer)) = state.wanted.get(wanted) {
            return *answer == Answer::Waits;
        }
        if state.wanted.len() >= MOST {
            let absent = state
                .wanted
                .iter()
                .filter(|(_, (_, a))| *a == Answer::Absent);
            let oldest = absent.min_by_key(|(_, (nth, _))| *nth);
            let Some(oldest) = oldest.map(|(of, _)| of.clone()) else {
                tracing::debug!(%wanted, "it is not asked for: {MOST} others are wanted already");
                return false;
            };
            state.wanted.remove(&oldest);
        }
        let nth = state.next;
        state.next += 1;
        state.wanted.insert(wanted.clone(), (nth, Answer::Waits));
        drop(state);
        self.0.asked.send_modify(|n| *n += 1);
        true
    }
}

#[cfg(all(test, feature = "runtime"))]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::*;

    fn host(nth: usize) -> Wanted {
        Wanted::Host(format!("s{nth}.shop").into())
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(5)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_waits_until_it_is_answered() {
        let demand = Demand::default();
        assert_eq!(
            demand.ask(&host(0), soon()).await,
            Heard::Nothing,
            "no source answers"
        );
        let mut demands = Demands::of(&demand);
        for (nth, found, heard) in [(0, true, Heard::Found), (1, false, Heard::Nothing)] {
            let wanted = host(nth);
            let (asked, ()) = tokio::join!(demand.ask(&wanted, soon()), async {
                demands.changed().await;
                assert_eq!(demands.wanted().last(), Some(&wanted));
                match found {
                    true => demands.found(&wanted),
                    false => demands.absent(&wanted),
                }
            });
            assert_eq!(asked, heard);
            // It is known from then on: a Service that has gone is not asked for again.
            assert_eq!(demand.ask(&wanted, soon()).await, Heard::Nothing);
        }
        assert_eq!(demands.wanted(), [host(0), host(1)], "both are followed");
        assert_eq!(demand.ask(&host(2), soon()).await, Heard::Silence);
        // The next request waits as well; a source that ends leaves none waiting.
        let wanted = host(2);
        let (asked, ()) = tokio::join!(demand.ask(&wanted, soon()), async { drop(demands) });
        assert_eq!(asked, Heard::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_found_makes_place() {
        let demand = Demand::default();
        let mut demands = Demands::of(&demand);
        for nth in 0..MOST {
            let _silence = demand.ask(&host(nth), Instant::now()).await;
            match nth {
                3 | 5 => demands.absent(&host(nth)),
                _ => demands.found(&host(nth)),
            }
        }
        for nth in [MOST, MOST + 1] {
            let _silence = demand.ask(&host(nth), Instant::now()).await;
            demands.found(&host(nth));
        }
        let wanted = demands.wanted();
        assert_eq!(wanted.len(), MOST);
        assert!(!wanted.contains(&host(3)) && !wanted.contains(&host(5)));
        assert_eq!(
            demand.ask(&host(MOST + 2), soon()).await,
            Heard::Nothing,
            "all were found"
        );
    }
}
