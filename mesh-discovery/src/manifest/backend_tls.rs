//! `BackendTLSPolicy` of the Gateway API (GEP-1897): TLS to the servers behind Services, and what they
//! must prove.
//!
//! A policy that is not evaluated whole refuses: its options, roots of other kinds, targets that are no
//! Services. What it names lets no connection be made then, since its author wants no plaintext.

use std::sync::Arc;

use inmesh_core::model::{Kind, Namespace, ObjectKey, ServiceName};
use inmesh_core::origination::{BackendTlsPolicy, Targets, Vouched};
use inmesh_core::pki::tls::AltName;

use super::strict::{Document, Fields, Unknown, Value};
use super::{Defaults, meta, target, text};

/// The most targets, roots and names (the Gateway API's schema).
const TARGETS: usize = 16;
const ROOTS: usize = 8;
const NAMES: usize = 5;
/// The longest URI.
const URI_BYTES: usize = 253;

/// Reads a policy.
pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<BackendTlsPolicy> {
    fields.ignore(&["status"]);
    let meta = meta::read(fields, Kind::BackendTlsPolicy, defaults);
    let namespace = meta
        .as_ref()
        .map_or(&defaults.namespace, |meta| &meta.key.namespace);
    let (targets, validation) = fields.need("spec")?.object(|spec| {
        let options = "is not evaluated here: TLS 1.3 is spoken with the suites of this process";
        spec.refuse_all(&["options"], options);
        let targets = spec.need("targetRefs");
        let validation = spec.need("validation");
        let targets = targets.and_then(|list| targets_of(&list, namespace));
        let validation = validation.and_then(|of| of.object(|of| validation_of(of, namespace)));
        Some((targets?, validation?))
    })?;
    let meta = meta?;
    meta.annotations.refuse_ours_but(&[]);
    let (hostname, names, vouched) = validation;
    let policy = BackendTlsPolicy::new(meta.key, Targets::Services(targets), hostname, vouched);
    Some(policy.with_created(meta.created).with_names(names))
}

/// What takes the place of a policy that was never good: one that refuses, for the targets as far as they
/// can be read, else for all Services of its namespace.
pub(super) fn refusing(
    document: &Document,
    defaults: &Defaults,
    key: &ObjectKey,
) -> BackendTlsPolicy {
    let namespace = meta::namespace(document, defaults);
    let namespace = namespace.as_ref().unwrap_or(&key.namespace);
    let read = document.read_object(Unknown::Refuse, |fields| {
        // Only the targets are judged.
        fields.ignore_all();
        fields.need("spec")?.object(|spec| {
            spec.ignore_all();
            targets_of(&spec.need("targetRefs")?, namespace)
        })
    });
    let targets = match read {
        Ok(read) => Targets::Services(read.value),
        Err(_) => Targets::All,
    };
    BackendTlsPolicy::refusing(key.clone(), targets, format!("{key} was refused"))
}

type Target = (ServiceName, Option<Arc<str>>);

fn targets_of(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<Target>> {
    target::each(list, TARGETS, |fields| target(fields, namespace))
}

fn target(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<Target> {
    let named = target::named(fields)?;
    match (&*named.group, &*named.kind) {
        ("" | "core", "Service") => Some((target::service(&named.name, namespace)?, named.section)),
        (group, kind) => {
            let why =
                format_args!("{kind} of group {group:?}: a target is a Service of group \"\"");
            fields.whole().refuse(why);
            None
        }
    }
}

type Validation = (String, Vec<AltName>, Vouched);

fn validation_of(fields: &mut Fields<'_>, namespace: &Namespace) -> Option<Validation> {
    let (refs, known) = (
        fields.get("caCertificateRefs"),
        fields.get("wellKnownCACertificates"),
    );
    let (hostname, names) = (fields.need("hostname"), fields.get("subjectAltNames"));
    let refs = refs.filter(|list| list.len() != Some(0));
    let vouched = match (&refs, &known) {
        (Some(_), Some(known)) => {
            known.refuse("stands beside caCertificateRefs: one of them says what vouches");
            None
        }
        (Some(list), None) => roots(list, namespace).map(Vouched::ConfigMaps),
        (None, Some(known)) => known.choice(&["System"]).map(|_| Vouched::System),
        (None, None) => {
            let missing =
                "is missing, and so is wellKnownCACertificates: no root vouches for the server";
            fields.missing("caCertificateRefs", missing);
            None
        }
    };
    let hostname = hostname.and_then(|name| host_name(&name));
    let names = match &names {
        Some(list) => {
            let items = list.list_of_or_empty(NAMES)?;
            let read: Vec<_> = items.iter().filter_map(alt_name).collect();
            (read.len() == items.len()).then_some(read)
        }
        None => Some(Vec::new()),
    };
    Some((hostname?, names?, vouched?))
}

fn roots(list: &Value<'_>, namespace: &Namespace) -> Option<Vec<ObjectKey>> {
    let mut keys = Vec::new();
    for item in &list.list_of(ROOTS)? {
        let key = item.object(|fields| {
            let (group, kind) = (fields.need("group"), fields.need("kind"));
            let name = fields.need("name")?;
            match (group?.text()?, kind?.text()?) {
                ("" | "core", "ConfigMap") => {
                    let key = ObjectKey::new(Kind::ConfigMap, namespace, name.text()?);
                    name.check(key.map_err(text::invalid_name))
                }
                (group, kind) => {
                    fields.whole().refuse(format_args!(
                        "{kind} of group {group:?}: roots are a ConfigMap of group \"\" \
                         (ResolvedRefs False, InvalidKind)"
                    ));
                    None
                }
            }
        });
        keys.push(key?);
    }
    Some(keys)
}

fn alt_name(value: &Value<'_>) -> Option<AltName> {
    value.object(|fields| {
        let (kind, host, uri) = (
            fields.need("type"),
            fields.get("hostname"),
            fields.get("uri"),
        );
        let (kind, other) = match kind?.choice(&["Hostname", "URI"])? {
            "Hostname" => ("hostname", &uri),
            _ => ("uri", &host),
        };
        if let Some(other) = other {
            other.refuse(format_args!("has no effect: the type says {kind}"));
        }
        let named = if kind == "hostname" { &host } else { &uri };
        let Some(named) = named else {
            fields.missing(kind, "is missing: the type says it");
            return None;
        };
        match kind {
            "hostname" => named.check(AltName::dns(&host_name(named)?)),
            _ => named
                .check(check_uri(named.text()?))
                .map(|uri| AltName::Uri(uri.into())),
        }
    })
}

/// A host name in lower case without a dot at its end, as the Gateway API's schema wants it.
fn host_name(value: &Value<'_>) -> Option<String> {
    let text = value.check(text::subdomain(value.text()?))?;
    value.check(text::host_name(text))
}

/// A URI with a scheme and an authority, as the Gateway API's schema wants it.
fn check_uri(text: &str) -> Result<&str, String> {
    let scheme = |scheme: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(inner)
    };
    let parts = text.split_once("://");
    let fine = parts.is_some_and(|(before, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let graphic = rest.bytes().all(|b| b.is_ascii_graphic());
        scheme(before) && !authority.is_empty() && graphic
    });
    match fine && text.len() <= URI_BYTES {
        true => Ok(text),
        false => Err(format!(
            "{text:?} is not a URI with a scheme and an authority, such as spiffe://example.org/api"
        )),
    }
}
