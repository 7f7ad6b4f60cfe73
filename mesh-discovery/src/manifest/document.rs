//! One document in, the operation on its object out: finds the reader of the kind, and says what
//! a refusal means where the object was never good.
//!
//! What is for other programs is skipped, and counted, so that no reader takes it for enforced.

use std::collections::BTreeSet;
use std::sync::Arc;

use inmesh_core::authorize::Selects;
use inmesh_core::model::{Kind, Namespace, ObjectKey};
use inmesh_core::snapshot::{Fallback, Object, Op, Problem, Severity};

use super::kind::{Whose, whose};
use super::strict::{Document, Read, Unknown};
use super::{
    Defaults, Entry, Parsed, StandsFor, backend_tls, config_map, meta, namespace, node, pod,
    policy, route, service, service_entry, slice, text, traffic,
};

/// Reads a document; a list gives its items, what is for other programs nothing but its count.
pub(super) fn read(document: &Document, defaults: &Defaults, parsed: &mut Parsed) {
    let (api_version, kind) = (document.api_version(), document.kind());
    let skip = |(a, k): &(Arc<str>, Arc<str>)| Some(&**a) == api_version && Some(&**k) == kind;
    if defaults.skip_kinds.iter().any(skip) {
        return;
    }
    if let Some(items) = document.items() {
        for item in &items {
            read(item, defaults, parsed);
        }
        let rest = document.read_object(Unknown::Refuse, |list| {
            list.ignore(&["items", "metadata"]);
            Some(())
        });
        if let Err(problems) = rest {
            let kind = Kind::Other("List".into());
            let entry = refused(document, defaults, kind, problems);
            parsed.entries.push(entry);
        }
        return;
    }
    let unread = |kind, why| {
        let problems = vec![problem(document, why)];
        Some(refused(document, defaults, kind, problems))
    };
    let name = kind.unwrap_or_default();
    let entry = match whose(api_version, kind) {
        Whose::Ours(Kind::ConfigMap) if !config_map::has_roots(document) => parsed.skip(name),
        Whose::Ours(kind) => read_known(document, defaults, kind, &mut parsed.notes),
        Whose::Refused(kind, why) => unread(kind, why),
        Whose::Route(why) if route::names_a_service(document) => {
            unread(Kind::Other(name.into()), why)
        }
        Whose::Route(_) => parsed.skip(name),
        Whose::Others(name) => parsed.skip(&name),
        Whose::Unknown(name) => {
            let message = format!("the kind {name} is not known, and is skipped");
            let at = document.place("");
            parsed
                .notes
                .push(Problem::note(document.path(), message).at(at));
            parsed.skip(&name)
        }
    };
    parsed.entries.extend(entry);
}

/// Reads an object of a kind; `None` is one that is not for the mesh.
fn read_known(
    document: &Document,
    defaults: &Defaults,
    kind: Kind,
    notes: &mut Vec<Problem>,
) -> Option<Entry> {
    let file = document.file();
    let op = match kind {
        Kind::BackendTlsPolicy => put(
            document.read_object(Unknown::Refuse, |f| {
                backend_tls::read(f, defaults).map(Some)
            }),
            notes,
        ),
        Kind::ConfigMap => put(
            document.read_object(Unknown::Warn, |f| config_map::read(f, defaults).map(Some)),
            notes,
        ),
        Kind::Service => put(
            document.read_object(Unknown::Warn, |f| {
                service::read(f, file, defaults).map(Some)
            }),
            notes,
        ),
        Kind::EndpointSlice => put(
            document.read_object(Unknown::Warn, |f| slice::read(f, file, defaults).map(Some)),
            notes,
        ),
        Kind::GrpcRoute => put(
            document.read_object(Unknown::Refuse, |f| route::grpc::read(f, defaults)),
            notes,
        ),
        Kind::TcpRoute | Kind::TlsRoute => {
            let version = document.api_version().unwrap_or_default();
            let version = version.rsplit('/').next().unwrap_or_default();
            put(
                document.read_object(Unknown::Refuse, |f| {
                    route::opaque::read(f, &kind, version, defaults)
                }),
                notes,
            )
        }
        Kind::HttpRoute => put(
            document.read_object(Unknown::Refuse, |f| route::read(f, defaults)),
            notes,
        ),
        Kind::Namespace | Kind::Node | Kind::Pod => {
            read_of_cluster(document, defaults, &kind, notes)
        }
        Kind::ServiceEntry => put(
            document.read_object(Unknown::Refuse, |f| {
                service_entry::read(f, file, defaults).map(Some)
            }),
            notes,
        ),
        Kind::TrafficPolicy => put(
            document.read_object(Unknown::Refuse, |f| traffic::read(f, defaults).map(Some)),
            notes,
        ),
        _ => put(
            document.read_object(Unknown::Refuse, |f| policy::read(f, defaults).map(Some)),
            notes,
        ),
    };
    match op {
        Ok(put) => put.map(|(key, op)| Entry {
            line: document.line(),
            stands_for: StandsFor::Itself,
            document: handed_on(document, defaults, &key),
            key,
            op,
        }),
        Err(problems) => Some(refused(document, defaults, kind, problems)),
    }
}

