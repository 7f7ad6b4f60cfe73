//! What an API server says of objects in, changes of the snapshot out. Pure.
//!
//! 1. Nothing is said before every kind has been listed, or is known to be absent: then all of it at
//!    once. So no moment is without policies that are there.
//! 2. A kind that is listed again keeps what it had until the new list is whole; what is not on that is
//!    removed then. A set of endpoints is never empty in between.
//! 3. What is older than what is known of an object is left out, and so is what comes after its end.
//! 4. Of two kinds that stand for one object (policies of two groups), the first serves, the other is
//!    refused.
//! 5. Of routes whose mirrors form a cycle the one that closes it, in order of their keys, is refused.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use inmesh_core::authorize::Selects;
use inmesh_core::model::{Kind, Namespace, ObjectKey, SourceId};
use inmesh_core::snapshot::{Change, Fallback, Object, Op, Problem};
use serde_json::Value as Json;

use super::kinds::KINDS;
use super::staged::{Stable, Staged};
use super::status::Written;
use crate::layout;
use crate::manifest::mirrors::Mirrors;
use crate::manifest::{Defaults, parse_json};

/// How many ends of objects are remembered, so that a late event does not bring one back.
const ENDED: usize = 4_096;

/// What an API server says of a kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// The kind is not there: its objects cannot be listed. What was known of it stays.
    Absent,
    /// An object has come, or has become another.
    Applied(Json),
    /// An object has gone.
    Deleted(Json),
    /// A list begins.
    ListBegun,
    /// An object of the list.
    Listed(Json),
    /// The list is whole.
    ListDone,
}

/// Every object of a cluster that says something to the mesh.
#[derive(Debug)]
pub(super) struct Index {
    source: SourceId,
    defaults: Defaults,
    kinds: Vec<Objects>,
    /// Routes with mirrors, and which of them are refused for a cycle.
    mirrored: BTreeMap<ObjectKey, Object>,
    cycles: BTreeMap<ObjectKey, Problem>,
    /// What is staged in the place of objects, by these and the places of their kinds; and how often that has
    /// changed.
    staged: BTreeMap<(ObjectKey, usize), Staged>,
    stagings: u64,
    /// Whether a mirror has changed since cycles were looked for.
    look_for_cycles: bool,
    /// Keys that are to be said anew.
    touched: HashSet<ObjectKey>,
    /// Whether all has been said once.
    begun: bool,
}

/// The objects of a kind.
#[derive(Debug, Default)]
struct Objects {
    by_name: HashMap<Name, Known>,
    /// The names on the list that is being read.
    listing: Option<HashSet<Name>>,
    /// Whether it has been listed once, or is absent.
    settled: bool,
    ended: VecDeque<Arc<str>>,
}

/// Namespace and name; the namespace of an object of the whole cluster is empty.
type Name = (Arc<str>, Arc<str>);

/// What is known of an object.
#[derive(Debug)]
struct Known {
    uid: Arc<str>,
    version: Option<u64>,
    key: ObjectKey,
    op: Op,
    /// Its text, where it is handed on.
    document: Option<Arc<str>>,
    /// What the API server has of it, where its status is written.
    written: Option<Box<Written>>,
}

/// What tells versions of an object apart.
struct Identity {
    name: Name,
    uid: Arc<str>,
    version: Option<u64>,
}

// === impl Index ===

impl Index {
    pub(super) fn new(source: SourceId, defaults: Defaults) -> Self {
        Self {
            source,
            defaults,
            kinds: KINDS.iter().map(|_| Objects::default()).collect(),
            mirrored: BTreeMap::new(),
            cycles: BTreeMap::new(),
            staged: BTreeMap::new(),
            stagings: 0,
            look_for_cycles: false,
            touched: HashSet::new(),
            begun: false,
        }
    }

