//! Connections are redirected by the kernel of this machine, in network namespaces of the tests' own.
//!
//! They need root, and say that they are skipped without; with `MESH_REQUIRE_KERNEL=1` they fail.
#![cfg(target_os = "linux")]

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use inmesh_ebpf::redirect::{Options, Redirect, applied, apply, remove};

use lab::{Listener, connect, in_pod};

/// The sidecar's user and that of an application.
const SIDECAR: u32 = 1_337;
const APP: u32 = 4_242;
const ROOT: u32 = 0;

fn redirect() -> Redirect {
    let mut options = Options::default();
    options.exclude_inbound_ports = vec![15_020];
    options.exclude_outbound_ports = vec![5_432];
    let networks = ["10.9.0.0/17", "10.8.0.0/16", "fd09::/17"];
    options.exclude_outbound = networks.map(|n| n.parse().expect("a network")).to_vec();
    Redirect::new(options).expect("good options")
}

fn address(written: &str) -> SocketAddr {
    written.parse().expect("an address")
}

/// Each of these goes to the outbound listener, on loopback, and the kernel remembers where it was to go.
#[test]
fn what_applications_open_arrives_at_the_outbound_port() {
    in_pod(|_| {
        apply(&redirect()).expect("it is applied");
        let v4 = Listener::at(address("127.0.0.1:15001"));
        let v6 = Listener::at(address("[::1]:15001"));
        for (user, to) in [
            (APP, "10.96.0.10:80"),
            (ROOT, "10.96.0.10:443"),
            (APP, "[fd96::10]:80"),
            (ROOT, "[fd96::10]:15006"),
            // Beside a network that is excluded.
            (APP, "10.9.128.1:80"),
            (APP, "10.7.0.1:15020"),
            (APP, "[fd09:8000::1]:80"),
        ] {
            let client = connect(user, to);
            let listener = if to.starts_with('[') { &v6 } else { &v4 };
            let arrived = listener.accept().of(&client);
            assert_eq!(arrived.original, Some(address(to)), "{user} to {to}");
        }
    });
}

/// Each of these arrives where it was to go, at the peer.
#[test]
fn what_is_excluded_goes_straight() {
    in_pod(|peer| {
        apply(&redirect()).expect("it is applied");
        let listeners = [80, 5_432, 15_001];
        let listeners = peer.run(move || listeners.map(|port| (port, Listener::on(port))));
        for (user, to) in [
            (SIDECAR, "10.96.0.10:80"),
            (SIDECAR, "[fd96::10]:80"),
            (SIDECAR, "10.96.0.10:15001"),
            (APP, "10.96.0.10:5432"),
            (APP, "[fd96::10]:5432"),
            (APP, "10.9.127.1:80"),
            (APP, "10.8.7.1:80"),
            (APP, "[fd09:7fff::1]:80"),
        ] {
            let to = address(to);
            let client = connect(user, &to.to_string());
            let of_port = listeners.iter().find(|(port, _)| *port == to.port());
            let (_, listener) = of_port.expect("a listener of this port");
            let arrived = listener.accept().of(&client);
            assert_eq!((arrived.local, arrived.original), (to, None), "{user}");
        }
    });
}

/// The application reaches itself and what else listens in its Pod.
#[test]
fn what_stays_in_the_pod_goes_straight() {
    in_pod(|_| {
        apply(&redirect()).expect("it is applied");
        let app = Listener::on(8_080);
        for (user, to) in [
            (APP, "127.0.0.1:8080"),
            (APP, "127.0.0.9:8080"),
            (APP, "[::1]:8080"),
            (APP, "10.1.0.2:8080"),
            (APP, "[fd01::2]:8080"),
            (SIDECAR, "127.0.0.1:8080"),
            (SIDECAR, "[::1]:8080"),
        ] {
            let client = connect(user, to);
            let arrived = app.accept().of(&client);
            assert_eq!(arrived.local, address(to), "{user}");
            assert_eq!(arrived.original, None, "{user} to {to}");
        }
    });
}

