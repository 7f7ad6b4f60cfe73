//! The document of kind `Agent`, field by field.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use inmesh_core::authorize::{DefaultAction, PathForm};
use inmesh_core::balance::Level;
use inmesh_core::model::{Locality, Namespace, Workload, check_label};
use inmesh_core::runtime::Limits;
use inmesh_core::snapshot::{OutboundTrafficPolicy, Problem};
use inmesh_discovery::manifest::outlier_detection;
use inmesh_discovery::manifest::strict::{Document, Fields, Unknown, Value};
use inmesh_pki::bundle::federate::BundleUrl;
use inmesh_pki::source::pod_certificate::{CREDENTIALS_FILE, MOUNTED, ROOTS_FILE};
use inmesh_pki::workload_api::Endpoint;
use inmesh_pki::workload_api::server::{Entry, Selector};
use inmesh_pki::{SpiffeId, TrustDomain};

use super::control::{control, control_plane, host_and_port};
use super::kubernetes::kubernetes;
use super::listener::listener;
use super::optional::optional;
use super::{AccessLogTo, Agent, Followed, Identity, LogTo, StaleAfter, Tracing};
use crate::federation::{Endpoint as BundleEndpoint, FederationConfig, Foreign, Spiffe, WebFiles};
use crate::workload_api::WorkloadApiConfig;

/// The most identities that one agent serves, and foreign trust domains that it knows.
const MAX_ENTRIES: usize = 1_000;

/// Reads the document; relative paths are relative to its folder.
pub(super) fn agent(document: &Document, dir: &Path) -> Result<Agent, Vec<Problem>> {
    let read = document.read(Unknown::Refuse, |agent| {
        agent.ignore(&["metadata"]);
        let workload = agent.need("workload").and_then(|w| w.object(workload));
        let action = agent
            .need("defaultAction")
            .and_then(|a| a.choice(&["allow", "deny"]));
        let peers = agent
            .need("peers")
            .and_then(|p| p.choice(&["strict", "permissive"]));
        let identity = agent
            .need("identity")
            .and_then(|i| i.object(|i| identity(i, dir)));
        let mesh_namespace = optional(agent, "meshNamespace", |v| {
            v.check(Namespace::new(v.text()?))
        });
        let own = workload.as_ref().map(|w: &Workload| w.namespace.clone());
        let listeners = optional(agent, "listeners", |v| {
            let read = |l: &Value<'_>| l.object(|l| listener(l, own.as_ref(), peers));
            // Each is read, so that one look shows the problems of all.
            let read: Vec<_> = v.list()?.iter().map(read).collect();
            read.into_iter().collect::<Option<Vec<_>>>()
        });
        let admin = optional(agent, "admin", |v| v.object(|a| a.need("bind")?.parsed()));
        let loopback = optional(agent, "loopbackEndpoints", |v| {
            Some(v.choice(&["allow", "refuse"])? == "allow")
        });
        let paths = optional(agent, "paths", |v| v.object(paths));
        let outbound = optional(agent, "outboundTrafficPolicy", |v| {
            v.object(|policy| {
                let mode = policy.need("mode")?;
                Some(match mode.choice(&["REGISTRY_ONLY", "ALLOW_ANY"])? {
                    "ALLOW_ANY" => OutboundTrafficPolicy::AllowAny,
                    _ => OutboundTrafficPolicy::RegistryOnly,
                })
            })
        });
        let limits = optional(agent, "limits", |v| v.object(limits));
        let eject = optional(agent, "outlierDetection", |v| outlier_detection(&v));
        let locality = optional(agent, "locality", |v| v.object(locality));
        let stale_after = optional(agent, "sources", |v| v.object(sources));
        let access_log = optional(agent, "accessLog", |v| v.object(|a| access_log(a, dir)));
        let tracing = optional(agent, "tracing", |v| v.object(tracing));
        let workload_api = optional(agent, "workloadApi", |v| {
            v.object(|api| workload_api(api, dir))
        });
        let federation = optional(agent, "federation", |v| v.object(|f| federation(f, dir)));
        let followed = followed(agent, dir, identity.as_ref(), own.as_ref());
        Some(Agent {
            document: document.clone(),
            workload: workload?,
            default_action: match action? {
                "allow" => DefaultAction::Allow,
                _ => DefaultAction::Deny,
            },
            strict: peers? == "strict",
            mesh_namespace: mesh_namespace?,
            identity: identity?,
            listeners: listeners?.unwrap_or_default(),
            admin: admin?,
            loopback_endpoints: loopback?.unwrap_or(false),
            paths: paths?.unwrap_or_default(),
            outbound: outbound?.unwrap_or_default(),
            limits: limits?.unwrap_or_default(),
            eject: eject?.unwrap_or_default(),
            locality: locality?.unwrap_or_default(),
            stale_after: stale_after?.unwrap_or_default(),
            access_log: access_log?,
            tracing: tracing?,
            workload_api: workload_api?,
            federation: federation?,
            followed: followed?,
        })
    })?;
    Ok(read.value)
}

