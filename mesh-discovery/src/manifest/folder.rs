//! All files of a folder in, one change that replaces what the folder said before out.
//!
//! 1. A file that parses says what its objects are; one that does not, or is empty or cannot be
//!    read, keeps all its objects as they were. Only a file that is gone deletes them.
//! 2. A document whose kind or name cannot be read may be an edit of an earlier object of its
//!    file that is mentioned no more: that object stays.
//! 3. Of two documents for one object the first by file name and line serves; the other is
//!    refused and says where the first stands.
//! 4. Of routes whose mirrors form a cycle the one that closes it, in that order, is refused.
//! 5. A file that was never read may hide a policy. If it mentions one, or could not even be
//!    opened, everything is denied and nothing is ready until it is mended.
//!
//! It refuses to guess in the other direction: no document is dropped without a problem.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use inmesh_core::authorize::Selects;
use inmesh_core::model::{Kind, ObjectKey, SourceId};
use inmesh_core::snapshot::{Change, Fallback, Location, Op, Problem};

use super::mirrors::Mirrors;
use super::{Defaults, Entry, StandsFor, parse, text};

/// The kind under which a file with a problem is listed in status.
const FILE: &str = "File";

/// What was found where a file stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// Its text.
    Text(Arc<str>),
    /// It cannot be read; why.
    Unreadable(String),
}

/// What the folder says now.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Merged {
    /// All that the folder has to say.
    pub change: Change,
    /// Everything that is wrong or of interest, in order of files and lines.
    pub problems: Vec<Problem>,
    /// How many documents there are of each kind that is for other programs.
    pub skipped: BTreeMap<Arc<str>, usize>,
    /// Where each object stands.
    pub places: BTreeMap<ObjectKey, Location>,
}

/// Remembers what each file said when it last could be read.
///
/// ```
/// use inmesh_core::model::{Namespace, SourceId};
/// use inmesh_discovery::manifest::{Content, Defaults, Folder};
///
/// let defaults = Defaults::new(Namespace::new("shop")?);
/// let mut folder = Folder::new(SourceId::new("file:mesh"), defaults);
/// let service = "{apiVersion: v1, kind: Service, metadata: {name: cart}, spec: {ports: [{port: 80}]}}";
/// let good = folder.merge([("cart.yaml".into(), Content::Text(service.into()))]);
/// assert!(good.problems.is_empty());
/// // A file that cannot be read keeps its objects; the problem is reported.
/// let bad = folder.merge([("cart.yaml".into(), Content::Unreadable("no permission".into()))]);
/// assert_eq!(bad.problems.len(), 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Folder {
    source: SourceId,
    defaults: Defaults,
    files: BTreeMap<Arc<str>, Known>,
}

/// What a file said when it last could be read.
#[derive(Debug, Default)]
struct Known {
    text: Option<Arc<str>>,
    entries: Vec<Entry>,
    notes: Vec<Problem>,
    skipped: BTreeMap<Arc<str>, usize>,
    /// Earlier objects that may have become documents of which the name cannot be read.
    kept: Vec<(ObjectKey, u32)>,
}

/// The document that holds an object first, and how often it was mentioned again.
struct Claim {
    at: Location,
    again: usize,
}

/// The change and the problems, as they grow.
#[derive(Default)]
struct Sum {
    ops: Vec<Op>,
    problems: Vec<Problem>,
    skipped: BTreeMap<Arc<str>, usize>,
    claims: HashMap<ObjectKey, Claim>,
    mirrors: Mirrors,
}

// === impl Content ===

impl Content {
    /// The text of the file of that name.
    ///
    /// # Errors
    ///
    /// Why it cannot be read, placed at its first line.
    pub fn text(&self, file: &Arc<str>) -> Result<&Arc<str>, Problem> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Unreadable(why) => {
                let why = format!("the file cannot be read: {why}");
                Err(Problem::refused("", why).at(Location::new(Arc::clone(file), 1)))
            }
        }
    }
}

