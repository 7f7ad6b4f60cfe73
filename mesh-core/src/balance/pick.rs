//! A choice made on live endpoints: the tiers of a set in order, and a probe that is due.

use std::hint::cold_path;
#[cfg(any(feature = "runtime", feature = "simulate"))]
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::decide::{Availability, LoadView, consistent_hash, p2c, random, round_robin};
use super::eject::Breaker;
#[cfg(any(feature = "runtime", feature = "simulate"))]
use super::persist::pick_kept;
use super::picked::Picked;
use super::set::EndpointSet;
use super::share::{Share, SlowStart};
use super::state::{EndpointState, Member};
use super::strategy::Choice;
use super::tiers::Tier;
use crate::model::{Draw, mix};

/// What sets the number that leads a key to a tier apart from the one that leads it to an endpoint.
const TIER: u64 = 0x5851_f42d_4c95_7f2d;

/// How often an endpoint is drawn anew that takes less than its share.
const REDRAWS: usize = 15;
/// How often an endpoint is chosen whose last place another task takes.
const RACES: usize = 3;
/// How long until an ejected endpoint that is not ready is looked at again.
const RECHECK: Duration = Duration::from_secs(1);

/// Why no endpoint can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoEndpoint {
    /// All that are ready were tried, or those that were not are ejected.
    #[error("every ready endpoint is ejected or was tried")]
    AllOut,
    /// Each that may be chosen has as many requests in flight as it may have, or all together have.
    #[error("as many requests are in flight as may be")]
    Full,
    /// No endpoint of the set is ready.
    #[error("no endpoint is ready")]
    NoneReady,
}

/// Chooses an endpoint of a set for a request, and counts the request as in flight to it.
///
/// 1. An ejected endpoint whose probe is due is taken, whatever the choice.
/// 2. The first tier that has an endpoint which is neither ejected nor tried decides.
/// 3. One that has as many requests in flight as it may have is passed over like one that was tried.
/// 4. If every ready endpoint is ejected, or fewer are not than the panic threshold, they are chosen
///    from as if none were.
///
/// `now` is on the same monotonic clock as in the later verdict; `tried` are endpoints that this
/// request was sent to already.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use inmesh_core::balance::{Choice, EndpointSet, pick};
/// use inmesh_core::model::{Draw, Endpoint, Transport};
///
/// let endpoint = Endpoint::new(([10, 0, 0, 1], 80).into(), Transport::Plain);
/// let set = Arc::new(EndpointSet::build([endpoint], None));
/// let picked = pick(&set, Choice::LeastRequest, Duration::ZERO, &[], &mut Draw::new(1))?;
/// assert_eq!(picked.member().state.in_flight(), 1);
/// # Ok::<(), inmesh_core::balance::NoEndpoint>(())
/// ```
///
/// # Errors
///
/// [`NoEndpoint`] if no endpoint may be chosen.
pub fn pick(
    set: &Arc<EndpointSet>,
    choice: Choice,
    now: Duration,
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
) -> Result<Picked, NoEndpoint> {
    met(set, now);
    let counted = match set.limits().service() {
        None => false,
        Some(most) if set.health().enter(most) => true,
        Some(_) => return Err(NoEndpoint::Full),
    };
    let picked = place(set, choice, now, tried, draw);
    match picked {
        Ok(picked) => Ok(picked.counted(counted).timed(choice, now)),
        Err(none) => {
            if counted {
                set.health().leave();
            }
            Err(none)
        }
    }
}

/// Chooses an endpoint for an attempt: the one that a session leads to, if it may stay; else none of those
/// that were tried or, where the request is kept to be sent again and no other is left, one of them: a policy
/// would rather ask one again than none.
#[cfg(any(feature = "runtime", feature = "simulate"))]
pub(crate) fn pick_again(
    set: &Arc<EndpointSet>,
    (choice, session): (Choice, Option<NonZeroU64>),
    now: Duration,
    (tried, kept): (&[Arc<EndpointState>], bool),
    draw: &mut Draw,
) -> Result<Picked, NoEndpoint> {
    let led = session.and_then(|endpoint| {
        // Perhaps no other request meets the set, whose limits are to hold.
        met(set, now);
        pick_kept(set, endpoint, tried)
    });
    if let Some(picked) = led {
        return Ok(picked.timed(choice, now));
    }
    match pick(set, choice, now, tried, draw) {
        Err(_) if kept => pick(set, choice, now, &[], draw),
        picked => picked,
    }
}