/// Reads what is followed beside the folder, and handed on.
fn followed(
    agent: &mut Fields<'_>,
    dir: &Path,
    identity: Option<&Identity>,
    own: Option<&Namespace>,
) -> Option<Followed> {
    let cluster = optional(agent, "kubernetes", |v| {
        v.object(|k| kubernetes(k, dir, identity))
    });
    let control = optional(agent, "control", |v| v.object(|c| control(c, dir, own)));
    let of = cluster.as_ref().and_then(Option::as_ref);
    let plane = optional(agent, "controlPlane", |v| {
        v.object(|c| control_plane(c, dir, of, own))
    });
    Some(Followed {
        kubernetes: cluster?,
        control: control?,
        control_plane: plane?,
    })
}

fn workload(fields: &mut Fields<'_>) -> Option<Workload> {
    let whole = fields.whole().clone();
    let namespace = fields.need("namespace").and_then(|v| v.text());
    let name = fields.need("name").and_then(|v| v.text());
    let account = fields.need("serviceAccount").and_then(|v| v.text());
    let labels = optional(fields, "labels", |v| {
        let label = |(key, value): (_, Value<'_>)| {
            let text = value.text()?;
            value.check(check_label(key, text))?;
            Some((key, text.to_owned()))
        };
        v.entries()?
            .into_iter()
            .map(label)
            .collect::<Option<Vec<_>>>()
    });
    let mut workload = whole.check(Workload::new(namespace?, name?, account?))?;
    for (key, value) in labels?.unwrap_or_default() {
        workload = workload.label(key, &value);
    }
    Some(workload)
}

fn identity(fields: &mut Fields<'_>, dir: &Path) -> Option<Identity> {
    let path = |v: Value<'_>| v.text().map(|p| dir.join(p));
    let served = optional(fields, "ca", |v| {
        v.object(|ca| {
            let address = ca.need("address").and_then(|v| host_and_port(&v));
            let id = ca.need("caId").and_then(|v| v.parsed::<SpiffeId>());
            let bundle = ca.need("trustBundle").and_then(path);
            let token = optional(ca, "tokenFile", path);
            let keep = optional(ca, "keep", path);
            Some(Identity::Ca {
                address: address?,
                ca: id?,
                trust_bundle: bundle?,
                token: token?,
                keep: keep?,
            })
        })
    });
    let ca = optional(fields, "developmentCA", |v| {
        v.object(|ca| {
            let dir = ca.need("dir").and_then(path);
            let lifetime = optional(ca, "lifetime", |v| time(&v));
            Some(Identity::DevelopmentCa {
                dir: dir?,
                lifetime: lifetime?.unwrap_or(Duration::from_secs(3_600)),
            })
        })
    });
    let files = optional(fields, "files", |v| {
        v.object(|files| {
            let mut one = |name: &str| files.need(name).and_then(path);
            let (certificate, key, bundle) = (one("certificate"), one("key"), one("bundle"));
            let lists = optional(files, "revocationLists", path);
            Some(Identity::Files {
                certificate: certificate?,
                key: key?,
                bundle: bundle?,
                revocation_lists: lists?,
            })
        })
    });
    let pod = optional(fields, "podCertificate", |v| {
        v.object(|pod| pod_certificate(pod, dir))
    });
    let agent = optional(fields, "workloadApi", |v| {
        v.object(|agent| {
            let address = agent.need("socket")?;
            let text = address.text()?;
            // An address as SPIFFE_ENDPOINT_SOCKET holds it, or a path like all others here.
            let endpoint = if text.starts_with("unix:") || text.contains("://") {
                address.check(Endpoint::parse(text))?
            } else {
                Endpoint::at(dir.join(text))
            };
            Some(Identity::WorkloadApi(endpoint))
        })
    });
    let mut named = [served?, ca?, files?, pod?, agent?].into_iter().flatten();
    match (named.next(), named.next()) {
        (Some(one), None) => Some(one),
        _ => {
            let whole = fields.whole();
            whole.refuse(
                "name exactly one source: ca, developmentCA, files, podCertificate or workloadApi",
            );
            None
        }
    }
}