// === impl Folder ===

impl Folder {
    /// A folder that has not been read yet.
    #[must_use]
    pub fn new(source: SourceId, defaults: Defaults) -> Self {
        Self {
            source,
            defaults,
            files: BTreeMap::new(),
        }
    }

    /// Reads all files, given by their paths in any order, and says what the folder says now.
    pub fn merge(&mut self, files: impl IntoIterator<Item = (Arc<str>, Content)>) -> Merged {
        let files: BTreeMap<_, _> = files.into_iter().collect();
        self.files.retain(|file, _| files.contains_key(file));
        let mut sum = Sum::default();
        for (file, content) in files {
            let text = content.text(&file);
            let error = text.and_then(|text| self.read(&file, text)).err();
            let known = self.files.get(&file);
            match error {
                None => {
                    for entry in known.iter().flat_map(|known| &known.entries) {
                        sum.put(&file, entry);
                    }
                }
                Some(problem) => {
                    self.refuse_file(&mut sum, &file, &content, known, problem);
                    for entry in known.iter().flat_map(|known| &known.entries) {
                        sum.keep(&file, &entry.key, entry.line);
                        if let Op::Put(object, _) = &entry.op {
                            // What serves is not refused for it.
                            let _serves = sum.mirrors.add(object);
                        }
                    }
                }
            }
            for (key, line) in known.iter().flat_map(|known| &known.kept) {
                sum.keep(&file, key, *line);
            }
            if let Some(known) = known {
                sum.problems.extend(known.notes.iter().cloned());
                for (kind, count) in &known.skipped {
                    *sum.skipped.entry(Arc::clone(kind)).or_default() += count;
                }
            }
        }
        Merged {
            change: Change::replace(self.source.clone(), sum.ops),
            problems: sum.problems,
            skipped: sum.skipped,
            places: sum
                .claims
                .into_iter()
                .map(|(k, claim)| (k, claim.at))
                .collect(),
        }
    }

    /// Reads a file whose text has changed, and remembers what it says.
    fn read(&mut self, file: &Arc<str>, text: &Arc<str>) -> Result<(), Problem> {
        let before = self.files.get(file);
        if before.is_some_and(|known| known.text.as_ref() == Some(text)) {
            return Ok(());
        }
        let parsed = parse(file, text, &self.defaults).map_err(|e| e.problem())?;
        let mut known = Known {
            text: Some(Arc::clone(text)),
            entries: parsed.entries,
            notes: parsed.notes,
            skipped: parsed.skipped,
            kept: Vec::new(),
        };
        if let Some(before) = before {
            known.keep_of(before);
        }
        self.files.insert(Arc::clone(file), known);
        Ok(())
    }

    fn refuse_file(
        &self,
        sum: &mut Sum,
        file: &Arc<str>,
        content: &Content,
        known: Option<&Known>,
        problem: Problem,
    ) {
        let base = file.rsplit('/').next().unwrap_or_default();
        let key = |kind| {
            ObjectKey::new(kind, &self.defaults.namespace, &text::object_name(base))
                .expect("object_name makes names of objects")
        };
        sum.refuse(
            key(Kind::Other(FILE.into())),
            Fallback::Absent,
            vec![problem],
        );
        let may_hide_policy = match content {
            // A kind may be misspelt: its group tells too.
            Content::Text(text) => ["AuthorizationPolicy", "security.istio.io", "inmesh.dev/v"]
                .iter()
                .any(|mark| text.contains(mark)),
            Content::Unreadable(_) => true,
        };
        if known.is_none() && may_hide_policy {
            let message = "the file was never read and may hold an AuthorizationPolicy, so all \
                           requests are denied until it is mended or removed";
            let problem = Problem::refused("", message).at(Location::new(Arc::clone(file), 1));
            let deny = Fallback::Deny(Selects::Unknown);
            sum.refuse(key(Kind::AuthorizationPolicy), deny, vec![problem]);
        }
    }
}

