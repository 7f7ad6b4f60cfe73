//! What would keep an agent from starting or from being ready, or its endpoints from being reached: the
//! files that its own file and the documents name.
//!
//! All is opened as the agent opens it, by the same functions. Nothing is bound, written or connected
//! to; whether an address is this host's, and a file may be made, is left to the start.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::SocketAddr as UnixAddress;
use std::path::Path;

use inmesh_core::model::{ObjectKey, Roots, Transport};
use inmesh_core::snapshot::{Object, Op, Problem};
use inmesh_discovery::manifest::Merged;
use inmesh_pki::clock::SystemClock;
use inmesh_pki::disk;
use inmesh_pki::source::files::KEY_FILE;
use inmesh_pki::svid::{Rejected, validate_own};
use inmesh_pki::workload_api::server::Socket;
use inmesh_pki::{Crypto, IdentityState, TrustBundle, TrustDomain, tls};

use crate::agent::{Agent, Identity, LogTo};
use crate::cmd::{proxy, runtime};
use crate::federation::{FederationConfig, Spiffe};
use crate::log_file;

/// What is wrong with what an agent's file names.
pub(super) fn problems(agent: &Agent) -> anyhow::Result<Vec<Problem>> {
    let (mut found, own) = identity(agent)?;
    found.extend(sockets(agent));
    if let Some(api) = &agent.workload_api {
        found.extend(socket("workloadApi.listen", &api.listen));
    }
    if let Some(LogTo::File(path)) = agent.access_log.as_ref().map(|log| &log.to) {
        let field = "accessLog.path";
        let unfit = log_file::unfit(path).map(|why| unusable(field, path, &why));
        found.extend(unfit.or_else(|| folder_of(field, path)));
    }
    found.extend(loose(agent));
    let federated = agent.federation.iter();
    found.extend(federated.flat_map(|f| federation(f, own.as_ref())));
    Ok(found
        .into_iter()
        .map(|problem| {
            let place = agent.document.place(&problem.field);
            problem.at(place)
        })
        .collect())
}

/// What is wrong with the source of identity, and the trust domain that it gives, where it is known.
fn identity(agent: &Agent) -> anyhow::Result<(Vec<Problem>, Option<TrustDomain>)> {
    let mut found = Vec::new();
    let field = match &agent.identity {
        Identity::Ca { .. } => "identity.ca",
        Identity::DevelopmentCa { .. } => "identity.developmentCA",
        Identity::Files { .. } => "identity.files",
        Identity::PodCertificate { .. } => "identity.podCertificate",
        Identity::WorkloadApi(_) => "identity.workloadApi",
    };
    // Its task is not run, so that no CA and no Workload API is asked.
    let started = runtime(None)?.block_on(proxy::identify(agent, &Crypto::aws_lc_rs()));
    let mut own = match started {
        Ok(started) => {
            let state = started.reader.load();
            // What a CA has issued and is kept is renewed at the start.
            if !matches!(agent.identity, Identity::Ca { .. }) {
                found.extend(unfit(field, &state));
            }
            state
                .default_svid()
                .map(|svid| svid.id().trust_domain().clone())
        }
        Err(error) => {
            found.push(Problem::refused(field, format!("{error:#}")));
            None
        }
    };
    match &agent.identity {
        Identity::Files { .. }
        | Identity::DevelopmentCa { .. }
        | Identity::PodCertificate { .. } => {}
        Identity::Ca {
            ca,
            trust_bundle,
            token,
            keep,
            ..
        } => {
            own = agent.trust_domain().cloned();
            let field = "identity.ca.trustBundle";
            found.extend(
                read(field, trust_bundle)
                    .and_then(|bytes| {
                        let read = TrustBundle::from_pem(ca.trust_domain().clone(), &bytes);
                        read.map_err(|e| unusable(field, trust_bundle, &e))
                            .map(|_| ())
                    })
                    .err(),
            );
            if let Some(token) = token {
                let field = "identity.ca.tokenFile";
                let problem = match read(field, token) {
                    Ok(bytes) if bytes.trim_ascii().is_empty() => {
                        Some(unusable(field, token, &"it is empty"))
                    }
                    Ok(_) => None,
                    Err(problem) => Some(problem),
                };
                // With what it keeps an agent may need none.
                found.extend(problem.map(|p| match keep {
                    Some(_) => Problem::warning(field, p.message),
                    None => p,
                }));
            }
        }
        // Its socket may come later, and the agent waits for it.
        Identity::WorkloadApi(_) => {}
    }
    Ok((found, own))
}

