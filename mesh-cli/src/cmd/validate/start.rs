//! What would keep an agent from starting, or its endpoints from being reached: the files that its
//! own file and the documents name.
//!
//! Identities that need no other process are opened as the agent opens them; of the others the
//! files are read. Nothing is bound, written or connected to.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use inmesh_core::model::{ObjectKey, Roots, Transport};
use inmesh_core::snapshot::{Object, Op, Problem};
use inmesh_discovery::manifest::Merged;
use inmesh_pki::{Crypto, TrustBundle, tls};

use crate::agent::{Agent, Identity};
use crate::cmd::{proxy, runtime};
use crate::federation::FederationConfig;

/// What is wrong with what an agent's file names.
pub(super) fn problems(agent: &Agent) -> anyhow::Result<Vec<Problem>> {
    let mut found = identity(agent)?;
    found.extend(sockets(agent));
    if let Some(api) = &agent.workload_api {
        found.extend(folder_of("workloadApi.listen", &api.listen));
    }
    if let Some(path) = agent.access_log.as_ref().and_then(|log| log.path.as_ref()) {
        found.extend(folder_of("accessLog.path", path));
    }
    found.extend(agent.federation.iter().flat_map(federation));
    Ok(found
        .into_iter()
        .map(|problem| problem.at(agent.place.clone()))
        .collect())
}

fn identity(agent: &Agent) -> anyhow::Result<Vec<Problem>> {
    let mut found = Vec::new();
    match &agent.identity {
        Identity::Files { .. } | Identity::DevelopmentCa { .. } => {
            let field = match &agent.identity {
                Identity::Files { .. } => "identity.files",
                _ => "identity.developmentCA",
            };
            let started = runtime(None)?.block_on(proxy::identify(agent, &Crypto::aws_lc_rs()));
            if let Err(error) = started {
                found.push(Problem::refused(field, format!("{error:#}")));
            }
        }
        Identity::Ca {
            ca,
            trust_bundle,
            token,
            keep,
            ..
        } => {
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
    Ok(found)
}

/// Two sockets of one address: the second cannot be bound.
fn sockets(agent: &Agent) -> Vec<Problem> {
    let mut seen: BTreeSet<SocketAddr> = BTreeSet::new();
    let listeners = agent.listeners.iter().enumerate();
    let listeners = listeners.map(|(n, l)| (format!("listeners[{n}].bind"), l.bind));
    let admin = agent.admin.map(|bind| ("admin.bind".to_owned(), bind));
    listeners
        .chain(admin)
        .filter(|(_, bind)| bind.port() != 0 && !seen.insert(*bind))
        .map(|(field, bind)| Problem::refused(field, format!("{bind} is bound already")))
        .collect()
}

fn federation(federation: &FederationConfig) -> Vec<Problem> {
    let bundles = federation.relationships.iter().enumerate();
    let bundles = bundles.filter_map(|(n, of)| {
        let path = of.spiffe.as_ref()?.bundle.as_ref()?;
        let field = format!("federation.relationships[{n}].endpointBundle");
        read(&field, path).err()
    });
    let web = federation.endpoint.iter().filter_map(|e| e.web.as_ref());
    let web = web.flat_map(|web| {
        let at = "federation.bundleEndpoint.webCertificate";
        [
            read(&format!("{at}.certificate"), &web.certificate).err(),
            read(&format!("{at}.key"), &web.key).err(),
        ]
    });
    bundles.chain(web.flatten()).collect()
}

/// Files of roots that endpoints name and that have none. They may come later, so that is a warning.
pub(super) fn roots(merged: &Merged) -> Vec<(ObjectKey, Problem)> {
    let mut found = Vec::new();
    for op in &merged.change.ops {
        let Op::Put(object, _) = op else { continue };
        let transport = match object {
            Object::Service(service) => service.external.as_ref().map(|(_, t)| t),
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
