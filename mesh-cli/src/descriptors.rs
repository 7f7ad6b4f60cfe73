//! The file descriptors of an agent: as many as the system lets it have, and how many of them may be
//! sockets of the data path. The rest is for probes, keys, logs, resolvers and sources.

#[cfg(unix)]
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What is kept aside: a quarter, within these bounds. The admin surface has 256 connections at most.
const LEAST: u64 = 64;
const MOST: u64 = 1_024;

/// Lets this process have as many descriptors as it may (the hard limit), and returns the number.
#[cfg(unix)]
pub(crate) fn raise() -> Option<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => Some(hard),
        Err(_) => Some(soft),
    }
}

#[cfg(not(unix))]
pub(crate) fn raise() -> Option<u64> {
    None
}

/// The sockets of the data path among so many descriptors.
pub(crate) fn sockets(descriptors: u64) -> usize {
    let aside = (descriptors / 4).clamp(LEAST, MOST);
    usize::try_from(descriptors.saturating_sub(aside)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_aside_however_few_there_are() {
        for (descriptors, expected) in [
            (0, 0),
            (64, 0),
            (160, 96),
            (1_024, 768),
            (4_096, 3_072),
            (524_288, 523_264),
            (u64::MAX, usize::MAX - 1_024),
        ] {
            assert_eq!(sockets(descriptors), expected, "{descriptors}");
        }
    }
}
