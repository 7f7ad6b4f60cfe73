//! The wire: a name server on loopback that answers by script.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, SRV};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use inmesh_core::discover::Source;
use inmesh_core::model::Host;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::super::DnsSource;
use super::super::early::Early;
use super::super::plan::{Families, Outcome};
use super::super::wire::Wire;
use super::driver::World;
use super::{address, addresses, host};

#[derive(Clone)]
enum Reply {
    Code(ResponseCode),
    Records(Vec<(u32, RData)>),
    /// None at all.
    Silence,
}

/// What is answered: for each name and type the replies in order, the last one for ever; NXDOMAIN
/// for names of which nothing is known.
struct Script {
    replies: HashMap<(String, RecordType), Vec<Reply>>,
    asked: Mutex<HashMap<(String, RecordType), usize>>,
    count: watch::Sender<HashMap<(String, RecordType), usize>>,
}

#[derive(Clone)]
struct Scripted(Arc<Script>);

#[async_trait::async_trait]
impl RequestHandler for Scripted {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut to: R,
    ) -> ResponseInfo {
        let query = request.request_info().expect("one query").query;
        let name = query.name().to_string().trim_end_matches('.').to_owned();
        let reply = self.0.reply(name, query.query_type());
        let builder = MessageResponseBuilder::from_message_request(request);
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.authoritative = true;
        let silent = matches!(reply, Reply::Silence);
        let records: Vec<Record> = match reply {
            Reply::Silence => Vec::new(),
            Reply::Code(code) => {
                metadata.response_code = code;
                Vec::new()
            }
            Reply::Records(records) => records
                .into_iter()
                .map(|(ttl, data)| Record::from_rdata(query.original().name().clone(), ttl, data))
                .collect(),
        };
        let response = builder.build(metadata, &records, [], [], []);
        let failed = Header {
            metadata,
            counts: HeaderCounts::default(),
        };
        if silent {
            return failed.into();
        }
        to.send_response(response)
            .await
            .unwrap_or_else(|_| failed.into())
    }
}

impl Script {
    fn reply(&self, name: String, kind: RecordType) -> Reply {
        let key = (name, kind);
        let mut asked = self.asked.lock().expect("no panic");
        let nth = asked.entry(key.clone()).or_default();
        *nth += 1;
        let known = self.replies.keys().any(|(name, _)| *name == key.0);
        let reply = match self.replies.get(&key) {
            Some(replies) => replies[(*nth - 1).min(replies.len() - 1)].clone(),
            None if known => Reply::Records(vec![]),
            None => Reply::Code(ResponseCode::NXDomain),
        };
        self.count.send_replace(asked.clone());
        reply
    }
}

struct NameServer {
    at: SocketAddr,
    count: watch::Receiver<HashMap<(String, RecordType), usize>>,
    _server: Server<Scripted>,
}

impl NameServer {
    async fn start(replies: Vec<(&str, RecordType, Vec<Reply>)>) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let at = socket.local_addr().expect("an address");
        let replies = replies
            .into_iter()
            .map(|(n, k, r)| ((n.to_owned(), k), r))
            .collect();
        let (sender, count) = watch::channel(HashMap::new());
        let script = Script {
            replies,
            asked: Mutex::default(),
            count: sender,
        };
        let mut server = Server::new(Scripted(Arc::new(script)));
        server.register_socket(socket);
        Self {
            at,
            count,
            _server: server,
        }
    }

    async fn look_up(&self, host: &Host) -> Outcome {
        look_up(&[self.at], host).await
    }

    fn asked(&self, name: &str, kind: RecordType) -> usize {
        self.count
            .borrow()
            .get(&(name.to_owned(), kind))
            .copied()
            .unwrap_or_default()
    }
}

async fn look_up(servers: &[SocketAddr], host: &Host) -> Outcome {
    let (sender, _early) = tokio::sync::mpsc::channel(16);
    let wire = Wire::new(servers).expect("a resolver");
    wire.look_up(host, &Early::new(host, &sender)).await
}

fn v4(ip: &str) -> RData {
    RData::A(A(ip.parse().expect("an address")))
}

fn v6(ip: &str) -> RData {
    RData::AAAA(AAAA(ip.parse().expect("an address")))
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).expect("a name")
}

