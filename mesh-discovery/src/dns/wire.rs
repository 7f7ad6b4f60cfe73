//! One look-up over the wire: a host name in, an outcome for the plan out.
//!
//! hickory-resolver asks, without its cache: the plan alone decides when to ask. Each name server has
//! a resolver of its own, since one resolver of several takes the first answer, a refusal included.
//! A and AAAA are asked for in parallel and judged apart, since one family that fails says nothing
//! of the other. Names are absolute; the search list of the system is not used.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::{Either, join_all, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use inmesh_core::model::{Host, HostAddress};
use tokio::time::{sleep, timeout};

use super::early::Early;
use super::plan::{Families, Outcome};
use super::srv;

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long one try with one name server may take.
const ATTEMPT: Duration = Duration::from_millis(900);
/// How long a name server is waited for before the next is asked beside it.
const NEXT_SERVER: Duration = Duration::from_millis(300);
/// How long one family waits for the other (RFC 8305 section 3, Resolution Delay).
const OTHER_FAMILY: Duration = Duration::from_millis(50);
/// The most name servers that are asked. Three is what others do.
const SERVERS: usize = 8;

/// Asks name servers.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// A resolver for each name server, in the order of the configuration.
    servers: Vec<TokioResolver>,
}

/// What one question came to.
enum Asked {
    /// Records, perhaps none, and how long they may be used.
    Answer(Vec<RData>, Duration),
    /// No answer.
    Failed,
    /// The name does not exist.
    Gone,
}

// === impl Wire ===

impl Wire {
    /// Asks these name servers, or those of the system if `servers` is empty.
    ///
    /// # Errors
    ///
    /// What is wrong with the system's configuration.
    pub(super) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let (servers, mut options): (Vec<_>, _) = if servers.is_empty() {
            let (config, options) = read_system_conf()?;
            (config.name_servers().to_vec(), options)
        } else {
            let server = |at: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = at.port();
                    connection
                });
                NameServerConfig::new(at.ip(), true, connections.into())
            };
            let mut options = ResolverOpts::default();
            options.use_hosts_file = ResolveHosts::Never;
            (servers.iter().map(server).collect(), options)
        };
        options.cache_size = 0;
        options.timeout = ATTEMPT;
        options.attempts = 1;
        let resolver = |server: NameServerConfig| {
            let config = ResolverConfig::from_name_servers(vec![server]);
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            *builder.options_mut() = options.clone();
            builder.build()
        };
        let servers = servers.into_iter().take(SERVERS).map(resolver);
        Ok(Self {
            servers: servers.collect::<Result<_, _>>()?,
        })
    }

    /// Looks a host up; `early` sends addresses while others are still waited for.
    pub(super) async fn look_up(&self, host: &Host, early: &Early) -> Outcome {
        match host {
            Host::Name { name, srv: None } => self.addresses(name, None, early).await,
            Host::Name {
                name,
                srv: Some(srv),
            } => self.services(&format!("{srv}.{name}"), early).await,
            Host::Address(ip) => Outcome::Answer {
                addresses: vec![HostAddress::new(*ip)],
                ttl: Duration::MAX,
            },
            // A kind of host that this source does not know.
            _ => Outcome::NxDomain,
        }
    }

    /// SRV, then the addresses of its targets, group by group: one that comes to no address at all
    /// is passed over, one of which something is not known is not.
    async fn services(&self, name: &str, early: &Early) -> Outcome {
        let (records, ttl) = match self.ask(name, RecordType::SRV).await {
            Asked::Answer(records, ttl) => (records, ttl),
            Asked::Failed => return Outcome::unknown(),
            Asked::Gone => return Outcome::NxDomain,
        };
        let records = records.into_iter().filter_map(|record| match record {
            RData::SRV(srv) => Some(srv::Record {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: (!srv.target.is_root()).then(|| srv.target.to_ascii()),
            }),
            _ => None,
        });
        for (passed, targets) in srv::groups(records.collect()).into_iter().enumerate() {
            let outcomes = targets
                .iter()
                .map(|(target, of)| self.addresses(target, Some(*of), early));
            match merge(join_all(outcomes).await, ttl) {
                Outcome::Answer { addresses, .. } if addresses.is_empty() => {}
                outcome if passed == 0 => return outcome,
                outcome => {
                    let outcome = Box::new(outcome);
                    return Outcome::FellBack { passed, outcome };
                }
            }
        }
        Outcome::Answer {
            addresses: Vec::new(),
            ttl,
        }
    }

    /// A and AAAA of a name. Where one family has addresses and the other keeps silent, `early`
    /// sends them after a short wait.
    async fn addresses(&self, name: &str, of: Option<srv::Of>, early: &Early) -> Outcome {
        let v4 = Box::pin(self.ask(name, RecordType::A));
        let v6 = Box::pin(self.ask(name, RecordType::AAAA));
        let (v4, v6) = match select(v4, v6).await {
            Either::Left((v4, v6)) => {
                let v6 = early.unless_soon(OTHER_FAMILY, v4.addresses(of), v6).await;
                (v4, v6)
            }
            Either::Right((v6, v4)) => {
                let v4 = early.unless_soon(OTHER_FAMILY, v6.addresses(of), v4).await;
                (v4, v6)
            }
        };
        let families = match (&v4, &v6) {
            (Asked::Gone, Asked::Gone) => return Outcome::NxDomain,
            (Asked::Failed, Asked::Failed) => return Outcome::unknown(),
            (Asked::Failed, _) => Some(Families::V4),
            (_, Asked::Failed) => Some(Families::V6),
            _ => None,
        };
        let (mut addresses, mut ttl) = (Vec::new(), None);
        for asked in [v4, v6] {
            let found = asked.addresses(of);
            if let (Asked::Answer(_, of_records), false) = (asked, found.is_empty()) {
                ttl = Some(ttl.map_or(of_records, |ttl: Duration| ttl.min(of_records)));
            }
            addresses.extend(found);
        }
        match families {
            None => Outcome::Answer {
                addresses,
                ttl: ttl.unwrap_or_default(),
            },
            Some(families) => Outcome::Failure {
                found: addresses,
                ttl,
                families,
            },
        }
    }

    /// Asks one question.
    ///
    /// 1. The first name server is asked; the next one as soon as it fails (an error of its own, a
    ///    refusal, no connection) or has been silent for a moment.
    /// 2. The first that knows decides, be it that the name does not exist.
    /// 3. If none does in time, there is no answer.
    async fn ask(&self, name: &str, kind: RecordType) -> Asked {
        let Ok(mut name) = Name::from_ascii(name) else {
            return Asked::Gone;
        };
        name.set_fqdn(true);
        let asking = async {
            let mut waiting = FuturesUnordered::new();
            let mut others = self.servers.iter();
            loop {
                waiting.extend(others.next().map(|server| ask_one(server, &name, kind)));
                let next = async {
                    match others.len() {
                        0 => std::future::pending().await,
                        _ => sleep(NEXT_SERVER).await,
                    }
                };
                tokio::select! {
                    biased;
                    answered = waiting.next() => match answered {
                        Some(Asked::Failed) => {}
                        Some(asked) => return asked,
                        None => return Asked::Failed,
                    },
                    () = next => {}
                }
            }
        };
        match timeout(DEADLINE, asking).await {
            Ok(asked) => asked,
            Err(e) => failed(&name, kind, &e),
        }
    }
}

