//! A simulation as it is written, and the scenario that it is with the endpoints of its documents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use inmesh_core::simulate::{
    Action, Announced, Behaviour, Event, Fault, Latency, Load, Reached, Room, Scenario,
};

use super::expect::Expected;
use super::select::{Known, Selector, select};
use crate::testing::World;

/// A simulation as it is written.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) seed: u64,
    pub(super) duration: Duration,
    pub(super) discovery: Duration,
    pub(super) loads: Vec<Load>,
    pub(super) endpoints: Vec<(Vec<Selector>, How)>,
    pub(super) events: Vec<Change>,
    pub(super) expected: Vec<Expected>,
}

/// How endpoints behave; what is absent stays as it was.
#[derive(Debug, Clone, Default)]
pub(super) struct How {
    pub(super) latency: Option<Latency>,
    pub(super) room: Option<Room>,
    pub(super) fault: Option<Fault>,
    pub(super) reached: Option<Reached>,
}

/// An event as it is written.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) at: Duration,
    /// How long it lasts, if it ends.
    pub(super) lasts: Option<Duration>,
    pub(super) of: Vec<Selector>,
    /// How much later each endpoint is than the one before.
    pub(super) every: Duration,
    pub(super) what: What,
}

/// What an event changes.
#[derive(Debug, Clone)]
pub(super) enum What {
    /// How endpoints behave.
    Behave(How),
    /// They leave the documents.
    Leave,
    /// Requests of a load come at another rate.
    Rate(usize, f64),
    /// They drain for so long, and are down for so long.
    Restart(Duration, Duration),
}

/// A time in which an endpoint behaves so.
struct Spell {
    from: Duration,
    to: Option<Duration>,
    how: How,
}

// === impl Draft ===

impl Draft {
    /// The scenario with the endpoints of a world.
    pub(super) fn scenario(&self, world: &World, known: &Known) -> Result<Scenario, String> {
        let mut scenario = Scenario::new(self.duration);
        scenario.seed = self.seed;
        scenario.discovery = self.discovery;
        scenario.loads = self.loads.clone();
        for load in &mut scenario.loads {
            for question in &mut load.questions {
                *question = world.asked(question);
            }
        }
        let windows = self.expected.iter().filter_map(|expected| expected.window);
        scenario.windows = windows.collect();
        let mut base: BTreeMap<SocketAddr, Behaviour> = BTreeMap::new();
        for (named, how) in &self.endpoints {
            for at in select(world, known, named)? {
                how.change(base.entry(at).or_default());
            }
        }
        let mut spells: BTreeMap<SocketAddr, Vec<Spell>> = BTreeMap::new();
        for change in &self.events {
            if let What::Rate(load, rate) = change.what {
                let mut event = |at, rate| {
                    let action = Action::Rate(load, rate);
                    scenario.events.push(Event::new(at, action));
                };
                event(change.at, rate);
                if let Some(lasts) = change.lasts {
                    event(change.at + lasts, self.loads[load].rate);
                }
                continue;
            }
            let of = select(world, known, &change.of)?;
            for (at, nth) in of.into_iter().zip(0_u32..) {
                let from = change.at.saturating_add(change.every.saturating_mul(nth));
                let (spell, announced) = change.at_one(from);
                for (when, what) in announced {
                    let action = Action::Announce(vec![at], what);
                    scenario.events.push(Event::new(when, action));
                }
                spells.entry(at).or_default().extend(spell);
            }
        }
        for (at, spells) in &spells {
            let base = base.get(at).cloned().unwrap_or_default();
            let changes = changes(&base, spells).into_iter();
            scenario.events.extend(
                changes.map(|(when, behaviour)| {
                    Event::new(when, Action::Behave(vec![*at], behaviour))
                }),
            );
        }
        scenario.behaviours = base;
        Ok(scenario)
    }
}

/// When an endpoint begins to behave otherwise, and how: of spells that overlap the later in the file
/// has the last word.
fn changes(base: &Behaviour, spells: &[Spell]) -> Vec<(Duration, Behaviour)> {
    let ends = spells.iter().filter_map(|spell| spell.to);
    let moments: BTreeSet<Duration> = spells.iter().map(|spell| spell.from).chain(ends).collect();
    let at = |moment: Duration| {
        let mut behaviour = base.clone();
        let now = |spell: &&Spell| spell.from <= moment && spell.to.is_none_or(|to| moment < to);
        for spell in spells.iter().filter(now) {
            spell.how.change(&mut behaviour);
        }
        (moment, behaviour)
    };
    moments.into_iter().map(at).collect()
}

// === impl How ===

impl How {
    fn change(&self, behaviour: &mut Behaviour) {
        if let Some(latency) = self.latency {
            behaviour.latency = latency;
        }
        if let Some(room) = self.room {
            behaviour.room = Some(room);
        }
        if let Some(fault) = self.fault {
            behaviour.fault = Some(fault);
        }
        if let Some(reached) = self.reached {
            behaviour.reached = reached;
        }
    }
}

// === impl Change ===

impl Change {
    /// What it is for one endpoint from a moment on.
    fn at_one(&self, from: Duration) -> (Option<Spell>, Vec<(Duration, Announced)>) {
        let to = self.lasts.map(|lasts| from.saturating_add(lasts));
        match &self.what {
            What::Behave(how) => {
                let how = how.clone();
                (Some(Spell { from, to, how }), Vec::new())
            }
            What::Leave => {
                let back = to.map(|to| (to, Announced::Listed));
                let left = [(from, Announced::Gone)];
                (None, left.into_iter().chain(back).collect())
            }
            What::Rate(..) => (None, Vec::new()),
            What::Restart(drain, down) => {
                let from_down = from.saturating_add(*drain);
                let up = from_down.saturating_add(*down);
                let refuses = How {
                    reached: Some(Reached::Refuses),
                    ..How::default()
                };
                let spell = Spell {
                    from: from_down,
                    to: Some(up),
                    how: refuses,
                };
                let announced = [(from, Announced::Terminating), (up, Announced::Listed)];
                (Some(spell), announced.into())
            }
        }
    }
}