/// Where the files of a Pod certificate are: one of both, or one of each.
fn pod_certificate(fields: &mut Fields<'_>, dir: &Path) -> Option<Identity> {
    let mounted = Path::new(MOUNTED);
    let path = |v: Value<'_>| v.text().map(|p| dir.join(p));
    let credentials = optional(fields, "credentials", path)?;
    let key = optional(fields, "key", path)?;
    let chain = optional(fields, "certificateChain", path)?;
    let bundle = optional(fields, "bundle", path)?;
    let (chain, key) = match (credentials, chain, key) {
        (None, Some(chain), Some(key)) => (chain, key),
        (both, None, None) => {
            let both = both.unwrap_or_else(|| mounted.join(CREDENTIALS_FILE));
            (both.clone(), both)
        }
        _ => {
            let whole = fields.whole();
            whole.refuse("name credentials, or key and certificateChain");
            return None;
        }
    };
    Some(Identity::PodCertificate {
        chain,
        key,
        bundle: bundle.unwrap_or_else(|| mounted.join(ROOTS_FILE)),
    })
}

fn workload_api(fields: &mut Fields<'_>, dir: &Path) -> Option<WorkloadApiConfig> {
    let listen = fields.need("listen").and_then(|v| v.text());
    let entries = fields.need("entries").and_then(|v| {
        let read: Vec<_> = v
            .list_of(MAX_ENTRIES)?
            .iter()
            .map(|v| v.object(entry))
            .collect();
        read.into_iter().collect::<Option<Vec<_>>>()
    });
    Some(WorkloadApiConfig {
        listen: dir.join(listen?),
        entries: entries?,
    })
}

fn entry(fields: &mut Fields<'_>) -> Option<Entry> {
    let whole = fields.whole().clone();
    let id = fields.need("id").and_then(|v| v.parsed::<SpiffeId>());
    let mut number = |name: &str| {
        let most = i64::from(u32::MAX);
        optional(fields, name, |v| v.integer_in::<u32>(0, most))
    };
    let (uid, gid, pid) = (number("uid"), number("gid"), number("pid"));
    let cgroup = optional(fields, "cgroup", |v| v.text().map(str::to_owned));
    let hint = optional(fields, "hint", |v| v.text().map(str::to_owned));
    let selector = whole.check(Selector::new(uid?, gid?, pid?, cgroup?))?;
    let entry = whole.check(Entry::new(selector, id?))?;
    match hint? {
        Some(hint) => whole.check(entry.with_hint(hint)),
        None => Some(entry),
    }
}

fn federation(fields: &mut Fields<'_>, dir: &Path) -> Option<FederationConfig> {
    let relationships = optional(fields, "relationships", |v| {
        let mut once = BTreeSet::new();
        let mut read = |v: &Value<'_>| v.object(|f| foreign(f, dir, &mut once));
        let read: Vec<_> = v.list_of(MAX_ENTRIES)?.iter().map(&mut read).collect();
        read.into_iter().collect::<Option<Vec<_>>>()
    });
    let endpoint = optional(fields, "bundleEndpoint", |v| {
        v.object(|endpoint| {
            let bind = endpoint.need("bind").and_then(|v| v.parsed());
            let path = endpoint.need("path").and_then(|v| {
                let path = v.text()?;
                if path.starts_with('/') && !path.contains(['?', '#']) {
                    return Some(path.to_owned());
                }
                v.refuse("a path begins with '/' and has no query");
                None
            });
            let web = optional(endpoint, "webCertificate", |v| {
                v.object(|web| {
                    let mut file = |name: &str| {
                        let path = web.need(name).and_then(|v| v.text());
                        path.map(|path| dir.join(path))
                    };
                    let (certificate, key) = (file("certificate"), file("key"));
                    Some(WebFiles {
                        certificate: certificate?,
                        key: key?,
                    })
                })
            });
            Some(BundleEndpoint {
                bind: bind?,
                path: path?,
                web: web?,
            })
        })
    });
    let keep = optional(fields, "keep", |v| v.text().map(|p| dir.join(p)));
    Some(FederationConfig {
        relationships: relationships?.unwrap_or_default(),
        endpoint: endpoint?,
        keep: keep?,
    })
}