/// Chooses, whatever all endpoints together have in flight.
fn place(
    set: &Arc<EndpointSet>,
    choice: Choice,
    now: Duration,
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
) -> Result<Picked, NoEndpoint> {
    if let Some(index) = due(set, now) {
        match Picked::new(set, index, true) {
            Some(picked) => return Ok(picked),
            // It waits for another request.
            None => set.members()[index]
                .state
                .health
                .with(|b| b.handle_cancel()),
        }
    }
    let mut turn = |draw: &mut Draw| set.health().turn(draw);
    // Another task may take the last place meanwhile.
    for _ in 0..RACES {
        let index = decide(set, choice, now, tried, draw, &mut turn)?;
        if let Some(picked) = Picked::new(set, index, false) {
            return Ok(picked);
        }
    }
    Err(NoEndpoint::Full)
}

/// The endpoint that [`pick`] would choose for a request that was sent nowhere yet. Nothing is counted,
/// no turn is taken, and no probe begins.
///
/// # Errors
///
/// [`NoEndpoint`] if no endpoint may be chosen.
pub fn foresee<'s>(
    set: &'s EndpointSet,
    choice: Choice,
    now: Duration,
    draw: &mut Draw,
) -> Result<&'s Member, NoEndpoint> {
    let limits = set.limits();
    if { limits.service() }.is_some_and(|most| set.health().in_flight() >= most) {
        return Err(NoEndpoint::Full);
    }
    let is_due = |index: &usize| {
        let state = &set.members()[*index].state;
        let due = |b: &mut Breaker| !b.is_probing() && b.ejected_until().is_some_and(|u| u <= now);
        let may = state.is_ejected() && !state.is_unwell();
        may && state.in_flight() < limits.endpoint() && state.health.with(due)
    };
    let probe = set.health().may_probe(now);
    let probed = set.ready_places().filter(|_| probe).find(is_due);
    let mut ahead = set.health().turns_ahead();
    let mut turn = |draw: &mut Draw| ahead.next(draw);
    let index = match probed {
        Some(index) => index,
        None => decide(set, choice, now, &[], draw, &mut turn)?,
    };
    Ok(&set.members()[index])
}

/// The place of a member that is to take a request.
fn decide(
    set: &EndpointSet,
    choice: Choice,
    now: Duration,
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
    turn: &mut impl FnMut(&mut Draw) -> u64,
) -> Result<usize, NoEndpoint> {
    // Without a threshold it is seen below that all are ejected.
    let panic = set.eject().panic_percent > 0 && set.is_panicking();
    let alike = set
        .alike()
        .filter(|_| !panic && tried.is_empty() && !set.health().sheds(now));
    if let (Some(members), Choice::LeastRequest | Choice::SourceIp) = (alike, choice) {
        let most = set.limits().endpoint();
        let view = Alike { members, most };
        if let Some(index) = p2c(&view, now, draw) {
            return Ok(index);
        }
    }
    if let Some(index) = choose(set, choice, (now, panic), tried, draw, turn) {
        return Ok(index);
    }
    let ready = set.ready_len();
    if ready == 0 {
        return Err(NoEndpoint::NoneReady);
    }
    let index = if set.ejected_len() == ready {
        choose(set, choice, (now, true), tried, draw, turn)
    } else {
        None
    };
    index.ok_or_else(|| match is_full(set, tried) {
        true => NoEndpoint::Full,
        false => NoEndpoint::AllOut,
    })
}