// === impl Known ===

impl Known {
    /// Keeps those objects of the version before that a document without a readable kind or name
    /// may be an edit of.
    fn keep_of(&mut self, before: &Self) {
        let here: HashSet<&ObjectKey> = self.entries.iter().map(|entry| &entry.key).collect();
        let mut missing: Vec<(ObjectKey, u32)> = before
            .entries
            .iter()
            .filter(|entry| entry.stands_for == StandsFor::Itself)
            .map(|entry| (entry.key.clone(), entry.line))
            .chain(before.kept.iter().cloned())
            .filter(|(key, _)| !here.contains(key))
            .collect();
        let unclear = |entry: &&mut Entry| entry.stands_for != StandsFor::Itself;
        for entry in self.entries.iter_mut().filter(unclear) {
            let stands_for = &entry.stands_for;
            let (taken, left): (Vec<_>, Vec<_>) =
                missing.into_iter().partition(|(key, _)| match stands_for {
                    StandsFor::Any => true,
                    StandsFor::Itself => false,
                    StandsFor::Kind(kind) => key.kind == *kind,
                    StandsFor::Name(namespace, name) => {
                        key.namespace == *namespace && key.name == *name
                    }
                });
            missing = left;
            if let (false, Op::Refuse(_, fallback, _)) = (taken.is_empty(), &mut entry.op) {
                // It was valid before: the last valid version stays in force.
                *fallback = Fallback::Absent;
            }
            self.kept.extend(taken);
        }
    }
}

// === impl Sum ===

impl Sum {
    fn put(&mut self, file: &Arc<str>, entry: &Entry) {
        let at = Location::new(Arc::clone(file), entry.line);
        if let Some(first) = self.claims.get_mut(&entry.key) {
            first.again += 1;
            let kind = Kind::Other(format!("{} (again)", entry.key.kind).into());
            let name = format!("{}.{}", entry.key.name, first.again);
            let message = format!("is defined at {} already, which serves", first.at);
            let problem = Problem::refused("metadata.name", message).at(at);
            match ObjectKey::new(kind, &entry.key.namespace, &name) {
                Ok(key) => self.refuse(key, Fallback::Absent, vec![problem]),
                // The name is too long to be a key; the problem is still reported.
                Err(_) => self.problems.push(problem),
            }
            return;
        }
        let claim = Claim {
            at: at.clone(),
            again: 0,
        };
        self.claims.insert(entry.key.clone(), claim);
        if let Op::Put(object, _) = &entry.op
            && let Err(cycle) = self.mirrors.add(object)
        {
            let problem = Problem::refused(cycle.field, cycle.message).at(at);
            return self.refuse(entry.key.clone(), Fallback::Absent, vec![problem]);
        }
        self.problems.extend(problems(&entry.op).iter().cloned());
        self.ops.push(entry.op.clone());
        let document = entry.document.iter().cloned();
        self.ops
            .extend(document.map(|text| Op::Document(entry.key.clone(), text)));
    }

    fn keep(&mut self, file: &Arc<str>, key: &ObjectKey, line: u32) {
        if !self.claims.contains_key(key) {
            let at = Location::new(Arc::clone(file), line);
            self.claims.insert(key.clone(), Claim { at, again: 0 });
            self.ops.push(Op::Keep(key.clone()));
        }
    }

    fn refuse(&mut self, key: ObjectKey, fallback: Fallback, problems: Vec<Problem>) {
        self.problems.extend(problems.iter().cloned());
        self.ops.push(Op::Refuse(key, fallback, problems));
    }
}

fn problems(op: &Op) -> &[Problem] {
    match op {
        Op::Put(_, problems) | Op::Refuse(_, _, problems) => problems,
        _ => &[],
    }
}
