//! One look-up over the wire: a host name in, an outcome for the plan out.
//!
//! hickory-resolver asks, without its cache: the plan alone decides when to ask. A and AAAA are
//! asked for in parallel and judged apart, since one family that fails says nothing of the other.
//! Names are absolute; the search list of the system is not used.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use inmesh_core::model::Host;
use tokio::time::timeout;

use super::plan::{Address, Families, Outcome};
use super::srv;

/// How long one question may take.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long one name server may take.
const ATTEMPT: Duration = Duration::from_millis(900);

/// Asks name servers.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    resolver: TokioResolver,
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
    /// Asks these name servers, or those of the system if there are none.
    ///
    /// # Errors
    ///
    /// What is wrong with the system's configuration.
    pub(super) fn new(servers: &[SocketAddr]) -> Result<Self, NetError> {
        let mut builder = if servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let server = |at: &SocketAddr| {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|mut connection| {
                    connection.port = at.port();
                    connection
                });
                NameServerConfig::new(at.ip(), true, connections.into())
            };
            let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
            let mut builder =
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
            builder.options_mut().use_hosts_file = ResolveHosts::Never;
            builder
        };
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        options.timeout = ATTEMPT;
        options.attempts = 1;
        let resolver = builder.build()?;
        Ok(Self { resolver })
    }

    /// Looks a host up.
    pub(super) async fn look_up(&self, host: &Host) -> Outcome {
        match host {
            Host::Name { name, srv: None } => self.addresses(name, None).await,
            Host::Name {
                name,
                srv: Some(srv),
            } => self.services(&format!("{srv}.{name}")).await,
            Host::Address(ip) => Outcome::Answer {
                addresses: vec![(*ip, None)],
                ttl: Duration::MAX,
            },
            // A kind of host that this source does not know.
            _ => Outcome::NxDomain,
        }
    }

    /// SRV, then the addresses of its targets, group by group: one that comes to no address at all
    /// is passed over, one of which something is not known is not.
    async fn services(&self, name: &str) -> Outcome {
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
                .map(|(target, port)| self.addresses(target, Some(*port)));
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

    /// A and AAAA of a name.
    async fn addresses(&self, name: &str, port: Option<u16>) -> Outcome {
        let (v4, v6) = tokio::join!(
            self.ask(name, RecordType::A),
            self.ask(name, RecordType::AAAA)
        );
        let families = match (&v4, &v6) {
            (Asked::Gone, Asked::Gone) => return Outcome::NxDomain,
            (Asked::Failed, Asked::Failed) => return Outcome::unknown(),
            (Asked::Failed, _) => Some(Families::V4),
            (_, Asked::Failed) => Some(Families::V6),
            _ => None,
        };
        let (mut addresses, mut ttl) = (Vec::new(), None);
        for asked in [v4, v6] {
            if let Asked::Answer(records, of_records) = asked {
                let found = records
                    .iter()
                    .filter_map(RData::ip_addr)
                    .map(|ip| (ip, port));
                let before = addresses.len();
                addresses.extend(found);
                if addresses.len() > before {
                    ttl = Some(ttl.map_or(of_records, |ttl: Duration| ttl.min(of_records)));
                }
            }
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

    async fn ask(&self, name: &str, kind: RecordType) -> Asked {
        let Ok(mut name) = Name::from_ascii(name) else {
            return Asked::Gone;
        };
        name.set_fqdn(true);
        match timeout(DEADLINE, self.resolver.lookup(name.clone(), kind)).await {
            Ok(Ok(lookup)) => {
                let answers = lookup.answers();
                let ttl = answers
                    .iter()
                    .map(|record| record.ttl)
                    .min()
                    .unwrap_or_default();
                let records = answers.iter().map(|record: &Record| record.data.clone());
                Asked::Answer(records.collect(), Duration::from_secs(ttl.into()))
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code, ..
            })))) => match response_code {
                ResponseCode::NXDomain => Asked::Gone,
                ResponseCode::NoError => Asked::Answer(Vec::new(), Duration::ZERO),
                code => failed(&name, kind, &code),
            },
            Ok(Err(e)) => failed(&name, kind, &e),
            Err(e) => failed(&name, kind, &e),
        }
    }
}

fn failed(name: &Name, kind: RecordType, why: &dyn std::fmt::Display) -> Asked {
    tracing::debug!(%name, %kind, %why, "no answer");
    Asked::Failed
}

/// The outcome of a name whose targets came to `outcomes`. Targets that do not exist add nothing.
fn merge(outcomes: Vec<Outcome>, mut ttl: Duration) -> Outcome {
    let (mut all, mut failed): (Vec<Address>, Option<Families>) = (Vec::new(), None);
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