fn records(ttl: u32, list: Vec<RData>) -> Reply {
    Reply::Records(list.into_iter().map(|data| (ttl, data)).collect())
}

fn answer(texts: &[&str], ttl: u64) -> Outcome {
    Outcome::Answer {
        addresses: addresses(texts),
        ttl: Duration::from_secs(ttl),
    }
}

const SERVFAIL: Reply = Reply::Code(ResponseCode::ServFail);

#[tokio::test]
async fn what_answers_come_to() {
    use RecordType as T;
    let server = NameServer::start(vec![
        (
            "both.example",
            T::A,
            vec![records(60, vec![v4("192.0.2.2"), v4("192.0.2.1")])],
        ),
        (
            "both.example",
            T::AAAA,
            vec![records(30, vec![v6("2001:db8::1")])],
        ),
        ("v4.example", T::A, vec![records(0, vec![v4("192.0.2.1")])]),
        (
            "half.example",
            T::A,
            vec![records(60, vec![v4("192.0.2.1")])],
        ),
        ("half.example", T::AAAA, vec![SERVFAIL]),
        (
            "odd.example",
            T::A,
            vec![records(60, vec![v4("192.0.2.1")])],
        ),
        (
            "odd.example",
            T::AAAA,
            vec![Reply::Code(ResponseCode::NXDomain)],
        ),
        ("bad.example", T::A, vec![SERVFAIL]),
        (
            "bad.example",
            T::AAAA,
            vec![Reply::Code(ResponseCode::Refused)],
        ),
        ("empty.example", T::TXT, vec![]),
        (
            "alias.example",
            T::A,
            vec![records(5, vec![RData::CNAME(CNAME(name("v4.example.")))])],
        ),
    ])
    .await;
    let look_up = async |name: &str| match server.look_up(&host(name)).await {
        Outcome::Answer { mut addresses, ttl } => {
            addresses.sort();
            Outcome::Answer { addresses, ttl }
        }
        outcome => outcome,
    };
    let both = answer(&["192.0.2.1", "192.0.2.2", "2001:db8::1"], 30);
    assert_eq!(look_up("both.example").await, both);
    assert_eq!(look_up("v4.example").await, answer(&["192.0.2.1"], 0));
    let half = Outcome::Failure {
        found: addresses(&["192.0.2.1"]),
        ttl: Some(Duration::from_secs(60)),
        families: Families::V6,
    };
    assert_eq!(look_up("half.example").await, half);
    assert_eq!(look_up("odd.example").await, answer(&["192.0.2.1"], 60));
    assert_eq!(look_up("bad.example").await, Outcome::unknown());
    assert_eq!(look_up("empty.example").await, answer(&[], 0));
    assert_eq!(look_up("none.example").await, Outcome::NxDomain);
    assert_eq!(
        server.asked("none.example", T::A),
        1,
        "a name that is gone is asked for once"
    );
    // Nothing is cached: the plan alone decides when to ask.
    let before = server.asked("both.example", T::A);
    look_up("both.example").await;
    assert_eq!(server.asked("both.example", T::A), before + 1);
}