/// Whether an endpoint would be chosen if it might have more requests in flight.
fn is_full(set: &EndpointSet, tried: &[Arc<EndpointState>]) -> bool {
    let most = set.limits().endpoint();
    let all_out = set.ejected_len() == set.ready_len();
    set.ready().any(|Member { state, .. }| {
        let may = all_out || !state.is_ejected();
        may && state.in_flight() >= most && !tried.iter().any(|t| Arc::ptr_eq(t, state))
    })
}

/// The place of a member, from the first tier that offers one.
fn choose(
    set: &EndpointSet,
    choice: Choice,
    (now, ejected): (Duration, bool),
    tried: &[Arc<EndpointState>],
    draw: &mut Draw,
    turn: &mut impl FnMut(&mut Draw) -> u64,
) -> Option<usize> {
    let uneven = set.slow_start().is_some() || set.health().sheds(now);
    let drawn = match (set.spread(), choice) {
        (None, _) => 0,
        // A key stays in its tier while the shares stay.
        (Some(_), Choice::Hash(key)) => mix(key ^ TIER),
        (Some(_), _) => draw.bits(),
    };
    let mut of = |(n, tier): (usize, Tier<'_>)| {
        let view = View {
            uneven: uneven.then_some((set.slow_start(), now)),
            tier,
            tried,
            ejected,
            timed: choice == Choice::PeakEwma,
            most: set.limits().endpoint(),
        };
        let nth = match choice {
            Choice::Hash(key) => match set.table(n) {
                Some(table) => table.choose(&view, key),
                None => consistent_hash(&view, key),
            },
            Choice::LeastRequest | Choice::PeakEwma | Choice::SourceIp => p2c(&view, now, draw),
            Choice::Random => random(&view, draw),
            Choice::RoundRobin => round_robin(&view, || turn(draw)),
        };
        tier.place(nth?)
    };
    if let Some(spread) = set.spread() {
        let first = spread.first(drawn);
        let tier = set.tiers().enumerate().nth(first);
        if let Some(place) = tier.and_then(&mut of) {
            return Some(place);
        }
    }
    set.tiers().enumerate().find_map(of)
}

/// A request is balanced over a set, which may be a new one.
fn met(set: &Arc<EndpointSet>, now: Duration) {
    if set.health().is_new(set.serial()) {
        cold_path();
        arrive(set, now);
    }
}

/// A set is the newest that a request is balanced over: the slow starts of its new endpoints begin, and
/// where it has become smaller than the ejections allow for, those end that would end first.
fn arrive(set: &Arc<EndpointSet>, now: Duration) {
    let health = set.health();
    let mut newest = health.lock();
    if !health.note(&mut newest, set, set.serial()) {
        return;
    }
    health.port().limit(set.limits());
    if set.slow_start().is_some() {
        set.begin_slow_starts(now);
    }
    let is_out = |m: &&Member| {
        let state = &m.state;
        state.is_ejected() && state.health.with(|b| b.ejected_until().is_some())
    };
    let mut out: Vec<_> = set.ready().filter(is_out).collect();
    let surplus = out
        .len()
        .saturating_sub(set.eject().allowed(set.ready_len()));
    out.sort_by_key(|m| m.state.health.with(|b| (b.is_probing(), b.ejected_until())));
    for member in out.iter().take(surplus) {
        member.state.health.with(|b| b.handle_pardon(now));
        member.state.begin(now);
    }
    // One may have been ejected since it was made.
    set.respread();
}

/// The endpoint that this request shall probe, if one is due.
fn due(set: &EndpointSet, now: Duration) -> Option<usize> {
    if !set.health().may_probe(now) {
        return None;
    }
    cold_path();
    let found = set.ready_places().find(|&index| {
        let state = &set.members()[index].state;
        // One that fails its checks is not worth a request.
        let may = state.is_ejected() && !state.is_unwell();
        may && state.health.with(|b| b.poll_probe(now))
    });
    if found.is_none() {
        rearm(set, now);
    }
    found
}

