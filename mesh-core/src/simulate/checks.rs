//! Checks of endpoints, as the runtime makes them: each caller asks each endpoint that a policy names.

use super::check::Check;
use super::server::{Asker, Reply, nanos};
use super::state::{Run, What};
use crate::balance::Checked;
use crate::snapshot::Checkable;

// === impl Run ===

impl Run<'_> {
    /// Begins and ends checks as the snapshots say.
    pub(super) fn begin_checks(&mut self, now: u64) {
        for caller in 0..self.callers.len() {
            let mut wanted: Vec<Checkable> = self.callers[caller].checkable().collect();
            wanted.sort_by(|a, b| {
                let key = |c: &Checkable| (c.service.clone(), c.port, c.member.endpoint.address());
                key(a).cmp(&key(b))
            });
            for check in self.checks.iter_mut().filter(|c| c.caller == caller) {
                check.ended |= !wanted.iter().any(|of| check.is_of(caller, of));
            }
            for of in wanted {
                if !self.checks.iter().any(|check| check.is_of(caller, &of)) {
                    self.begin_check(caller, of, now);
                }
            }
        }
    }

    fn begin_check(&mut self, caller: usize, of: Checkable, now: u64) {
        let interval = nanos(of.policy.interval);
        let nth = self.checks.len();
        self.checks.push(Check {
            caller,
            service: of.service,
            port: of.port,
            member: of.member,
            policy: of.policy,
            checked: Checked::default(),
            open: None,
            ended: false,
        });
        // Those of one Service do not come all at once.
        let first = now.saturating_add(self.draw.below(interval));
        self.check_at(nth, first);
    }

    fn check_at(&mut self, nth: usize, at: u64) {
        if self.is_open(at) {
            self.queue.put(at, What::Check(nth));
        }
    }

    /// Asks an endpoint.
    pub(super) fn check(&mut self, nth: usize, now: u64) {
        self.attempts += 1;
        let serial = self.attempts;
        let check = &mut self.checks[nth];
        if check.ended {
            return;
        }
        check.open = Some(serial);
        let late = now.saturating_add(nanos(check.policy.timeout));
        let server = self.servers.at(check.member.endpoint.address());
        self.queue.put(late, What::NoAnswer(nth, serial));
        self.call(server, (Asker::Check(nth), serial), now);
    }

    /// A check has an answer.
    pub(super) fn checked(&mut self, nth: usize, serial: u64, reply: Reply, now: u64) {
        if self.checks[nth].open == Some(serial) {
            let passes = self.checks[nth].passes(reply);
            self.take(nth, passes, now);
        }
    }

    /// A check has no answer in time.
    pub(super) fn unanswered_check(&mut self, nth: usize, serial: u64, now: u64) {
        if self.checks[nth].open == Some(serial) {
            self.take(nth, false, now);
        }
    }

    fn take(&mut self, nth: usize, passes: bool, now: u64) {
        let check = &mut self.checks[nth];
        check.open = None;
        if check.ended {
            return;
        }
        if let Some(well) = check.checked.handle(passes, &check.policy) {
            let service = self.callers[check.caller].service(&check.service);
            if let Some(set) = service.and_then(|service| service.endpoints(check.port)) {
                set.mark(&check.member.state, well);
            }
        }
        let next = now.saturating_add(nanos(check.policy.interval));
        self.check_at(nth, next);
    }
}