#[tokio::test]
async fn srv_gives_ports_of_the_lowest_priority_that_has_addresses() {
    use RecordType as T;
    let weighed =
        |priority, weight, port, target| RData::SRV(SRV::new(priority, weight, port, name(target)));
    let srv = |priority, port, target| weighed(priority, 0, port, target);
    let server = NameServer::start(vec![
        (
            "_http._tcp.web.example",
            T::SRV,
            vec![records(
                20,
                vec![
                    srv(10, 9, "far.example."),
                    srv(1, 8080, "a.example."),
                    srv(1, 8081, "a.example."),
                    srv(1, 8082, "none.example."),
                ],
            )],
        ),
        ("a.example", T::A, vec![records(60, vec![v4("192.0.2.1")])]),
        (
            "a.example",
            T::AAAA,
            vec![records(10, vec![v6("2001:db8::1")])],
        ),
        (
            "far.example",
            T::A,
            vec![records(60, vec![v4("192.0.2.9")])],
        ),
        (
            "_no._tcp.web.example",
            T::SRV,
            vec![records(20, vec![srv(1, 1, ".")])],
        ),
        ("_bad._tcp.web.example", T::SRV, vec![SERVFAIL]),
        (
            "_half._tcp.web.example",
            T::SRV,
            vec![records(
                20,
                vec![srv(1, 1, "a.example."), srv(1, 2, "bad.example.")],
            )],
        ),
        (
            "_next._tcp.web.example",
            T::SRV,
            vec![records(
                20,
                vec![srv(1, 1, "none.example."), srv(2, 2, "far.example.")],
            )],
        ),
        (
            "_wait._tcp.web.example",
            T::SRV,
            vec![records(
                20,
                vec![srv(1, 1, "bad.example."), srv(2, 2, "far.example.")],
            )],
        ),
        (
            "_idle._tcp.web.example",
            T::SRV,
            vec![records(
                20,
                vec![
                    weighed(1, 0, 1, "a.example."),
                    weighed(1, 5, 2, "far.example."),
                ],
            )],
        ),
        ("bad.example", T::A, vec![SERVFAIL]),
        ("bad.example", T::AAAA, vec![SERVFAIL]),
    ])
    .await;
    let look_up = |prefix: &str| {
        let host = Host::Name {
            name: "web.example".into(),
            srv: Some(prefix.into()),
        };
        let server = &server;
        async move { server.look_up(&host).await }
    };
    let at = |texts: &[(&str, u16)]| -> Vec<_> {
        texts
            .iter()
            .map(|(ip, port)| address(ip).at_port(*port).with_weight(60))
            .collect()
    };
    let all = [
        ("192.0.2.1", 8080),
        ("2001:db8::1", 8080),
        ("192.0.2.1", 8081),
        ("2001:db8::1", 8081),
    ];
    let wanted = Outcome::Answer {
        addresses: at(&all),
        ttl: Duration::from_secs(10),
    };
    assert_eq!(look_up("_http._tcp").await, wanted);
    assert_eq!(server.asked("far.example", T::A), 0);
    assert_eq!(look_up("_no._tcp").await, answer(&[], 20));
    assert_eq!(look_up("_bad._tcp").await, Outcome::unknown());
    assert_eq!(look_up("_gone._tcp").await, Outcome::NxDomain);
    let half = Outcome::Failure {
        found: at(&[("192.0.2.1", 1), ("2001:db8::1", 1)]),
        ttl: Some(Duration::from_secs(10)),
        families: Families::Both,
    };
    assert_eq!(look_up("_half._tcp").await, half);
    let far = Outcome::Answer {
        addresses: at(&[("192.0.2.9", 2)]),
        ttl: Duration::from_secs(20),
    };
    let next = Outcome::FellBack {
        passed: 1,
        outcome: Box::new(far),
    };
    assert_eq!(look_up("_next._tcp").await, next);
    let weighed = at(&[("192.0.2.9", 2)])[0].with_weight(300);
    let far = Outcome::Answer {
        addresses: vec![weighed],
        ttl: Duration::from_secs(20),
    };
    assert_eq!(look_up("_idle._tcp").await, far);
    // What is not known may be there.
    assert_eq!(look_up("_wait._tcp").await, Outcome::unknown());
}

/// The whole source: answers change, SERVFAIL keeps, a TTL of 0 is asked for again after a second.
#[tokio::test]
async fn the_source_follows_the_name_server() {
    let mut server = NameServer::start(vec![(
        "a.example",
        RecordType::A,
        vec![
            records(0, vec![v4("192.0.2.1"), v4("127.0.0.1")]),
            // Two: the resolver may ask again within one look-up.
            SERVFAIL,
            SERVFAIL,
            records(300, vec![v4("192.0.2.2")]),
        ],
    )])
    .await;
    let source = DnsSource::with_servers(vec![server.at]);
    assert_eq!(source.id().to_string(), "dns");
    let world = World::start(|sink, drain| source.run(sink, drain));
    world.want(host("a.example")).await;
    world.until(&["192.0.2.1:80"]).await;
    let key = ("a.example".to_owned(), RecordType::A);
    let failed = server
        .count
        .wait_for(|count| count.get(&key).is_some_and(|n| *n >= 2));
    failed.await.expect("the server lives");
    assert_eq!(world.endpoints(), ["192.0.2.1:80"], "a failure keeps");
    world.until(&["192.0.2.2:80"]).await;
    world.stop().await;
}