    /// Notes what is said of a kind, by its place in [`KINDS`].
    pub(super) fn handle(&mut self, kind: usize, event: Event) {
        match event {
            Event::Absent => self.kinds[kind].settled = true,
            Event::Applied(object) => {
                if let Some(identity) = self.newer(kind, &object) {
                    self.put(kind, identity, object);
                }
            }
            Event::Deleted(object) => self.end(kind, &object),
            Event::ListBegun => self.kinds[kind].listing = Some(HashSet::new()),
            Event::Listed(object) => {
                let Some(identity) = Identity::of(&object) else {
                    return;
                };
                let objects = &mut self.kinds[kind];
                if let Some(listing) = &mut objects.listing {
                    listing.insert(identity.name.clone());
                }
                // A list is right whatever was known: a store may have been restored from a backup.
                let known = objects.by_name.get(&identity.name);
                if known.is_none_or(|known| !known.is(&identity)) {
                    self.put(kind, identity, object);
                }
            }
            Event::ListDone => {
                let objects = &mut self.kinds[kind];
                objects.settled = true;
                objects.ended.clear();
                let Some(listed) = objects.listing.take() else {
                    return;
                };
                let names = objects
                    .by_name
                    .keys()
                    .filter(|name| !listed.contains(*name));
                let gone: Vec<_> = names.cloned().collect();
                for name in gone {
                    self.forget(kind, &name);
                }
            }
        }
    }

    /// The kinds that have neither been listed nor are absent.
    pub(super) fn waits_for(&self) -> impl Iterator<Item = usize> {
        let kinds = self.kinds.iter().enumerate();
        kinds
            .filter(|(_, objects)| !objects.settled)
            .map(|(kind, _)| kind)
    }

    /// The objects whose status is written.
    pub(super) fn written(&self) -> impl Iterator<Item = (&ObjectKey, &Written)> {
        let all = self
            .kinds
            .iter()
            .flat_map(|objects| objects.by_name.values());
        all.filter_map(|known| Some((&known.key, known.written.as_deref()?)))
    }

    /// The objects in whose place something is staged.
    pub(super) fn staged(&self) -> impl Iterator<Item = (&ObjectKey, &Staged)> {
        self.staged.iter().map(|((key, _), staged)| (key, staged))
    }

    /// How often these have changed.
    pub(super) fn stagings(&self) -> u64 {
        self.stagings
    }

    /// What has changed since it was asked for the last time, if anything has and all kinds are settled.
    pub(super) fn poll(&mut self) -> Option<Change> {
        if self.waits_for().next().is_some() || (self.begun && self.touched.is_empty()) {
            return None;
        }
        self.find_cycles();
        let mut touched: Vec<_> = self.touched.drain().collect();
        touched.sort_unstable();
        let ops = touched
            .into_iter()
            .flat_map(|key| self.said(&key))
            .collect();
        let source = self.source.clone();
        Some(match std::mem::replace(&mut self.begun, true) {
            false => Change::replace(source, ops),
            true => Change::update(source, ops),
        })
    }

    /// What is to be said of a key.
    fn said(&self, key: &ObjectKey) -> Vec<Op> {
        if let Some(problem) = self.cycles.get(key) {
            return vec![Op::Refuse(
                key.clone(),
                Fallback::Absent,
                vec![problem.clone()],
            )];
        }
        let name: Name = (key.namespace.as_str().into(), Arc::clone(&key.name));
        let all = self
            .kinds
            .iter()
            .filter_map(|objects| objects.by_name.get(&name));
        let mut all = all.filter(|known| known.key == *key);
        let mut first = Vec::with_capacity(2);
        match all.next() {
            Some(known) => {
                first.push(known.op.clone());
                let document = known.document.iter().cloned();
                first.extend(document.map(|text| Op::Document(key.clone(), text)));
            }
            None => first.push(Op::Remove(key.clone())),
        }
        // Most kinds have one group.
        let Some(again) = has_twin(key).then(|| again(key)).flatten() else {
            return first;
        };
        let second = match all.next() {
            Some(_) => {
                let message = format!("{key} is defined in another group already, which serves");
                let problem = Problem::refused("metadata.name", message);
                Op::Refuse(again, Fallback::Absent, vec![problem])
            }
            None => Op::Remove(again),
        };
        first.push(second);
        first
    }

    /// Which object it is, unless it is an old version of it, or has ended.
    fn newer(&self, kind: usize, object: &Json) -> Option<Identity> {
        let identity = Identity::of(object)?;
        let objects = &self.kinds[kind];
        let old = |known: &Known| {
            let versions = (identity.version, known.version);
            known.uid == identity.uid && matches!(versions, (Some(new), Some(old)) if new <= old)
        };
        let known = objects.by_name.get(&identity.name);
        let ended = !identity.uid.is_empty() && objects.ended.contains(&identity.uid);
        (!ended && !known.is_some_and(old)).then_some(identity)
    }

