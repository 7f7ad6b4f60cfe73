//! The signals that a process of ours takes while it runs, agent and CA alike.
//!
//! They are watched before anything is served, so that none falls to the operating system's
//! default, which ends the process and cuts what is being served. Any other signal keeps its
//! default: SIGQUIT and SIGABRT end at once, with a core file where the system writes one.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To end in order: SIGTERM and SIGINT.
    End,
    /// To open log files anew by their names: SIGHUP and SIGUSR1, as logrotate sends them.
    Reopen,
}

/// The signals of this process.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user_1: Signal,
    user_2: Signal,
}

// === impl Signals ===

impl Signals {
    /// Watches them from now on.
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Waits for the next one. Cancel safe.
    pub(crate) async fn next(&mut self) -> Asked {
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return Asked::End,
                _ = self.interrupt.recv() => return Asked::End,
                _ = self.hangup.recv() => return Asked::Reopen,
                _ = self.user_1.recv() => return Asked::Reopen,
                // Its default would end the process; it has no meaning here.
                _ = self.user_2.recv() => {}
            }
        }
    }

    /// Waits until it is asked to end; `reopen` is called for each signal that asks for that.
    pub(crate) async fn end(&mut self, mut reopen: impl AsyncFnMut()) {
        while self.next().await == Asked::Reopen {
            reopen().await;
        }
    }
}