// === impl Asked ===

impl Asked {
    /// The addresses among the records.
    fn addresses(&self, of: Option<srv::Of>) -> Vec<HostAddress> {
        match self {
            Self::Answer(records, _) => {
                let addresses: Vec<_> = records.iter().filter_map(RData::ip_addr).collect();
                let len = addresses.len();
                let each = addresses.into_iter().map(HostAddress::new);
                each.map(|address| of.map_or(address, |of| of.each(address, len)))
                    .collect()
            }
            Self::Failed | Self::Gone => Vec::new(),
        }
    }
}

/// Asks one name server.
async fn ask_one(server: &TokioResolver, name: &Name, kind: RecordType) -> Asked {
    match server.lookup(name.clone(), kind).await {
        Ok(lookup) => {
            let answers = lookup.answers();
            let ttl = answers
                .iter()
                .map(|record| record.ttl)
                .min()
                .unwrap_or_default();
            let records = answers.iter().map(|record: &Record| record.data.clone());
            Asked::Answer(records.collect(), Duration::from_secs(ttl.into()))
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => {
            match response_code {
                ResponseCode::NXDomain => Asked::Gone,
                ResponseCode::NoError => Asked::Answer(Vec::new(), Duration::ZERO),
                code => failed(name, kind, &code),
            }
        }
        Err(e) => failed(name, kind, &e),
    }
}

fn failed(name: &Name, kind: RecordType, why: &dyn std::fmt::Display) -> Asked {
    tracing::debug!(%name, %kind, %why, "no answer");
    Asked::Failed
}

/// The outcome of a name whose targets came to `outcomes`. Targets that do not exist add nothing.
fn merge(outcomes: Vec<Outcome>, mut ttl: Duration) -> Outcome {
    let (mut all, mut failed): (Vec<HostAddress>, Option<Families>) = (Vec::new(), None);
    for outcome in outcomes {
        let (found, of_found) = match outcome {
            Outcome::Answer { addresses, ttl } => (addresses, Some(ttl)),
            Outcome::Failure {
                found,
                ttl,
                families,
            } => {
                failed = Some(match failed {
                    Some(before) if before != families => Families::Both,
                    _ => families,
                });
                (found, ttl)
            }
            // One name alone has nothing to fall back to.
            Outcome::NxDomain | Outcome::FellBack { .. } => continue,
        };
        if !found.is_empty() {
            ttl = ttl.min(of_found.unwrap_or(ttl));
            all.extend(found);
        }
    }
    match failed {
        None => Outcome::Answer {
            addresses: all,
            ttl,
        },
        Some(families) => Outcome::Failure {
            ttl: (!all.is_empty()).then_some(ttl),
            found: all,
            families,
        },
    }
}
