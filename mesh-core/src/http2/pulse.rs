//! Whether the peer of a connection lives, and how far away it is: both by pings.
//!
//! A peer that answers no ping in time is gone. The bytes that come during a round trip say how large
//! the window of a stream must be so that it does not wait for us: while they fill most of it, it is
//! doubled. Where much of what has come is unread, on this connection or on all, it is made small again.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep};

use super::Settings;
use super::arrival::Arrivals;

/// The pings of one connection.
pub(super) struct Pulse {
    pings: PingPong,
    every: Duration,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether an answer is waited for.
    asked: bool,
    window: Window,
}

/// The window of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    least: u32,
    most: u32,
    now: u32,
    /// All that had come when the last ping was sent; wraps around.
    came: usize,
}

/// What a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// To look at the library again, which has something to send.
    Again,
    /// Nothing.
    Rest,
    /// To end: the peer is gone.
    Silent,
}

// === impl Pulse ===

impl Pulse {
    /// The window of a stream.
    pub(super) fn stream_window(&self) -> u32 {
        self.window.now
    }

    /// `None` where the peer is not to be pinged.
    pub(super) fn new(settings: &Settings, pings: Option<PingPong>) -> Option<Self> {
        let (every, patience) = settings.ping?;
        Some(Self {
            pings: pings?,
            every,
            patience,
            timer: Box::pin(sleep(every)),
            asked: false,
            window: Window::new(settings.window),
        })
    }

    /// Where it is crowded (see `window`) streams begin at their least window again, later. `set` gives
    /// them another window, unless one change still waits for the peer's word on the
    /// one before it; then it is tried again at a later call.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &Arrivals,
        crowded: bool,
        mut set: impl FnMut(u32) -> bool,
    ) -> Beat {
        if crowded {
            self.window.shrink();
        }
        if self.asked {
            match self.pings.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.asked = false;
                    self.timer.as_mut().reset(Instant::now() + self.every);
                    let before = self.window;
                    let grown = self.window.grow(from.came());
                    if let Some(large) = grown.filter(|_| !crowded) {
                        if set(large) {
                            return Beat::Again;
                        }
                        self.window = before;
                        return Beat::Rest;
                    }
                }
                // The connection says itself how it has ended.
                Poll::Ready(Err(_)) => return Beat::Rest,
                Poll::Pending if self.timer.as_mut().poll(cx).is_ready() => return Beat::Silent,
                Poll::Pending => return Beat::Rest,
            }
        }
        let due = self.timer.as_mut().poll(cx).is_ready();
        if (due || self.window.is_full(from.came())) && self.pings.send_ping(Ping::opaque()).is_ok()
        {
            self.asked = true;
            self.window.came = from.came();
            self.timer.as_mut().reset(Instant::now() + self.patience);
            let _later = self.timer.as_mut().poll(cx);
            let _later = self.pings.poll_pong(cx);
        }
        Beat::Rest
    }
}

// === impl Window ===

impl Window {
    pub(super) fn new((least, most): (u32, u32)) -> Self {
        Self {
            least,
            most,
            now: least,
            came: 0,
        }
    }

    /// Whether so much has come since the last ping that another one is worth it.
    fn is_full(&self, came: usize) -> bool {
        self.now < self.most && came.wrapping_sub(self.came) as u64 >= u64::from(self.now) / 2
    }

    /// The answer to a ping has come.
    fn grow(&mut self, came: usize) -> Option<u32> {
        let during = came.wrapping_sub(self.came) as u64;
        if self.now >= self.most || during < u64::from(self.now) * 2 / 3 {
            return None;
        }
        self.now = self.now.saturating_mul(2).min(self.most);
        Some(self.now)
    }

    /// Too much is unread.
    fn shrink(&mut self) {
        self.now = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_follows_what_a_round_trip_brings() {
        let mut window = Window::new((100, 350));
        assert!(!window.is_full(49) && window.is_full(50));
        window.came = 50;
        assert_eq!(window.grow(50 + 65), None, "there was room");
        assert_eq!(window.grow(50 + 66), Some(200));
        assert_eq!(window.grow(50 + 1_000), Some(350));
        assert_eq!(window.grow(50 + 1_000), None, "it is as large as it may be");
        assert!(!window.is_full(usize::MAX));
        window.shrink();
        assert_eq!(window.now, 100);
        // The count of what has come wraps around.
        window.came = usize::MAX - 9;
        assert!(window.is_full(40));
    }
}