fn foreign(
    fields: &mut Fields<'_>,
    dir: &Path,
    once: &mut BTreeSet<TrustDomain>,
) -> Option<Foreign> {
    let whole = fields.whole().clone();
    let trust_domain = fields.need("trustDomain").and_then(|v| {
        let read = v.parsed::<TrustDomain>()?;
        if !once.insert(read.clone()) {
            v.refuse(format_args!("{read} has a relationship already"));
        }
        Some(read)
    });
    let url = fields.need("url").and_then(|v| v.parsed::<BundleUrl>());
    let profile = fields
        .need("profile")
        .and_then(|v| v.choice(&["https_spiffe", "https_web"]));
    let id = optional(fields, "endpointId", |v| {
        let id = v.parsed::<SpiffeId>()?;
        if id.path().is_empty() {
            v.refuse("names a trust domain; an endpoint has a path too");
        }
        Some(id)
    });
    let bundle = optional(fields, "endpointBundle", |v| v.text().map(|p| dir.join(p)));
    let max_age = optional(fields, "maxAge", |v| time(&v));
    let spiffe = match (profile?, id?, bundle?) {
        ("https_spiffe", Some(id), bundle) => Some(Spiffe { id, bundle }),
        ("https_web", None, None) => None,
        ("https_spiffe", None, _) => {
            whole.refuse("https_spiffe needs endpointId, the SPIFFE ID of the endpoint");
            return None;
        }
        _ => {
            whole.refuse("endpointId and endpointBundle belong to https_spiffe");
            return None;
        }
    };
    Some(Foreign {
        trust_domain: trust_domain?,
        url: url?,
        spiffe,
        max_age: max_age?,
    })
}

fn paths(fields: &mut Fields<'_>) -> Option<PathForm> {
    let mut flag = |name: &str| optional(fields, name, |v| v.boolean());
    let (merge, decode) = (flag("mergeSlashes"), flag("decodeSlashes"));
    let form = PathForm::default().merge_slashes(merge?.unwrap_or(false));
    Some(form.decode_slashes(decode?.unwrap_or(false)))
}

fn limits(fields: &mut Fields<'_>) -> Option<Limits> {
    let mut limits = Limits::default();
    let times = [
        ("handshakeTimeout", &mut limits.handshake),
        ("headerTimeout", &mut limits.header),
        ("bodyTimeout", &mut limits.body),
        ("unreadTimeout", &mut limits.unread),
        ("idleTimeout", &mut limits.idle),
        ("detectTimeout", &mut limits.detect),
        ("connectTimeout", &mut limits.connect),
        ("endpointHandshakeTimeout", &mut limits.endpoint_handshake),
        ("poolIdleTimeout", &mut limits.pool_idle),
        ("opaqueAge", &mut limits.opaque_age),
        ("drainLead", &mut limits.drain_lead),
        ("drainDeadline", &mut limits.drain_deadline),
    ];
    let mut good = true;
    for (name, to) in times {
        match optional(fields, name, |v| time(&v)) {
            Some(read) => *to = read.unwrap_or(*to),
            None => good = false,
        }
    }
    let sizes = [
        // Above these hyper's own limits would answer first, without a record.
        ("headerBytes", 128 * 1024, &mut limits.header_bytes),
        ("headerFields", 200, &mut limits.header_fields),
        ("targetBytes", 60 * 1024, &mut limits.target_bytes),
        ("connections", 1_000_000, &mut limits.connections),
        ("peerConnections", 1_000_000, &mut limits.peer_connections),
        ("sockets", 1_000_000, &mut limits.sockets),
        ("bufferedBytes", 1 << 40, &mut limits.buffered),
        ("poolSize", 65_536, &mut limits.pool_size),
        ("mirrors", 1_000_000, &mut limits.mirrors),
        ("outsideHosts", 10_000, &mut limits.outside_hosts),
    ];
    for (name, most, to) in sizes {
        match optional(fields, name, |v| v.integer_in::<usize>(1, most)) {
            Some(read) => *to = read.unwrap_or(*to),
            None => good = false,
        }
    }
    let streams = optional(fields, "streams", |v| v.integer_in::<u32>(1, 10_000));
    limits.streams = streams?.unwrap_or(limits.streams);
    good.then_some(limits)
}

