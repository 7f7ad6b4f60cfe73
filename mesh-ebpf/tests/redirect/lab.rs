//! A Pod and a host beside it, each a network namespace of its own: that of a thread, so that nothing of
//! it is left when the thread has ended.

use std::io::{self, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Pid, Uid, gettid, setfsuid};
use socket2::{Domain, SockRef, Socket, Type};

/// How long a connection may take to arrive, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host beside the Pod.
pub(crate) struct Peer {
    work: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

/// A listener. Each port has one for a whole test: after it is closed, a process that another test is about
/// to start may hold it for a moment.
pub(crate) struct Listener(Socket);

/// A connection that has arrived.
pub(crate) struct Arrived {
    /// Where it was to go, if the kernel remembers that it was another address. Of a connection that it
    /// knows and has not redirected it says the address where that has arrived.
    pub(crate) original: Option<SocketAddr>,
    /// Where it has arrived.
    pub(crate) local: SocketAddr,
    from: SocketAddr,
}

/// Runs a test in a Pod, or says that it is skipped. It has the addresses 10.1.0.2 and fd01::2; all other
/// addresses are those of the peer.
pub(crate) fn in_pod(test: impl FnOnce(&Peer) + Send) {
    thread::scope(|scope| {
        let ran = scope.spawn(|| match pod() {
            Ok(peer) => test(&peer),
            Err(why) => skip(&format!("no Pod of its own: {why}")),
        });
        if let Err(panic) = ran.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Says so past the test harness, which swallows what a passing test prints.
fn skip(why: &str) {
    let _ = writeln!(io::stderr(), "skipped: {why}");
    let required = std::env::var("MESH_REQUIRE_KERNEL").is_ok_and(|value| value == "1");
    assert!(!required, "MESH_REQUIRE_KERNEL=1, and {why}");
}

fn pod() -> Result<Peer, String> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| e.to_string())?;
    let (peer, id) = Peer::start()?;
    ip(&format!(
        "link add pod0 type veth peer name eth0 netns {id}"
    ))?;
    peer.run(|| {
        ip("link set lo up")?;
        ip("link set eth0 up")?;
        ip("addr add 10.1.0.1/24 dev eth0")?;
        ip("-6 addr add fd01::1/64 dev eth0 nodad")?;
        // Networks of which every address is its own.
        for network in ["10.7.0.0/16", "10.8.0.0/16", "10.9.0.0/16", "10.96.0.0/16"] {
            ip(&format!("route add local {network} dev lo"))?;
        }
        ip("-6 route add local fd09::/16 dev lo")?;
        ip("-6 route add local fd96::/16 dev lo")
    })?;
    ip("link set lo up")?;
    ip("link set pod0 up")?;
    ip("addr add 10.1.0.2/24 dev pod0")?;
    ip("-6 addr add fd01::2/64 dev pod0 nodad")?;
    ip("route add default via 10.1.0.1")?;
    ip("-6 route add default via fd01::1")?;
    Ok(peer)
}

fn ip(arguments: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    let ran = command.args(arguments.split(' ')).stdin(Stdio::null());
    let ran = ran.output().map_err(|e| format!("ip: {e}"))?;
    match ran.status.success() {
        true => Ok(()),
        false => Err(format!(
            "ip {arguments}: {}",
            String::from_utf8_lossy(&ran.stderr)
        )),
    }
}

// === impl Peer ===

impl Peer {
    fn start() -> Result<(Self, Pid), String> {
        let (work, jobs) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (started, starts) = mpsc::channel();
        thread::spawn(move || {
            let unshared = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
            let _ = started.send(unshared);
            for job in jobs {
                job();
            }
        });
        let started = starts.recv().map_err(|e| e.to_string())?;
        Ok((Self { work }, started.map_err(|e| e.to_string())?))
    }

    /// Does something there, and waits until it is done.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let job = move || {
            let _ = done.send(job());
        };
        self.work.send(Box::new(job)).expect("the peer runs");
        result.recv().expect("the peer has done it")
    }
}

// === impl Listener ===

impl Listener {
    pub(crate) fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        if address.is_ipv6() {
            let both = address.ip() == Ipv6Addr::UNSPECIFIED;
            socket.set_only_v6(!both).expect("an option");
        }
        socket.bind(&address.into()).expect("a free address");
        socket.listen(16).expect("it listens");
        socket.set_read_timeout(Some(PATIENCE)).expect("an option");
        Self(socket)
    }

    /// At all addresses.
    pub(crate) fn on(port: u16) -> Self {
        Self::at(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
    }

    pub(crate) fn accept(&self) -> Arrived {
        let (stream, from) = self.0.accept().expect("a connection arrives here");
        let address = |address: socket2::SockAddr| {
            let address = address.as_socket().expect("an address of IP");
            SocketAddr::new(address.ip().to_canonical(), address.port())
        };
        let local = address(stream.local_addr().expect("its address"));
        let socket = SockRef::from(&stream);
        let original = match local {
            SocketAddr::V4(_) => socket.original_dst_v4(),
            SocketAddr::V6(_) => socket.original_dst_v6(),
        };
        Arrived {
            original: original.ok().map(address).filter(|to| *to != local),
            local,
            from: address(from),
        }
    }
}

// === impl Arrived ===

impl Arrived {
    /// It is this very connection.
    #[must_use]
    pub(crate) fn of(self, client: &Socket) -> Self {
        let local = client.local_addr().expect("its address");
        let port = local.as_socket().expect("an address of IP").port();
        assert_eq!(self.from.port(), port, "another connection has arrived");
        self
    }
}

/// A connection that a process of this user has opened.
pub(crate) fn connect(user: u32, to: &str) -> Socket {
    let to: SocketAddr = to.parse().expect("an address");
    // The user of this thread alone: a socket is of the user that made it.
    let before = setfsuid(Uid::from_raw(user));
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None);
    setfsuid(before);
    let socket = socket.expect("a socket");
    let connected = socket.connect_timeout(&to.into(), PATIENCE);
    connected.unwrap_or_else(|e| panic!("{to}: {e}"));
    socket
}