/// The text of a document, where its kind is handed on as it is.
fn handed_on(document: &Document, defaults: &Defaults, key: &ObjectKey) -> Option<Arc<str>> {
    let otherwise = [Kind::EndpointSlice, Kind::Namespace, Kind::Node, Kind::Pod];
    if !defaults.documents || otherwise.contains(&key.kind) {
        return None;
    }
    Some(document.text_in(&key.namespace)?.into())
}

/// Reads what a cluster says of the processes behind endpoints.
fn read_of_cluster(
    document: &Document,
    defaults: &Defaults,
    kind: &Kind,
    notes: &mut Vec<Problem>,
) -> Result<Option<(ObjectKey, Op)>, Vec<Problem>> {
    let read = document.read_object(Unknown::Warn, |f| {
        let object: Object = match kind {
            Kind::Namespace => namespace::read(f, defaults)?.into(),
            Kind::Node => node::read(f, defaults)?.into(),
            _ => pod::read(f, defaults)?.into(),
        };
        Some(Some(object))
    });
    put(read, notes)
}

/// The operation of what was read, with the key of its object; the inner `None` is one that is not
/// for the mesh.
fn put<T: Into<Object>>(
    read: Result<Read<Option<T>>, Vec<Problem>>,
    notes: &mut Vec<Problem>,
) -> Result<Option<(ObjectKey, Op)>, Vec<Problem>> {
    read.map(|read| {
        notes.extend(read.notes);
        let object = read.value?.into();
        Some((object.key(), Op::Put(object, read.warnings)))
    })
}

/// What a document that cannot be applied means where its object was never good.
fn fallback(document: &Document, defaults: &Defaults, kind: &Kind) -> Fallback {
    if *kind != Kind::AuthorizationPolicy {
        return Fallback::Absent;
    }
    Fallback::Deny(match meta::namespace(document, defaults) {
        None => Selects::Unknown,
        Some(namespace) => match policy::selector_of(document) {
            Some(labels) => Selects::Workloads(namespace, labels),
            None => Selects::Namespace(namespace),
        },
    })
}

fn problem(document: &Document, message: String) -> Problem {
    Problem::refused(document.path(), message).at(document.place(""))
}

/// What the Gateway API calls a route of which some rules are valid and others are not (RouteStatus,
/// `PartiallyInvalid`), where nothing else is wrong with it.
fn partially_invalid(document: &Document, kind: &Kind, problems: &[Problem]) -> Option<Problem> {
    let routes = [
        Kind::GrpcRoute,
        Kind::HttpRoute,
        Kind::TcpRoute,
        Kind::TlsRoute,
    ];
    let rules = routes
        .contains(kind)
        .then(|| document.len_of(&["spec", "rules"]))??;
    let spec = if document.path().is_empty() {
        "spec"
    } else {
        ".spec"
    };
    let list = format!("{}{spec}.rules", document.path());
    let refused = problems.iter().filter(|p| p.severity == Severity::Refused);
    let wrong = refused.map(|problem| {
        let place = problem.field.strip_prefix(&*list)?.strip_prefix('[')?;
        place.split_once(']')?.0.parse::<usize>().ok()
    });
    let wrong: Option<BTreeSet<usize>> = wrong.collect();
    (wrong?.len() < rules).then(|| {
        // Whether an earlier version serves, and so the condition, is for the snapshot to say.
        Problem::note(list, "other rules are valid, but a route is applied whole")
            .at(document.place(""))
    })
}

fn refused(
    document: &Document,
    defaults: &Defaults,
    kind: Kind,
    mut problems: Vec<Problem>,
) -> Entry {
    problems.extend(partially_invalid(document, &kind, &problems));
    let fallback = fallback(document, defaults, &kind);
    let namespace = meta::namespace(document, defaults);
    let key = namespace.as_ref().and_then(|namespace| {
        let name = meta::name(document)?;
        meta::key(kind.clone(), namespace, name).ok()
    });
    let unread = matches!(kind, Kind::Other(_));
    let stands_for = match &key {
        Some(key) if unread => StandsFor::Name(key.namespace.clone(), Arc::clone(&key.name)),
        Some(_) => StandsFor::Itself,
        None if unread => StandsFor::Any,
        None => StandsFor::Kind(kind.clone()),
    };
    let named = stands_for == StandsFor::Itself;
    let namespace = namespace.unwrap_or_else(|| defaults.namespace.clone());
    let key = key.unwrap_or_else(|| unnamed(document, kind, &namespace));
    let fallback = match key.kind {
        Kind::BackendTlsPolicy => {
            Fallback::Refuse(backend_tls::refusing(document, defaults, &key).into())
        }
        _ => fallback,
    };
    Entry {
        line: document.line(),
        stands_for,
        op: Op::Refuse(key.clone(), fallback, problems),
        // Of what has no name of its own there is nothing to hand on.
        document: named.then(|| handed_on(document, defaults, &key)).flatten(),
        key,
    }
}

/// A name for what has none: `<file>.<line>`, and the place in its list.
fn unnamed(document: &Document, kind: Kind, namespace: &Namespace) -> ObjectKey {
    let file = document.file().rsplit('/').next().unwrap_or_default();
    let place = format!("{file}.{}{}", document.line(), document.path());
    ObjectKey::new(kind, namespace, &text::object_name(&place))
        .expect("object_name makes names of objects")
}
