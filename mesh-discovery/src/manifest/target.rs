//! What a policy is attached to: `targetRefs`, as the Gateway API writes them (GEP-713).

use std::sync::Arc;

use inmesh_core::model::{Namespace, ServiceName};

use super::strict::{Fields, Value};
use super::text;

/// A target as it is written.
pub(super) struct Named<'t> {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: Value<'t>,
    pub(super) section: Option<Arc<str>>,
}

/// The targets of a list of at most `most`, each of which stands there once.
pub(super) fn each<T: PartialEq>(
    list: &Value<'_>,
    most: usize,
    target: impl Fn(&mut Fields<'_>) -> Option<T>,
) -> Option<Vec<T>> {
    let items = list.list_of(most)?;
    let mut read = Vec::new();
    for item in &items {
        let target = item.object(&target)?;
        if read.contains(&target) {
            item.refuse("stands twice");
        }
        read.push(target);
    }
    Some(read)
}

/// The fields of a target.
pub(super) fn named<'t>(fields: &mut Fields<'t>) -> Option<Named<'t>> {
    let (group, kind) = (fields.need("group"), fields.need("kind"));
    let (name, section) = (fields.need("name"), fields.get("sectionName"));
    let section = match section {
        Some(section) => Some(section.check(text::subdomain(section.text()?))?.into()),
        None => None,
    };
    let name = name?;
    name.text()?;
    Some(Named {
        group: group?.text()?.to_owned(),
        kind: kind?.text()?.to_owned(),
        name,
        section,
    })
}

/// The Service of that name.
pub(super) fn service(name: &Value<'_>, namespace: &Namespace) -> Option<ServiceName> {
    name.check(ServiceName::new(namespace, name.text()?).map_err(text::invalid_name))
}
