//! Responses in, operations on the snapshot and acknowledgements out. Pure.
//!
//! A resource that is refused does not hold up the others of its response. What there was of it stays, and
//! its object says why; a policy that never could be read denies what it may select.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use inmesh_core::authorize::Selects;
use inmesh_core::discover::{Applied, Wanted};
use inmesh_core::model::{Kind, ObjectKey};
use inmesh_core::snapshot::{Fallback, Op, Problem, Serving, Severity};
use prost::Message;

use super::super::names::{self, ABSENT, FOUND, REFUSAL, Subscription, TYPE};
use super::super::proto::delta::{
    Any, DeltaDiscoveryRequest as Request, DeltaDiscoveryResponse as Response, Resource, Status,
};
use super::super::proto::objects::Refusal;
use super::super::resource;
use crate::manifest::Defaults;

/// The code of a status that says that something is refused (`INVALID_ARGUMENT`).
const INVALID_ARGUMENT: i32 = 3;
/// The most problems that are said of one resource.
const PROBLEMS: usize = 8;
/// What a kept state begins with.
const MAGIC: &[u8] = b"inmesh control state 1\n";

/// What a process has of a control plane.
#[derive(Debug)]
pub(in crate::control) struct Known {
    defaults: Defaults,
    held: BTreeMap<Arc<str>, Held>,
    /// Whether what was subscribed to leads to a Service, as far as that was answered.
    answered: BTreeMap<String, bool>,
}

/// A resource that was taken.
#[derive(Debug)]
struct Held {
    version: Arc<str>,
    body: Bytes,
    /// What it became.
    keys: Vec<ObjectKey>,
}

/// What a response comes to.
#[derive(Debug, Default)]
pub(in crate::control) struct Taken {
    /// To be applied.
    pub(in crate::control) ops: Vec<Op>,
    /// What requests have asked for and is found.
    pub(in crate::control) found: Vec<Wanted>,
    /// What is not, or no longer.
    pub(in crate::control) absent: Vec<Wanted>,
    nonce: String,
    /// The names and versions of what it brought, and the keys of each.
    brought: Vec<(String, String, Vec<ObjectKey>)>,
    /// Those that were refused as a whole.
    refused: BTreeMap<String, String>,
}

/// A kept state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum Unusable {
    #[error("it is no state of a control plane, or one of another version")]
    Alien,
    #[error("it is that of {0}")]
    OfOther(String),
}

// === impl Known ===

impl Known {
    pub(in crate::control) fn new(defaults: Defaults) -> Self {
        Self {
            defaults,
            held: BTreeMap::new(),
            answered: BTreeMap::new(),
        }
    }

    /// The versions by names, and how subscriptions were answered, for a control plane that knows nothing
    /// of this process.
    pub(in crate::control) fn versions(&self) -> HashMap<String, String> {
        let held = self.held.iter();
        let held = held.map(|(name, held)| (name.to_string(), held.version.to_string()));
        let answered = self.answered.iter().map(|(name, found)| {
            let how = if *found { FOUND } else { ABSENT };
            (name.clone(), how.to_owned())
        });
        held.chain(answered).collect()
    }

    /// Takes a response. Its operations are to be applied before it is acknowledged.
    pub(in crate::control) fn take(&mut self, response: Response) -> Taken {
        let mut taken = Taken {
            nonce: response.nonce,
            ..Taken::default()
        };
        for resource in response.resources {
            for name in &resource.aliases {
                if let Some(wanted) = wanted(name) {
                    self.answered.insert(name.clone(), true);
                    taken.found.push(wanted);
                }
            }
            if resource.resource.is_some() {
                self.put(resource, &mut taken);
            }
        }
        for name in response.removed_resources {
            if let Some(wanted) = wanted(&name) {
                self.answered.insert(name.clone(), false);
                taken.absent.push(wanted);
            }
            if let Some(held) = self.held.remove(&*name) {
                taken.ops.extend(held.keys.into_iter().map(Op::Remove));
            }
        }
        taken
    }

    fn put(&mut self, resource: Resource, taken: &mut Taken) {
        let Resource {
            name,
            version,
            resource: Some(Any { type_url, value }),
            ..
        } = resource
        else {
            return;
        };
        let read = match type_url == TYPE {
            true => resource::read(&name, &value, &self.defaults),
            false => Err(Problem::refused("", format!("its type is {type_url:?}"))),
        };
        let before = self.held.get(&*name);
        let mut denial = false;
        let (ops, keys, body) = match read {
            Ok((ops, is_denial)) => {
                let keys: Vec<_> = ops.iter().filter_map(key_of).collect();
                let now: BTreeSet<_> = keys.iter().collect();
                let gone = before.into_iter().flat_map(|held| &held.keys);
                let gone = gone
                    .filter(|key| !now.contains(key))
                    .cloned()
                    .map(Op::Remove);
                denial = is_denial;
                (gone.chain(ops).collect(), keys, value)
            }
            Err(problem) => {
                taken.refused.insert(name.clone(), problem.to_string());
                let keys = before.map(|held| held.keys.clone());
                let ops: Vec<_> = refuse(&name, problem).into_iter().collect();
                // What serves is kept for the next start as well.
                let body = before.map(|held| Bytes::clone(&held.body)).unwrap_or(value);
                let keys = keys.unwrap_or_else(|| ops.iter().filter_map(key_of).collect());
                (ops, keys, body)
            }
        };
        if !denial {
            let brought = (name.clone(), version.clone(), keys.clone());
            taken.brought.push(brought);
        }
        taken.ops.extend(ops);
        let held = Held {
            version: version.into(),
            body,
            keys,
        };
        self.held.insert(name.into(), held);
    }