/// A server of one name, both families.
async fn server_of(replies: [Reply; 2]) -> NameServer {
    let [a, aaaa] = replies.map(|reply| vec![reply]);
    NameServer::start(vec![
        ("a.example", RecordType::A, a),
        ("a.example", RecordType::AAAA, aaaa),
    ])
    .await
}

fn knows() -> [Reply; 2] {
    [
        records(60, vec![v4("192.0.2.1")]),
        records(60, vec![v6("2001:db8::1")]),
    ]
}

/// One name server that refuses, fails or keeps silent leaves the question to the others, in any
/// order and however many; one that knows the name or knows that there is no such one decides.
#[tokio::test]
async fn a_server_that_fails_leaves_the_question_to_the_others() {
    let refuses = || {
        [
            Reply::Code(ResponseCode::Refused),
            Reply::Code(ResponseCode::Refused),
        ]
    };
    let fails = || [SERVFAIL, SERVFAIL];
    let silent = || [Reply::Silence, Reply::Silence];
    let gone = || {
        [
            Reply::Code(ResponseCode::NXDomain),
            Reply::Code(ResponseCode::NXDomain),
        ]
    };
    let known = answer(&["192.0.2.1", "2001:db8::1"], 60);
    for (replies, wanted) in [
        (vec![refuses(), knows()], known.clone()),
        (vec![knows(), refuses()], known.clone()),
        (vec![fails(), refuses(), knows()], known.clone()),
        (vec![silent(), knows()], known.clone()),
        (vec![silent(), fails(), refuses(), knows()], known.clone()),
        (vec![[SERVFAIL, knows()[1].clone()], knows()], known.clone()),
        (vec![refuses(), gone()], Outcome::NxDomain),
        (vec![refuses(), fails()], Outcome::unknown()),
    ] {
        let mut servers = Vec::new();
        for replies in replies {
            servers.push(server_of(replies).await);
        }
        let at: Vec<_> = servers.iter().map(|server| server.at).collect();
        let found = match look_up(&at, &host("a.example")).await {
            Outcome::Answer { mut addresses, ttl } => {
                addresses.sort();
                Outcome::Answer { addresses, ttl }
            }
            outcome => outcome,
        };
        assert_eq!(found, wanted);
    }
    // One that knows is enough: the others are not asked.
    let (first, second) = (server_of(knows()).await, server_of(knows()).await);
    look_up(&[first.at, second.at], &host("a.example")).await;
    assert_eq!(second.asked("a.example", RecordType::A), 0);
}

/// A server that is gone is as one that refuses.
#[tokio::test]
async fn a_server_that_is_not_there_leaves_the_question_to_the_others() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let gone = socket.local_addr().expect("an address");
    drop(socket);
    let server = server_of(knows()).await;
    let outcome = look_up(&[gone, server.at], &host("a.example")).await;
    assert!(matches!(outcome, Outcome::Answer { .. }), "{outcome:?}");
}

/// The whole source: a family that keeps silent does not hold up the other.
#[tokio::test]
async fn a_silent_family_holds_up_nothing() {
    for (replies, endpoint) in [
        ([knows()[0].clone(), Reply::Silence], "192.0.2.1:80"),
        ([Reply::Silence, knows()[1].clone()], "[2001:db8::1]:80"),
    ] {
        let server = server_of(replies.clone()).await;
        let host = host("a.example");
        let (sender, mut sent) = tokio::sync::mpsc::channel(16);
        let wire = Wire::new(&[server.at]).expect("a resolver");
        let early = Early::new(&host, &sender);
        // What is known is sent while the look-up still waits.
        let looking = wire.look_up(&host, &early);
        tokio::select! {
            biased;
            sent = sent.recv() => {
                let (_, found) = sent.expect("it is sent");
                assert_eq!(found.len(), 1, "{found:?}");
            }
            outcome = looking => panic!("{outcome:?} came first"),
        }
        let source = DnsSource::with_servers(vec![server.at]);
        let world = World::start(|sink, drain| source.run(sink, drain));
        world.want(host).await;
        world.until(&[endpoint]).await;
        world.stop().await;
    }
}

#[tokio::test]
async fn a_name_server_that_is_not_there_is_a_failure() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let at = socket.local_addr().expect("an address");
    drop(socket);
    assert_eq!(look_up(&[at], &host("a.example")).await, Outcome::unknown());
}
