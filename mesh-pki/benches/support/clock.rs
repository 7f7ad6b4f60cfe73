//! CPU time of this process instead of the time on the wall: what neighbours of a shared machine
//! take is not counted.

use std::time::Duration;

use nix::time::ClockId;

/// The CPU time that all threads of this process have used so far.
pub(crate) fn cpu_time() -> Duration {
    let now = ClockId::CLOCK_PROCESS_CPUTIME_ID.now();
    now.map(Duration::from).expect("every Unix has this clock")
}