    /// What is subscribed to no longer.
    pub(in crate::control) fn forget(&mut self, subscriptions: &[String]) {
        for name in subscriptions {
            self.answered.remove(name);
        }
    }

    // === over a restart ===

    /// What is kept for the next start, by a process with an ID.
    pub(in crate::control) fn to_bytes(&self, own: &str) -> Vec<u8> {
        let resources = self.held.iter().map(|(name, held)| Resource {
            version: held.version.to_string(),
            resource: Some(Any {
                type_url: TYPE.to_owned(),
                value: Bytes::clone(&held.body),
            }),
            name: name.to_string(),
            aliases: Vec::new(),
        });
        let kept = Response {
            system_version_info: own.to_owned(),
            resources: resources.collect(),
            ..Response::default()
        };
        let mut bytes = MAGIC.to_vec();
        // A Vec takes whatever it is given.
        let _fits = kept.encode(&mut bytes);
        bytes
    }

    /// Takes over what an earlier process with the same ID has kept; the operations are all there is.
    pub(in crate::control) fn restore(
        &mut self,
        bytes: &[u8],
        own: &str,
    ) -> Result<Vec<Op>, Unusable> {
        let kept = bytes.strip_prefix(MAGIC).ok_or(Unusable::Alien)?;
        let kept = Response::decode(kept).map_err(|_| Unusable::Alien)?;
        if kept.system_version_info != own {
            return Err(Unusable::OfOther(kept.system_version_info));
        }
        Ok(self.take(kept).ops)
    }
}

/// What stands in place of a resource that cannot be read at all.
fn refuse(name: &str, problem: Problem) -> Option<Op> {
    let key = names::key(name).ok()?;
    let fallback = match key.kind {
        Kind::AuthorizationPolicy => Fallback::Deny(Selects::Namespace(key.namespace.clone())),
        _ => Fallback::Absent,
    };
    Some(Op::Refuse(key, fallback, vec![problem]))
}

fn key_of(op: &Op) -> Option<ObjectKey> {
    match op {
        Op::Put(object, _) => Some(object.key()),
        Op::Refuse(key, ..) => Some(key.clone()),
        _ => None,
    }
}

fn wanted(name: &str) -> Option<Wanted> {
    match Subscription::parse(name) {
        Ok(Subscription::One(wanted)) => Some(wanted),
        _ => None,
    }
}

// === impl Taken ===

impl Taken {
    /// The acknowledgement, once it is applied: what is refused, and why.
    pub(in crate::control) fn acknowledge(self, applied: &Applied) -> Request {
        let mut of: HashMap<String, Vec<String>> = HashMap::new();
        for status in &applied.problems {
            let refused = status
                .problems
                .iter()
                .filter(|p| p.severity == Severity::Refused);
            let mut why: Vec<_> = refused.take(PROBLEMS).map(ToString::to_string).collect();
            if why.is_empty() && status.serving != Serving::Current {
                why.push("it is not applied".to_owned());
            }
            if !why.is_empty() {
                of.insert(status.object.clone(), why);
            }
        }
        let mut details = Vec::new();
        for (name, version, keys) in self.brought {
            let of_keys = keys.iter().filter_map(|key| of.get(&key.to_string()));
            let mut problems: Vec<_> = of_keys.flatten().take(PROBLEMS).cloned().collect();
            if let Some(why) = self.refused.get(&name)
                && problems.is_empty()
            {
                problems.push(why.clone());
            }
            if problems.is_empty() {
                continue;
            }
            let refusal = Refusal {
                name,
                version,
                problems,
            };
            details.push(Any {
                type_url: REFUSAL.to_owned(),
                value: refusal.encode_to_vec().into(),
            });
        }
        let error = (!details.is_empty()).then(|| Status {
            code: INVALID_ARGUMENT,
            message: format!("{} resources are not applied", details.len()),
            details,
        });
        Request {
            type_url: TYPE.to_owned(),
            response_nonce: self.nonce,
            error_detail: error,
            ..Request::default()
        }
    }
}