/// Looks up when the next probe is due. One that is being probed, or is due but not ready, is looked
/// at again after [`RECHECK`].
fn rearm(set: &EndpointSet, now: Duration) {
    let health = set.health();
    let _one_at_a_time = health.lock();
    let ejected = set.members().iter().filter(|m| m.state.is_ejected());
    let next = ejected
        .filter_map(|m| m.state.health.with(|b| b.ejected_until()))
        .map(|until| until.max(now + RECHECK))
        .min();
    health.rearm(next);
}

/// One tier of a set, as a choice sees it.
struct View<'a> {
    tier: Tier<'a>,
    tried: &'a [Arc<EndpointState>],
    /// Whether ejected endpoints may be chosen.
    ejected: bool,
    /// Whether the load is by how fast they answer.
    timed: bool,
    /// How many requests each may have in flight.
    most: u32,
    /// Whether some may take less than their share, and what it depends on.
    uneven: Option<(Option<&'a SlowStart>, Duration)>,
}

/// The members of a set, where nothing sets them apart but what they have in flight. Most sets are so,
/// and this view costs a fraction of the other.
struct Alike<'a> {
    members: &'a [Member],
    most: u32,
}

// === impl Alike ===

impl LoadView for Alike<'_> {
    #[inline]
    fn len(&self) -> usize {
        self.members.len()
    }

    #[inline]
    fn availability(&self, index: usize) -> Availability {
        let state = &self.members[index].state;
        match !state.is_ejected() && state.in_flight() < self.most {
            true => Availability::Ready,
            false => Availability::Out,
        }
    }

    #[inline]
    fn load(&self, index: usize, _: Duration) -> u64 {
        u64::from(self.members[index].state.in_flight())
    }

    fn name_hash(&self, index: usize) -> u64 {
        self.members[index].endpoint.name_hash()
    }
}

// === impl View ===

impl View<'_> {
    /// How much of its share a member takes.
    fn share(&self, index: usize) -> Share {
        match (self.uneven, self.tier.member(index)) {
            (Some((slow_start, now)), Some(member)) => member.state.share(slow_start, now),
            _ => Share::whole(),
        }
    }

    /// One that takes its share, or the last of those that were drawn.
    #[cold]
    fn redrawn(&self, mut drawn: usize, draw: &mut Draw) -> usize {
        for _ in 0..REDRAWS {
            if self.share(drawn).takes(draw.bits()) {
                break;
            }
            drawn = self.tier.sample(draw);
        }
        drawn
    }
}

impl LoadView for View<'_> {
    fn len(&self) -> usize {
        self.tier.len()
    }

    #[inline]
    fn availability(&self, index: usize) -> Availability {
        match self.tier.member(index) {
            Some(Member { state, .. })
                if (self.ejected || !state.is_ejected())
                    && state.in_flight() < self.most
                    && !self.tried.iter().any(|t| Arc::ptr_eq(t, state)) =>
            {
                Availability::Ready
            }
            _ => Availability::Out,
        }
    }

    fn load(&self, index: usize, now: Duration) -> u64 {
        let load = match self.tier.member(index) {
            None => u64::MAX,
            Some(member) if self.timed => member.state.cost(now),
            Some(member) => u64::from(member.state.in_flight()),
        };
        if self.uneven.is_none() {
            return load;
        }
        self.share(index).weigh(load)
    }

    fn weight(&self, index: usize) -> u32 {
        self.tier.weight(index)
    }

    fn heaviest(&self) -> u32 {
        self.tier.heaviest()
    }

    fn takes(&self, index: usize, drawn: u64) -> bool {
        self.share(index).takes(drawn)
    }

    #[inline]
    fn sample(&self, draw: &mut Draw) -> usize {
        let drawn = self.tier.sample(draw);
        match self.uneven {
            None => drawn,
            Some(_) => self.redrawn(drawn, draw),
        }
    }

    fn name_hash(&self, index: usize) -> u64 {
        self.tier
            .member(index)
            .map_or(0, |member| member.endpoint.name_hash())
    }
}
