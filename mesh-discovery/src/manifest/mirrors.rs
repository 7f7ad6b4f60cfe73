//! Mirrors across routes: none leads, over others, back to the Service that it is of. Pure.
//!
//! A copy is not copied again, so that a cycle would harm nothing; but it is not what is written either,
//! and so the route that would close one is refused.

use std::collections::{BTreeMap, BTreeSet};

use inmesh_core::model::ServiceName;
use inmesh_core::route::Outcome;
use inmesh_core::snapshot::Object;

/// Which Services are mirrored to which.
#[derive(Debug, Default)]
pub(crate) struct Mirrors(BTreeMap<ServiceName, BTreeSet<ServiceName>>);

/// A mirror that would close a cycle.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cycle {
    /// Where it stands in its route.
    pub(crate) field: String,
    pub(crate) message: String,
}

// === impl Mirrors ===

impl Mirrors {
    /// Adds those of an object, or none.
    ///
    /// # Errors
    ///
    /// The first that would close a cycle.
    pub(crate) fn add(&mut self, route: &Object) -> Result<(), Cycle> {
        let mut more = Vec::new();
        for (r, rule) in route.rules().into_iter().enumerate() {
            if !matches!(rule.outcome, Outcome::Forward(_)) {
                continue;
            }
            for (backend, n, mirror) in rule.mirrors() {
                for parent in route.parents() {
                    let (from, to) = (&parent.service, mirror.service());
                    if let Some(way) = self.way(to, from) {
                        let at = backend.map_or(String::new(), |b| format!(".backendRefs[{b}]"));
                        let way: Vec<_> = way.iter().map(ToString::to_string).collect();
                        return Err(Cycle {
                            field: format!(
                                "spec.rules[{r}]{at}.filters[{n}].requestMirror.backendRef"
                            ),
                            message: format!(
                                "is a cycle of mirrors: {from} is mirrored to {}",
                                way.join(", and that to ")
                            ),
                        });
                    }
                    more.push((from, to));
                }
            }
        }
        for (from, to) in more {
            self.0.entry(from.clone()).or_default().insert(to.clone());
        }
        Ok(())
    }

    /// The Services on the shortest way from one to another, both included.
    fn way<'a>(
        &'a self,
        from: &'a ServiceName,
        to: &'a ServiceName,
    ) -> Option<Vec<&'a ServiceName>> {
        let mut before = BTreeMap::from([(from, from)]);
        let mut next = vec![from];
        while !before.contains_key(to) {
            let mut found = Vec::new();
            for at in next {
                for service in self.0.get(at).into_iter().flatten() {
                    before.entry(service).or_insert_with(|| {
                        found.push(service);
                        at
                    });
                }
            }
            if found.is_empty() {
                return None;
            }
            next = found;
        }
        let mut way = vec![to];
        while let Some(&last) = way.last()
            && last != from
        {
            way.push(before.get(last)?);
        }
        way.reverse();
        Some(way)
    }
}