/// An application that calls its own Service: the sidecar chooses this Pod and calls its address.
#[test]
fn what_the_sidecar_opens_to_its_own_pod_arrives_as_from_outside() {
    in_pod(|_| {
        apply(&redirect()).expect("it is applied");
        let inbound = Listener::on(15_006);
        for to in ["10.1.0.2:8080", "[fd01::2]:8080"] {
            let client = connect(SIDECAR, to);
            let arrived = inbound.accept().of(&client);
            assert_eq!(arrived.original, Some(address(to)));
        }
        // What its own probes ask is not redirected, and nothing loops.
        let probes = Listener::on(15_020);
        let client = connect(SIDECAR, "10.1.0.2:15020");
        assert_eq!(probes.accept().of(&client).original, None);
        let client = connect(SIDECAR, "10.1.0.2:15006");
        assert_eq!(inbound.accept().of(&client).original, None);
    });
}

#[test]
fn what_arrives_from_outside_arrives_at_the_inbound_port() {
    in_pod(|peer| {
        apply(&redirect()).expect("it is applied");
        let inbound = Listener::on(15_006);
        for to in [
            "10.1.0.2:8080",
            "[fd01::2]:8080",
            "10.1.0.2:22",
            "10.1.0.2:5432",
        ] {
            let client = peer.run(move || connect(ROOT, to));
            let arrived = inbound.accept().of(&client);
            assert_eq!(arrived.original, Some(address(to)));
        }
        // Ports that are excluded, and those of the listeners.
        let (probes, outbound) = (Listener::on(15_020), Listener::on(15_001));
        for to in [
            "10.1.0.2:15020",
            "[fd01::2]:15020",
            "10.1.0.2:15001",
            "10.1.0.2:15006",
        ] {
            let to = address(to);
            let client = peer.run(move || connect(ROOT, &to.to_string()));
            let listener = match to.port() {
                15_001 => &outbound,
                15_020 => &probes,
                _ => &inbound,
            };
            let arrived = listener.accept().of(&client);
            assert_eq!((arrived.local, arrived.original), (to, None));
        }
    });
}

#[test]
fn udp_is_not_redirected() {
    in_pod(|peer| {
        apply(&redirect()).expect("it is applied");
        let server = peer.run(|| UdpSocket::bind("[::]:53").expect("a free port"));
        let patience = Some(Duration::from_secs(20));
        server.set_read_timeout(patience).expect("an option");
        for (from, to) in [("0.0.0.0:0", "10.96.0.10:53"), ("[::]:0", "[fd96::10]:53")] {
            let client = UdpSocket::bind(from).expect("a free port");
            client.send_to(b"query", to).expect("it is sent");
            let mut heard = [0; 16];
            assert_eq!(server.recv(&mut heard).expect(to), 5);
        }
    });
}

/// The table is ours alone, is replaced as a whole, and nothing is left of it.
#[test]
fn it_may_be_applied_again_and_taken_away() {
    in_pod(|peer| {
        assert_eq!(applied().expect("it is read"), None);
        remove().expect("there is nothing to remove");
        assert_eq!(applied().expect("it is read"), None);

        apply(&redirect()).expect("it is applied");
        let first = applied().expect("it is read").expect("it is there");
        let lines = redirect().to_string();
        let rules = lines.lines().filter(|line| line.starts_with("\t\t"));
        let rules = rules.filter(|line| !line.contains("type nat")).count();
        assert_eq!(first.rules(), rules);
        apply(&redirect()).expect("it is applied again");
        let second = applied().expect("it is read");
        assert_eq!(second.as_ref(), Some(&first));

        let other = Redirect::new(Options::default()).expect("good options");
        apply(&other).expect("another takes its place");
        assert_ne!(applied().expect("it is read"), second);

        remove().expect("it is removed");
        assert_eq!(applied().expect("it is read"), None);
        let listener = peer.run(|| Listener::on(80));
        let client = connect(APP, "10.96.0.10:80");
        assert_eq!(listener.accept().of(&client).original, None);
    });
}

/// `nft` makes the same rules of the text as we send.
#[test]
fn the_text_has_the_rules_that_are_applied() {
    in_pod(|_| {
        let text = redirect().to_string();
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped());
        let Ok(mut nft) = nft.spawn() else {
            // It is no part of the mesh, and no machine needs it.
            eprintln!("skipped: nft is not there");
            return;
        };
        let mut stdin = nft.stdin.take().expect("it is piped");
        std::io::Write::write_all(&mut stdin, text.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(nft.wait().expect("it ends").success(), "{text}");
        let of_text = applied().expect("it is read");
        apply(&redirect()).expect("it is applied");
        assert_eq!(applied().expect("it is read"), of_text);
        assert!(of_text.is_some());
    });
}