    fn put(&mut self, kind: usize, identity: Identity, mut object: Json) {
        complete(kind, &mut object);
        let written = written(kind, &object);
        let called = format!("{}/{}", identity.name.0, identity.name.1);
        let parsed = parse_json(&called, &object, &self.defaults);
        let entry = match parsed {
            Ok(mut parsed) => {
                let entry = parsed.entries.pop();
                entry.map(|entry| (entry.key, entry.op, entry.document))
            }
            Err(e) => {
                let refused = unreadable(kind, &identity.name, e.problem());
                refused.map(|(key, op)| (key, op, None))
            }
        };
        let Some((key, op, document)) = entry else {
            // It says nothing to the mesh, or does so no longer.
            self.forget(kind, &identity.name);
            return;
        };
        let mut op = without_places(op);
        self.stage(kind, &object, (&called, &key, document.as_ref()), &mut op);
        self.mirrors(&key, Some(&op));
        let known = Known {
            uid: identity.uid,
            version: identity.version,
            key: key.clone(),
            op,
            document,
            written,
        };
        if let Some(before) = self.kinds[kind].by_name.insert(identity.name, known)
            && before.key != key
        {
            let staged = self.staged.remove(&(before.key.clone(), kind));
            self.stagings += u64::from(staged.is_some());
            self.touched.insert(before.key);
        }
        self.touched.insert(key);
    }

    /// Notes what is staged in the place of an object, of which `op` puts what it is; an annotation without an
    /// effect is a problem of that.
    fn stage(
        &mut self,
        kind: usize,
        object: &Json,
        (called, key, document): (&str, &ObjectKey, Option<&Arc<str>>),
        op: &mut Op,
    ) {
        let stable = Stable {
            called,
            op,
            document,
        };
        let refuses = |staged: &Op| {
            let Op::Put(route, _) = staged else {
                return None;
            };
            let mut mirrors = Mirrors::default();
            let others = self.mirrored.iter().filter(|(of, _)| *of != key);
            for (_, other) in others {
                // One that closes a cycle is refused already.
                let _refused = mirrors.add(other);
            }
            let cycle = mirrors.add(route).err()?;
            Some(format!("{}: {}", cycle.field, cycle.message))
        };
        let staged = Staged::of(&KINDS[kind], object, &stable, &self.defaults, refuses);
        let staged = staged.unwrap_or_else(|why| {
            if let Op::Put(_, problems) | Op::Refuse(_, _, problems) = op {
                let at = format!("metadata.annotations[{}]", layout::STAGE);
                problems.push(Problem::warning(at, format!("has no effect: {why}")));
            }
            None
        });
        let at = (key.clone(), kind);
        let before = match staged {
            Some(staged) => {
                self.stagings += 1;
                self.staged.insert(at, staged)
            }
            None => self.staged.remove(&at),
        };
        self.stagings += u64::from(before.is_some());
    }

    fn end(&mut self, kind: usize, object: &Json) {
        let Some(identity) = Identity::of(object) else {
            return;
        };
        let objects = &mut self.kinds[kind];
        if !identity.uid.is_empty() {
            if objects.ended.len() == ENDED {
                objects.ended.pop_front();
            }
            objects.ended.push_back(Arc::clone(&identity.uid));
        }
        // Another may have the name since.
        if objects
            .by_name
            .get(&identity.name)
            .is_some_and(|known| known.uid == identity.uid)
        {
            self.forget(kind, &identity.name);
        }
    }

    fn forget(&mut self, kind: usize, name: &Name) {
        if let Some(known) = self.kinds[kind].by_name.remove(name) {
            self.mirrors(&known.key, None);
            let staged = self.staged.remove(&(known.key.clone(), kind));
            self.stagings += u64::from(staged.is_some());
            self.touched.insert(known.key);
        }
    }

