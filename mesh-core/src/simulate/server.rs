//! The process at an endpoint: requests come in, and out comes when each is answered, and with what.

use std::collections::VecDeque;
use std::time::Duration;

use http::StatusCode;

use super::scenario::{Behaviour, Reached};
use crate::model::Draw;
use crate::retry::{Answer, Hint};

/// What a call comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reply {
    /// An answer, and how long it took.
    Answered(Answer),
    /// The connection breaks.
    Broken,
    /// The connection is refused.
    Refused,
}

/// What a server does with a call that has come.
#[derive(Debug)]
pub(super) enum Taken {
    /// It ends at that moment, in nanoseconds; `true` where the server works on it until then.
    Ends(u64, Reply, bool),
    /// It never ends.
    Never,
    /// It waits for its turn.
    Waits,
}

/// The process at an endpoint.
#[derive(Debug, Default)]
pub(super) struct Server {
    behaviour: Behaviour,
    /// How often it has been stopped; a call of before ends with that.
    pub(super) lives: u32,
    working: u32,
    waiting: VecDeque<Call>,
}

/// What asks a server, and with which attempt.
pub(super) type Call = (Asker, u64);

/// What asks a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// A check, by its place.
    Check(usize),
    /// A request or a copy, by its place.
    Flight(usize),
}

// === impl Server ===

impl Server {
    pub(super) fn new(behaviour: Option<&Behaviour>) -> Self {
        Self {
            behaviour: behaviour.cloned().unwrap_or_default(),
            ..Self::default()
        }
    }

    /// It behaves otherwise from now on. Returns whether this ends the calls that it has.
    pub(super) fn behave(&mut self, behaviour: Behaviour) -> bool {
        let stops =
            behaviour.reached == Reached::Refuses && self.behaviour.reached != Reached::Refuses;
        self.behaviour = behaviour;
        if stops {
            self.lives += 1;
            self.working = 0;
            self.waiting.clear();
        }
        stops
    }

    /// A call comes.
    pub(super) fn take(&mut self, call: Call, now: u64, draw: &mut Draw) -> Taken {
        match self.behaviour.reached {
            Reached::Refuses => return Taken::Ends(now, Reply::Refused, false),
            Reached::Hangs => return Taken::Never,
            Reached::Resets | Reached::Serves => {}
        }
        if let Some(room) = self.behaviour.room
            && self.working >= room.at_once
        {
            if self.waiting.len() < room.waiting as usize {
                self.waiting.push_back(call);
                return Taken::Waits;
            }
            let full = Answer::new(StatusCode::SERVICE_UNAVAILABLE, None);
            return Taken::Ends(now, Reply::Answered(full), false);
        }
        self.begin(now, draw)
    }

    /// It is done with a call. Returns the one whose turn it is.
    pub(super) fn done(&mut self, now: u64, draw: &mut Draw) -> Option<(Call, Taken)> {
        self.working = self.working.saturating_sub(1);
        let room = self.behaviour.room;
        if room.is_some_and(|room| self.working >= room.at_once) {
            return None;
        }
        let call = self.waiting.pop_front()?;
        Some((call, self.begin(now, draw)))
    }

    fn begin(&mut self, now: u64, draw: &mut Draw) -> Taken {
        self.working += 1;
        let took = self.behaviour.latency.sample(|| normal(draw));
        let reply = match self.behaviour.reached {
            Reached::Resets => Reply::Broken,
            _ => Reply::Answered(self.answer(draw)),
        };
        Taken::Ends(now.saturating_add(took), reply, true)
    }

    fn answer(&self, draw: &mut Draw) -> Answer {
        let fault = self
            .behaviour
            .fault
            .filter(|fault| fault.percent >= 100.0 || unit(draw) * 100.0 < fault.percent);
        let Some(fault) = fault else {
            return Answer::new(StatusCode::OK, None);
        };
        let hint = fault.retry_after.map_or(Hint::None, Hint::After);
        let status = match fault.grpc {
            Some(_) => StatusCode::OK,
            None => fault.status,
        };
        Answer::new(status, fault.grpc).with_hint(hint)
    }
}

/// A uniform number in (0, 1).
pub(super) fn unit(draw: &mut Draw) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a f64")]
    let bits = (draw.bits() >> 11) as f64;
    (bits + 0.5) / (1_u64 << 53) as f64
}

/// A standard normal number (Box and Muller).
fn normal(draw: &mut Draw) -> f64 {
    let (a, b) = (unit(draw), unit(draw));
    (-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

/// A moment as decisions know it.
pub(super) fn moment(nanos: u64) -> Duration {
    Duration::from_nanos(nanos)
}

/// The same as the queue knows it.
pub(super) fn nanos(moment: Duration) -> u64 {
    u64::try_from(moment.as_nanos()).unwrap_or(u64::MAX)
}