/// Why peers would refuse the certificate: the agent would start and never be ready, or not yet.
fn unfit(field: &str, state: &IdentityState) -> Option<Problem> {
    let svid = state.default_svid()?;
    let now = SystemClock::shared().now();
    let reason = validate_own(svid, state, now, &Crypto::aws_lc_rs()).err()?;
    let message = format!("no peer accepts the certificate, the agent is not ready: {reason}");
    Some(match reason {
        // Its time comes without a change of the files.
        Rejected::NotYetValid { .. } => Problem::warning(field, message),
        _ => Problem::refused(field, message),
    })
}

/// Keys and tokens that other users may use: the agent warns, and uses all but a kept key all the same.
fn loose(agent: &Agent) -> Vec<Problem> {
    let mut secrets = Vec::new();
    match &agent.identity {
        Identity::Ca { token, keep, .. } => {
            let token = token.clone();
            secrets.extend(token.map(|path| ("identity.ca.tokenFile", "token", path)));
            let kept = keep.as_ref().map(|dir| dir.join(KEY_FILE));
            secrets.extend(kept.map(|path| ("identity.ca.keep", "kept key", path)));
        }
        Identity::Files { key, .. } => secrets.push(("identity.files.key", "key", key.clone())),
        Identity::PodCertificate { key, .. } => {
            secrets.push(("identity.podCertificate", "key", key.clone()));
        }
        // A key that was made here is refused, and a Workload API gives none in a file.
        Identity::DevelopmentCa { .. } | Identity::WorkloadApi(_) => {}
    }
    let endpoint = agent.federation.iter().filter_map(|f| f.endpoint.as_ref());
    secrets.extend(endpoint.filter_map(|e| e.web.as_ref()).map(|files| {
        let field = "federation.bundleEndpoint.webCertificate.key";
        (field, "key of the web", files.key.clone())
    }));
    let found = secrets.iter().filter_map(|(field, what, path)| {
        let why = disk::loose_secret(path)?;
        let message = format!("other users may use the {what}: {why}");
        Some(Problem::warning(*field, message))
    });
    found.collect()
}

/// Two sockets of one address, or of one that holds the other: the second cannot be bound.
fn sockets(agent: &Agent) -> Vec<Problem> {
    let listeners = agent.listeners.iter().enumerate();
    let listeners = listeners.map(|(n, l)| (format!("listeners[{n}].bind"), l.bind));
    let admin = agent.admin.map(|bind| ("admin.bind".to_owned(), bind));
    let bundles = agent.federation.iter().filter_map(|f| f.endpoint.as_ref());
    let bundles = bundles.map(|e| ("federation.bundleEndpoint.bind".to_owned(), e.bind));
    // In the order in which an agent binds them.
    let all: Vec<_> = listeners.chain(admin).chain(bundles).collect();
    let taken = all.iter().enumerate().filter_map(|(n, (field, bind))| {
        let (first, at) = all.iter().take(n).find(|(_, at)| overlap(*at, *bind))?;
        let message = match at == bind {
            true => format!("{bind} is bound already, by {first}"),
            false => format!("{bind} is bound already, with {at} of {first}"),
        };
        Some(Problem::refused(field.clone(), message))
    });
    taken.collect()
}

/// Whether only one of two addresses can be bound. `[::]` takes IPv4 too.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (ip, other) = (a.ip().to_canonical(), b.ip().to_canonical());
    let all = |ip: IpAddr| ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let holds = |ip: IpAddr, other: IpAddr| {
        all(ip) || (ip.is_unspecified() && (other.is_ipv4() || all(other)))
    };
    let same = ip == other || holds(ip, other) || holds(other, ip);
    a.port() != 0 && a.port() == b.port() && same
}