    /// Notes the mirrors of an object, where it has or had any.
    fn mirrors(&mut self, key: &ObjectKey, op: Option<&Op>) {
        let route = match op {
            Some(Op::Put(object, _))
                if object.rules().iter().any(|r| r.mirrors().next().is_some()) =>
            {
                Some(object)
            }
            _ => None,
        };
        let before = match route {
            Some(route) => self.mirrored.insert(key.clone(), route.clone()),
            None => self.mirrored.remove(key),
        };
        self.look_for_cycles |= before.is_some() || route.is_some();
    }

    fn find_cycles(&mut self) {
        if !std::mem::take(&mut self.look_for_cycles) {
            return;
        }
        let mut mirrors = Mirrors::default();
        let cycles = self.mirrored.iter().filter_map(|(key, route)| {
            let cycle = mirrors.add(route).err()?;
            Some((key.clone(), Problem::refused(cycle.field, cycle.message)))
        });
        let cycles: BTreeMap<_, _> = cycles.collect();
        let before = std::mem::replace(&mut self.cycles, cycles);
        let keys = before.keys().chain(self.cycles.keys());
        let changed = keys.filter(|key| before.get(*key) != self.cycles.get(*key));
        self.touched.extend(changed.cloned());
    }
}

// === impl Known ===

impl Known {
    /// Whether it is this version of an object.
    fn is(&self, identity: &Identity) -> bool {
        self.uid == identity.uid && self.version.is_some() && self.version == identity.version
    }
}

// === impl Identity ===

impl Identity {
    fn of(object: &Json) -> Option<Self> {
        let meta = object.get("metadata")?;
        let text = |name: &str| meta.get(name).and_then(Json::as_str);
        Some(Self {
            name: (
                text("namespace").unwrap_or_default().into(),
                text("name")?.into(),
            ),
            uid: text("uid").unwrap_or_default().into(),
            // Versions are ordered as numbers (KEP-5504).
            version: text("resourceVersion").and_then(|version| version.parse().ok()),
        })
    }
}

/// What is said of an object that is larger than a document may be.
fn unreadable(kind: usize, (namespace, name): &Name, problem: Problem) -> Option<(ObjectKey, Op)> {
    let namespace = Namespace::new(namespace).ok()?;
    let (kind, fallback) = match KINDS[kind].kind {
        "AuthorizationPolicy" => {
            let selects = Selects::Namespace(namespace.clone());
            (Kind::AuthorizationPolicy, Fallback::Deny(selects))
        }
        kind => (Kind::Other(kind.into()), Fallback::Absent),
    };
    let key = ObjectKey::new(kind, &namespace, name).ok()?;
    Some((key.clone(), Op::Refuse(key, fallback, vec![problem])))
}

/// Writes what lists leave out of their items, and leaves out what is for the API server alone.
fn complete(kind: usize, object: &mut Json) {
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    let watched = &KINDS[kind];
    fields.entry("kind").or_insert_with(|| watched.kind.into());
    let version = || watched.api_version(watched.versions[0]).into();
    fields.entry("apiVersion").or_insert_with(version);
    if let Some(meta) = fields.get_mut("metadata").and_then(Json::as_object_mut) {
        meta.remove("managedFields");
    }
}

/// What the API server has of a route.
fn written(kind: usize, object: &Json) -> Option<Box<Written>> {
    let watched = &KINDS[kind];
    if !watched.plural.ends_with("routes") {
        return None;
    }
    let version = object.get("apiVersion").and_then(Json::as_str)?;
    let version = version.rsplit('/').next().unwrap_or_default();
    Written::of(watched.path_in(version), object).map(Box::new)
}

/// An object is named by its key; it stands on no line.
fn without_places(mut op: Op) -> Op {
    if let Op::Put(_, problems) | Op::Refuse(_, _, problems) = &mut op {
        for problem in problems {
            problem.location = None;
        }
    }
    op
}

/// Whether more than one kind that is watched stands for the kind of a key.
fn has_twin(key: &ObjectKey) -> bool {
    key.kind == Kind::AuthorizationPolicy
}

/// Under which key an object is refused that another stands for already.
fn again(key: &ObjectKey) -> Option<ObjectKey> {
    let kind = Kind::Other(format!("{} (again)", key.kind).into());
    ObjectKey::new(kind, &key.namespace, &format!("{}.1", key.name)).ok()
}
