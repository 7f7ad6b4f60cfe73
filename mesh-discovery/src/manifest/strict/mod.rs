//! Reads documents strictly: text in, typed values out, or every problem with line and field.
//!
//! The reader of a kind asks for its fields one by one; a field of the document that it did not ask
//! for is unknown and is reported, so that no field can be accepted without being used. Reading
//! continues after a problem where it can, so that one look shows most of what is wrong.
//!
//! ```
//! use inmesh_discovery::manifest::strict::{Unknown, documents};
//!
//! let text = "
//! apiVersion: inmesh.dev/v1alpha1
//! kind: Agent
//! admin: {port: 15000}
//! limits: {headrs: 100}
//! ";
//! struct Agent { admin: u16, headers: Option<u32> }
//!
//! let document = &documents("agent.yaml", text)?[0];
//! assert_eq!(document.kind(), Some("Agent"));
//! let read = document.read(Unknown::Refuse, |agent| {
//!     // `need` says what is missing; `get` is for what may be.
//!     let admin = agent.need("admin")?.object(|admin| admin.need("port")?.integer());
//!     let headers = agent.get("limits").and_then(|limits| {
//!         limits.object(|limits| limits.get("headers").map(|h| h.integer()).unwrap_or(Some(0)))
//!     });
//!     Some(Agent { admin: admin?, headers })
//! });
//! let problems = read.err().expect("headrs is misspelt");
//! assert_eq!(problems[0].to_string(), "agent.yaml:5: limits.headrs: is not a known field");
//! # Ok::<(), inmesh_discovery::manifest::FileError>(())
//! ```

mod scalar;
mod tree;
mod value;
mod write;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use inmesh_core::snapshot::{Location, Problem, Severity};

pub use tree::FILE_BYTES;
use tree::Node;
pub(super) use value::Shape;
pub use value::{Fields, Value};

/// The most problems reported of one document; the next reading shows the rest.
const PROBLEMS: usize = 32;
/// The longest message, in characters.
const MESSAGE_CHARS: usize = 512;

/// A file that is not a document: it does not parse as YAML, or holds nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{location}: {message}")]
#[non_exhaustive]
pub struct FileError {
    /// Where it fails; the first line where the file as a whole does.
    pub location: Location,
    /// Why.
    pub message: String,
}

/// What an unknown field does to its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unknown {
    /// The object is refused: it would claim what is not enforced.
    Refuse,
    /// It is reported, and the object is applied.
    Warn,
}

/// One document of a file.
#[derive(Debug, Clone)]
pub struct Document {
    file: Arc<str>,
    /// Where it stands in a list; empty for most.
    path: String,
    root: Node,
    /// The apiVersion and kind that a typed list gives to items without their own.
    typed: Option<(Arc<str>, Arc<str>)>,
}

/// What a document says, and what its author should know about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Read<T> {
    /// What it says.
    pub value: T,
    /// Problems that did not refuse it.
    pub warnings: Vec<Problem>,
    /// What is as it should be and may be of interest.
    pub notes: Vec<Problem>,
}

/// What a reader does with a field that it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Asked {
    Read,
    Ignored,
    Refused,
}

/// Collects the problems of one document.
#[derive(Debug)]
struct Report {
    file: Arc<str>,
    unknown: Unknown,
    /// Whether null is as good as absent.
    prune: bool,
    /// Unknown fields: they are named before others, which may be missing because of them.
    misspelt: RefCell<Vec<Problem>>,
    problems: RefCell<Vec<Problem>>,
    refused: Cell<bool>,
    /// The fields that were asked for, by the path of their mapping, if that is of interest.
    fields: RefCell<Option<Vec<(String, String, Asked)>>>,
}

/// Reads the documents of a file. `file` is its name in problems. Documents without content
/// (between two `---`) are left out.
///
/// # Errors
///
/// [`FileError`] if the text is not YAML, holds no document, is larger than 1 MiB, nested deeper
/// than 64 levels, has more than 1,000 documents or 200,000 values (aliases expanded), a key
/// twice in one mapping, a tag of another kind than those of JSON, or a key that is no text, number or boolean.
pub fn documents(file: &str, text: &str) -> Result<Vec<Document>, FileError> {
    let file: Arc<str> = file.into();
    let fail = |(line, message): (u32, String)| FileError::new(&file, line, cut(&message));
    let roots = tree::documents(text).map_err(fail)?;
    if roots.is_empty() {
        return Err(FileError::new(&file, 1, "the file holds no document"));
    }
    let document = |root| Document {
        file: Arc::clone(&file),
        path: String::new(),
        root,
        typed: None,
    };
    Ok(roots.into_iter().map(document).collect())
}

