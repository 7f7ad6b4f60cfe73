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

mod tree;
mod value;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

use inmesh_core::snapshot::{Location, Problem, Severity};

pub use tree::FILE_BYTES;
use tree::Node;
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
    /// Where it fails; line 0 where the file as a whole does.
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
    /// Where it stands in a `List`; empty for most.
    path: String,
    root: Node,
}

/// What a document says, and what its author should know about it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Read<T> {
    /// What it says.
    pub value: T,
    /// Problems that did not refuse it.
    pub warnings: Vec<Problem>,
}

/// Collects the problems of one document.
#[derive(Debug)]
struct Report {
    file: Arc<str>,
    unknown: Unknown,
    problems: RefCell<Vec<Problem>>,
    refused: Cell<bool>,
}

/// Reads the documents of a file. `file` is its name in problems. Documents without content
/// (between two `---`) are left out.
///
/// # Errors
///
/// [`FileError`] if the text is not YAML, holds no document, is larger than 1 MiB, nested deeper
/// than 64 levels, has more than 1,000 documents or 200,000 values (aliases expanded), a key
/// twice in one mapping, a merge key, a tag, or a key that is not a text.
pub fn documents(file: &str, text: &str) -> Result<Vec<Document>, FileError> {
    let file: Arc<str> = file.into();
    let fail = |(line, message): (u32, String)| FileError::new(&file, line, cut(&message));
    let roots = tree::documents(text).map_err(fail)?;
    if roots.is_empty() {
        return Err(FileError::new(&file, 0, "the file holds no document"));
    }
    let document = |root| Document {
        file: Arc::clone(&file),
        path: String::new(),
        root,
    };
    Ok(roots.into_iter().map(document).collect())
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

    /// The file it stands in, as given to [`documents`].
    #[must_use]
    pub fn file(&self) -> &Arc<str> {
        &self.file
    }

    /// Where it stands in a `List`, e.g. `items[2]`; empty for most.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its `kind`, where that is a text.
    #[must_use]
    pub fn kind(&self) -> Option<&str> {
        self.text("kind")
    }

    /// Its `apiVersion`, where that is a text.
    #[must_use]
    pub fn api_version(&self) -> Option<&str> {
        self.text("apiVersion")
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
        let report = Report {
            file: Arc::clone(&self.file),
            unknown,
            problems: RefCell::default(),
            refused: Cell::new(false),
        };
        let value = self.value(&report).object(|fields| {
            fields.ignore(&["apiVersion", "kind"]);
            read(fields)
        });
        match value {
            Some(value) if !report.refused.get() => Ok(Read {
                value,
                warnings: report.problems.into_inner(),
            }),
            _ => {
                if !report.refused.get() {
                    self.value(&report).refuse("it cannot be read");
                }
                Err(report.problems.into_inner())
            }
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

    /// The documents of a `List`, where `items` is one.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let tree::Data::List(items) = &self.root.field("items")?.data else {
            return None;
        };
        let document = |(n, root): (usize, &Node)| Self {
            file: Arc::clone(&self.file),
            path: value::index(&value::member(&self.path, "items"), n),
            root: root.clone(),
        };
        Some(items.iter().enumerate().map(document).collect())
    }

    fn value<'t>(&'t self, report: &'t Report) -> Value<'t> {
        Value::new(&self.root, self.path.clone(), report)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.root.field(name)?.text()
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
    fn add(&self, severity: Severity, line: u32, field: &str, message: &dyn fmt::Display) {
        let message = cut(&message.to_string());
        let problem = match severity {
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
