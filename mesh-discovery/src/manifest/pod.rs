//! `v1 Pod`: the process behind an endpoint, by which identity it answers and which workload it is of.
//!
//! A Pod says with `inmesh.dev/transport` how it is reached: `mesh` is written where one is injected or
//! embeds the mesh. One that says nothing is reached as its Namespace says; one outside the mesh for sure
//! (it has opted out, or shares the network of its node) in plaintext. Its identity is that of its service
//! account, unless `inmesh.dev/ids` says otherwise.

use inmesh_core::model::{IdSet, Kind, Pod, Reached, Transport};
use inmesh_pki::id::SpiffeId;

use super::strict::{Fields, Value};
use super::transport::{self, IDS, TRANSPORT};
use super::{Defaults, meta, slice};
use crate::layout::INJECT;

/// The service account of a Pod that names none.
const ACCOUNT: &str = "default";
/// The label that a Deployment gives to the Pods of one of its ReplicaSets.
const HASH: &str = "pod-template-hash";

/// What the first owner of an object is.
struct Owner<'t> {
    kind: &'t str,
    name: &'t str,
}

pub(super) fn read(fields: &mut Fields<'_>, defaults: &Defaults) -> Option<Pod> {
    fields.ignore(&["status"]);
    let mut extra = None;
    let meta = meta::read_with(fields, Kind::Pod, defaults, |meta| {
        let uid = match meta.nullable("uid") {
            Some(uid) => uid.text(),
            None => Some(""),
        };
        extra = Some((uid, meta.nullable("ownerReferences").map(|all| owner(&all))));
    });
    let spec = fields.need("spec").and_then(|spec| spec.object(read_spec));
    let (meta, (account, shares_node)) = (meta?, spec?);
    let (uid, owner) = extra?;
    let owner = match owner {
        Some(owner) => owner?,
        None => None,
    };
    let said = meta.annotations.find(TRANSPORT);
    let opted_out = match meta.labels.find(INJECT) {
        Some(label) => label.choice(&["enabled", "disabled"])? == "disabled",
        None => false,
    };
    let reached = match said.map(|value| value.choice(&["mesh", "plain"])) {
        Some(how) if how? == "plain" => {
            if let Some(ids) = meta.annotations.find(IDS) {
                ids.refuse("has no effect with the transport plain");
            }
            Reached::As(Transport::Plain)
        }
        Some(_) => Reached::As(Transport::Mesh {
            ids: ids(fields, &meta, account, defaults)?,
        }),
        None if opted_out || shares_node => Reached::As(Transport::Plain),
        None => Reached::AsNamespaceSays(ids(fields, &meta, account, defaults)?),
    };
    let labelled = meta.labels.first(slice::WORKLOAD)?;
    let workload = match labelled {
        "" => owner.map_or(&*meta.key.name, |owner| workload_of(&owner, &meta)),
        name => name,
    };
    let version = meta.labels.first(slice::VERSION)?;
    let labels = meta.labels.all();
    let pod = Pod::new(meta.key.clone(), reached).with_uid(uid?);
    Some(pod.workload(workload, version).with_labels(labels))
}

/// The service account, and whether the Pod has its node's network, where nothing is injected.
fn read_spec<'t>(spec: &mut Fields<'t>) -> Option<(&'t str, bool)> {
    let (account, shares_node) = (
        spec.nullable("serviceAccountName"),
        spec.nullable("hostNetwork"),
    );
    // All else is for others.
    spec.ignore_all();
    let account = account.map_or(Some(""), |name| name.text());
    let shares_node = shares_node.map_or(Some(false), |value| value.boolean());
    let (account, shares_node) = (account?, shares_node?);
    let account = if account.is_empty() { ACCOUNT } else { account };
    Some((account, shares_node))
}

fn owner<'t>(references: &Value<'t>) -> Option<Option<Owner<'t>>> {
    let references = references.list_or_empty()?;
    let Some(first) = references.first() else {
        return Some(None);
    };
    let owner = first.object(|owner| {
        let (kind, name) = (owner.need("kind"), owner.need("name"));
        owner.ignore_all();
        Some(Owner {
            kind: kind?.text()?,
            name: name?.text()?,
        })
    })?;
    Some(Some(owner))
}

/// The name of the workload that the owner of a Pod stands for: a Deployment's of a ReplicaSet.
fn workload_of<'t>(owner: &Owner<'t>, meta: &meta::Meta<'t>) -> &'t str {
    let hash = meta.labels.find(HASH).and_then(Value::text);
    let of_deployment = hash
        .filter(|_| owner.kind == "ReplicaSet")
        .and_then(|hash| {
            let name = owner.name.strip_suffix(hash)?;
            name.strip_suffix('-')
        });
    of_deployment.unwrap_or(owner.name)
}

/// The identities that may answer: as it is written, or that of the service account.
fn ids(
    fields: &Fields<'_>,
    meta: &meta::Meta<'_>,
    account: &str,
    defaults: &Defaults,
) -> Option<IdSet> {
    if meta.annotations.find(IDS).is_some() {
        return transport::ids(&meta.annotations, fields.whole());
    }
    let Some(domain) = &defaults.trust_domain else {
        let message = "no identity may answer for it: the trust domain of its service account is not \
                       known here";
        fields.whole().warn(message);
        return Some(IdSet::new([]));
    };
    let namespace = meta.key.namespace.as_str();
    let id = SpiffeId::for_workload(domain, namespace, account);
    Some(IdSet::new([fields.whole().check(id)?]))
}
