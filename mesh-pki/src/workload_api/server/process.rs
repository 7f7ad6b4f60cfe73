//! A connection in, what the kernel knows of the process behind it out.
//!
//! User, group and process id are those of the moment of the connection: the kernel keeps them with
//! the socket. The control group has to be looked up by process id, and ids are used again. So it
//! counts only if the process that connected, held by a descriptor of the kernel's (SO_PEERPIDFD,
//! Linux 6.5), still lives after it has been read: its id can belong to no other process then. Without
//! that descriptor the control group is unknown, and selectors that ask for one match no process.

use std::io;

use tokio::net::UnixStream;

use super::attest::Caller;

/// The process at the other end of `stream`.
pub(super) fn caller(stream: &UnixStream) -> io::Result<Caller> {
    let credentials = stream.peer_cred()?;
    let mut caller = Caller::new(credentials.uid(), credentials.gid());
    // 0 stands for a process that cannot be seen from here.
    caller.pid = credentials
        .pid()
        .and_then(|pid| u32::try_from(pid).ok())
        .filter(|pid| *pid != 0);
    caller.cgroup = caller.pid.and_then(|pid| control_group(stream, pid));
    Ok(caller)
}

#[cfg(target_os = "linux")]
fn control_group(stream: &UnixStream, pid: u32) -> Option<String> {
    use std::io::Read;

    use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};

    /// More than the deepest path of control groups.
    const MAX_TEXT: u64 = 64 * 1024;

    let process = getsockopt(stream, PeerPidfd).ok()?;
    let mut text = String::new();
    let file = std::fs::File::open(format!("/proc/{pid}/cgroup")).ok()?;
    file.take(MAX_TEXT).read_to_string(&mut text).ok()?;
    lives(&process).then(|| super::attest::cgroup(&text))?
}

/// Whether a process has not ended: its descriptor becomes readable when it does.
#[cfg(target_os = "linux")]
fn lives(process: &impl std::os::fd::AsFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut ended, PollTimeout::ZERO), Ok(0))
}

#[cfg(not(target_os = "linux"))]
fn control_group(_: &UnixStream, _: u32) -> Option<String> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_process_is_known() {
        let (here, _there) = UnixStream::pair().unwrap();
        let caller = caller(&here).unwrap();
        assert_eq!(caller.pid, Some(std::process::id()));
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        match super::super::attest::cgroup(&own) {
            // A kernel before 6.5 tells no descriptor, and then nothing is claimed.
            Some(group) if caller.cgroup.is_some() => assert_eq!(caller.cgroup, Some(group)),
            _ => assert_eq!(caller.cgroup, None),
        }
    }

    #[test]
    fn a_process_that_has_ended_vouches_for_nothing() {
        use std::os::unix::net::UnixListener;
        use std::process::{Command, Stdio};

        use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        // A child that connects, and lives until its input ends.
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
        let spawned = Command::new("python3")
            .args(["-c", script])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            crate::testing::skip("a process that has ended (no python3)");
            return;
        };
        let (stream, _) = listener.accept().unwrap();
        let Ok(process) = getsockopt(&stream, PeerPidfd) else {
            drop(child.stdin.take());
            child.wait().unwrap();
            return;
        };
        assert!(lives(&process));
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(!lives(&process));
    }
}