/// Reads an object of an API server. `name` is what it is called in problems.
///
/// # Errors
///
/// [`FileError`] if it is nested deeper than 64 levels or has more than 200,000 values.
#[cfg(feature = "kubernetes")]
pub(super) fn of_json(name: &str, value: &serde_json::Value) -> Result<Document, FileError> {
    let file: Arc<str> = name.into();
    match tree::of_json(value) {
        Ok(root) => Ok(Document {
            file,
            path: String::new(),
            root,
            typed: None,
        }),
        Err((line, message)) => Err(FileError::new(&file, line, message)),
    }
}

// === impl FileError ===

impl FileError {
    pub(super) fn new(file: &Arc<str>, line: u32, message: impl Into<String>) -> Self {
        Self {
            location: Location::new(Arc::clone(file), line),
            message: message.into(),
        }
    }

    /// The same as the problem of an object.
    #[must_use]
    pub fn problem(&self) -> Problem {
        Problem::refused("", self.message.clone()).at(self.location.clone())
    }
}

// === impl Document ===

impl Document {
    /// The line on which it begins.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.root.line
    }

    /// Where a field stands, named as problems name it (`listeners[0].bind`), or what of the way to
    /// it is there.
    #[must_use]
    pub fn place(&self, field: &str) -> Location {
        let field = field.strip_prefix(&*self.path).unwrap_or(field);
        Location::new(Arc::clone(&self.file), self.root.line_of(field))
    }

    /// The file it stands in, as given to [`documents`].
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Where it stands in a list, e.g. `items[2]`; empty for most.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its `kind`, where that is a text.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.typed_text("kind", self.typed.as_ref().map(|(_, kind)| kind))
    }

    /// Its `apiVersion`, where that is a text.
    #[must_use]
    pub fn api_version(&self) -> Option<&str> {
        self.typed_text(
            "apiVersion",
            self.typed.as_ref().map(|(version, _)| version),
        )
    }

    /// Reads it. `read` is given its fields, of which `apiVersion` and `kind` are taken already;
    /// it returns `None` where it cannot go on, after a problem was reported through a [`Value`].
    ///
    /// # Errors
    ///
    /// All problems, warnings included, if one of them refuses the document, if it is not a mapping,
    /// or if `read` returned `None`.
    pub fn read<T>(
        &self,
        unknown: Unknown,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Result<Read<T>, Vec<Problem>> {
        let report = Report::new(&self.file, unknown, false);
        self.read_into(&report, read)
    }

    /// Reads it as a Kubernetes object, in which null is as good as absent.
    pub(super) fn read_object<T>(
        &self,
        unknown: Unknown,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Result<Read<T>, Vec<Problem>> {
        let report = Report::new(&self.file, unknown, true);
        self.read_into(&report, read)
    }

    /// Every field that `read` asks for: the path of its mapping, its name, what is done with it.
    pub(super) fn asked<T>(
        &self,
        read: impl FnOnce(&mut Fields<'_>) -> Option<T>,
    ) -> Vec<(String, String, Asked)> {
        let report = Report::new(&self.file, Unknown::Refuse, true);
        report.fields.replace(Some(Vec::new()));
        let _whatever_it_says = self.read_into(&report, read);
        report.fields.take().unwrap_or_default()
    }

    fn read_into<'t, T>(
        &'t self,
        report: &'t Report,
        read: impl FnOnce(&mut Fields<'t>) -> Option<T>,
    ) -> Result<Read<T>, Vec<Problem>> {
        let value = self.value(report).object(|fields| {
            fields.ignore(&["apiVersion", "kind"]);
            read(fields)
        });
        let refused = report.refused.get();
        let (notes, problems) = report.take();
        match value {
            Some(value) if !refused => Ok(Read {
                value,
                warnings: problems,
                notes,
            }),
            _ => Err(problems),
        }
    }

    /// Looks at a field without a report.
    pub(super) fn peek(&self, path: &[&str]) -> Peek<'_> {
        let mut node = &self.root;
        for name in path {
            match (&node.data, node.field(name)) {
                (_, Some(field)) => node = field,
                (tree::Data::Map(_), None) => return Peek::Absent,
                _ => return Peek::Other,
            }
        }
        node.text().map_or(Peek::Other, Peek::Text)
    }

    /// How many items a list has, looked at without a report; `None` where there is no list.
    pub(super) fn len_of(&self, path: &[&str]) -> Option<usize> {
        let node = path
            .iter()
            .try_fold(&self.root, |node, name| node.field(name))?;
        match &node.data {
            tree::Data::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// The documents of a list: `v1 List`, or a kind that ends in `List` and has `items`, whose name
    /// then says the kind of items without one. `None` where it is no list.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let of = self.kind()?.strip_suffix("List")?;
        let items: &[Node] = match self.root.field("items").map(|items| &items.data) {
            Some(tree::Data::List(items)) => items,
            Some(tree::Data::Null) => &[],
            _ => return None,
        };
        let typed = match (self.api_version(), of) {
            (_, "") | (None, _) => None,
            (Some(version), of) => Some((version.into(), of.into())),
        };
        let document = |(n, root): (usize, &Node)| Self {
            file: Arc::clone(&self.file),
            path: value::index(&value::member(&self.path, "items"), n),
            root: root.clone(),
            typed: typed.clone(),
        };
        Some(items.iter().enumerate().map(document).collect())
    }

    fn value<'t>(&'t self, report: &'t Report) -> Value<'t> {
        Value::new(&self.root, self.path.clone(), report)
    }

    fn typed_text<'t>(&'t self, name: &str, typed: Option<&'t Arc<str>>) -> Option<&'t str> {
        match self.root.field(name) {
            Some(field) => field.text(),
            None => typed.map(|typed| &**typed),
        }
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peek<'t> {
    /// Nothing; the mapping that would hold it is there.
    Absent,
    /// Something that is not a text, or a way to it through something that is not a mapping.
    Other,
    /// A text.
    Text(&'t str),
}

// === impl Report ===

impl Report {
    fn new(file: &Arc<str>, unknown: Unknown, prune: bool) -> Self {
        Self {
            file: Arc::clone(file),
            unknown,
            prune,
            misspelt: RefCell::default(),
            problems: RefCell::default(),
            refused: Cell::new(false),
            fields: RefCell::default(),
        }
    }

    fn asked(&self, path: &str, name: &str, how: Asked) {
        if let Some(fields) = &mut *self.fields.borrow_mut() {
            fields.push((path.into(), name.into(), how));
        }
    }

    /// Reports a field that no reader asked for.
    fn unknown(&self, line: u32, field: &str) {
        let at = Location::new(Arc::clone(&self.file), line);
        let problem = match self.unknown {
            Unknown::Refuse => {
                self.refused.set(true);
                Problem::refused(field, "is not a known field")
            }
            Unknown::Warn => Problem::warning(field, "is not a known field and has no effect"),
        };
        let mut misspelt = self.misspelt.borrow_mut();
        if misspelt.len() < PROBLEMS {
            misspelt.push(problem.at(at));
        }
    }

    /// The notes, and all problems in the order in which a person should look at them.
    fn take(&self) -> (Vec<Problem>, Vec<Problem>) {
        let problems = self.problems.take();
        let is_note = |problem: &Problem| problem.severity == Severity::Note;
        let (notes, problems): (Vec<_>, Vec<_>) = problems.into_iter().partition(is_note);
        let all = self.misspelt.take().into_iter().chain(problems);
        (notes, all.take(PROBLEMS).collect())
    }

    fn add(&self, severity: Severity, line: u32, field: &str, message: &dyn fmt::Display) {
        let message = cut(&message.to_string());
        let problem = match severity {
            Severity::Note => Problem::note(field, message),
            Severity::Warning => Problem::warning(field, message),
            _ => {
                self.refused.set(true);
                Problem::refused(field, message)
            }
        };
        let mut problems = self.problems.borrow_mut();
        if problems.len() < PROBLEMS {
            problems.push(problem.at(Location::new(Arc::clone(&self.file), line)));
        }
    }
}

/// A message short enough for a log line.
fn cut(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS) {
        Some((at, _)) => format!("{}...", &message[..at]),
        None => message.into(),
    }
}