/// Where the agent is, in the words of a node's labels.
fn sources(fields: &mut Fields<'_>) -> Option<StaleAfter> {
    let mut out = StaleAfter::default();
    let limit = |v: Value<'_>| {
        v.object(|source| {
            let limit = source.need("staleAfter")?;
            match limit.text()? {
                "never" => Some(Duration::MAX),
                text => {
                    let read = limit.check(duration(text))?;
                    if read.is_zero() {
                        limit.refuse("is a duration above 0s, or never");
                    }
                    Some(read)
                }
            }
        })
    };
    let documents = optional(fields, "documents", limit);
    let dns = optional(fields, "dns", limit);
    let kubernetes = optional(fields, "kubernetes", limit);
    let control = optional(fields, "control", limit);
    out.documents = documents?.unwrap_or(out.documents);
    out.dns = dns?.unwrap_or(out.dns);
    out.kubernetes = kubernetes?.unwrap_or(out.kubernetes);
    out.control = control?.unwrap_or(out.control);
    Some(out)
}

fn locality(fields: &mut Fields<'_>) -> Option<Locality> {
    let mut name = |name| optional(fields, name, |v| label_value(&v));
    let (region, zone, node) = (name("region"), name("zone"), name("node"));
    let (region, zone, node) = (region?, zone?, node?);
    if region.or(zone).or(node).is_none() {
        fields
            .whole()
            .refuse("has one of region, zone and node, or more");
    }
    let known = |name: Option<&str>| String::from(name.unwrap_or_default());
    let locality = Locality::default().in_region(&known(region));
    Some(locality.in_zone(&known(zone)).on_node(&known(node)))
}

/// A text that is the value of a label, and not empty.
fn label_value<'t>(value: &Value<'t>) -> Option<&'t str> {
    let text = value.text()?;
    if text.is_empty() {
        value.refuse("is empty");
    }
    value.check(check_label(Level::Zone.label(), text))?;
    Some(text)
}

fn access_log(fields: &mut Fields<'_>, dir: &Path) -> Option<AccessLogTo> {
    let path = optional(fields, "path", |v| v.text());
    let sample = optional(fields, "sample", |v| share(&v));
    Some(AccessLogTo {
        // The devices are links, and cannot be opened where a descriptor is a socket.
        to: match path? {
            None | Some("-" | "/dev/stdout") => LogTo::Stdout,
            Some("/dev/stderr") => LogTo::Stderr,
            Some(path) => LogTo::File(dir.join(path)),
        },
        sample: sample?.unwrap_or(1.0),
    })
}

fn tracing(fields: &mut Fields<'_>) -> Option<Tracing> {
    let otlp = fields.need("otlp").and_then(|v| {
        let endpoint = v.text()?;
        let uri = endpoint.parse::<http::Uri>();
        if uri.is_ok_and(|uri| uri.scheme_str() == Some("http") && uri.authority().is_some()) {
            return Some(endpoint.to_owned());
        }
        v.refuse("an endpoint is http://host:port, of a collector beside the agent");
        None
    });
    let sample = optional(fields, "sample", |v| share(&v));
    Some(Tracing {
        otlp: otlp?,
        sample: sample?.unwrap_or(0.01),
    })
}

/// A share, written as a text: `10%`.
fn share(value: &Value<'_>) -> Option<f64> {
    let text = value.text()?;
    let percent = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok());
    match percent {
        Some(percent) if (0.0..=100.0).contains(&percent) => Some(percent / 100.0),
        _ => {
            value.refuse(format_args!(
                "{text:?} is not a share; write for example \"10%\""
            ));
            None
        }
    }
}

fn time(value: &Value<'_>) -> Option<Duration> {
    value.check(duration(value.text()?))
}

/// A duration as the Gateway API writes it (GEP-2257): `1h30m`, `10s`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is not a duration; write for example 10s, 250ms or 1h30m");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest.is_empty() || rest.len() > 20 {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u32 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "h" => Duration::from_secs(3_600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return Err(invalid()),
        };
        total += unit.checked_mul(number).ok_or_else(invalid)?;
        rest = &rest[letters..];
    }
    Ok(total)
}