/// What keeps federation from running beside an agent of the trust domain `own`.
fn federation(federation: &FederationConfig, own: Option<&TrustDomain>) -> Vec<Problem> {
    let mut found = Vec::new();
    for (n, of) in federation.relationships.iter().enumerate() {
        let at = format!("federation.relationships[{n}]");
        if let Some(Err(error)) = own.map(|own| of.is_foreign_to(own)) {
            found.push(Problem::refused(
                format!("{at}.trustDomain"),
                error.to_string(),
            ));
        }
        if let Some(Err(error)) = of.spiffe.as_ref().map(Spiffe::read_bundle) {
            found.push(Problem::refused(
                format!("{at}.endpointBundle"),
                format!("{error:#}"),
            ));
        }
    }
    let web = federation.endpoint.iter().filter_map(|e| e.web.as_ref());
    let opened = web.map(|files| files.open(&Crypto::aws_lc_rs()));
    found.extend(opened.filter_map(Result::err).map(|error| {
        let why = format!("{:#}", anyhow::Error::from(error));
        Problem::refused("federation.bundleEndpoint.webCertificate", why)
    }));
    found
}

/// Files of roots that endpoints name and that have none. They may come later, so that is a warning.
pub(super) fn roots(merged: &Merged) -> Vec<(ObjectKey, Problem)> {
    let mut found = Vec::new();
    for op in &merged.change.ops {
        let Op::Put(object, _) = op else { continue };
        let transport = match object {
            Object::Service(service) => match &service.outside {
                // All ports that the mesh speaks TLS to have the same roots.
                Some(outside) => { outside.ports.iter().map(|port| &port.transport) }
                    .find(|transport| matches!(transport, Transport::Tls { .. })),
                None => service.external.as_ref().map(|(_, t)| t),
            },
            Object::Slice(slice) => Some(&slice.transport),
            _ => None,
        };
        let Some(Transport::Tls {
            roots: Roots::File(path),
            ..
        }) = transport
        else {
            continue;
        };
        let (field, path) = ("metadata.annotations[inmesh.dev/ca]", Path::new(&**path));
        let problem = read(field, path).and_then(|bytes| {
            let roots = tls::web_roots(&bytes).map_err(|e| unusable(field, path, &e))?;
            let config = tls::web_client_config(&Crypto::aws_lc_rs(), roots);
            config.map(drop).map_err(|e| unusable(field, path, &e))
        });
        if let Err(problem) = problem {
            let key = object.key();
            let warning = Problem::warning(field, problem.message);
            let warning = match merged.places.get(&key) {
                Some(place) => warning.at(place.clone()),
                None => warning,
            };
            found.push((key, warning));
        }
    }
    found
}

fn read(field: &str, path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|e| unusable(field, path, &e))
}

fn unusable(field: &str, path: &Path, why: &dyn std::fmt::Display) -> Problem {
    Problem::refused(field, format!("{}: {why}", path.display()))
}

/// The folder of a file that is to be made must be there.
fn folder_of(field: &str, path: &Path) -> Option<Problem> {
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty())?;
    (!folder.is_dir()).then(|| {
        let message = format!("the folder {} does not exist", folder.display());
        Problem::refused(field, message)
    })
}

/// A socket is made beside its place, and put there once it listens.
fn socket(field: &str, path: &Path) -> Option<Problem> {
    let stands = path.symlink_metadata().ok();
    if stands.is_some_and(|file| !file.file_type().is_socket()) {
        return Some(unusable(field, path, &"stands there and is no socket"));
    }
    match Socket::beside(path).and_then(UnixAddress::from_pathname) {
        Ok(_) => folder_of(field, path),
        Err(error) => Some(unusable(field, path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Linux binds them.
    #[test]
    fn addresses_that_cannot_both_be_bound() {
        for (a, b, both) in [
            ("127.0.0.1:80", "127.0.0.1:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", true),
            ("0.0.0.0:80", "127.0.0.1:80", false),
            ("[::]:80", "127.0.0.1:80", false),
            ("[::]:80", "0.0.0.0:80", false),
            ("[::]:80", "[::1]:80", false),
            ("[::1]:80", "0.0.0.0:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", true),
        ] {
            let [one, other] = [a, b].map(|text| text.parse().expect("an address"));
            assert_eq!(overlap(one, other), !both, "{a} {b}");
            assert_eq!(overlap(other, one), !both, "{b} {a}");
        }
    }
}
