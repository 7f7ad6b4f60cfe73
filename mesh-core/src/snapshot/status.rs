//! What became of each configuration object, for `mesh status`, metrics and logs.

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

use crate::model::SourceId;

/// Where a problem stands: a file and a line, both as a person would open them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Location {
    /// The path of the file, or another name of the place.
    pub file: Arc<str>,
    /// The line, counted from 1; 0 where it is not known.
    pub line: u32,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Severity {
    /// Nothing is wrong; it may be of interest.
    Note,
    /// The object is not applied as written.
    Refused,
    /// The object is applied, but something in it has no effect or dangles.
    Warning,
}

/// One thing that is wrong with one object.
///
/// ```
/// use inmesh_core::snapshot::{Location, Problem};
///
/// let problem = Problem::refused("spec.rules[0].weight", "a weight is at most 1000000");
/// let problem = problem.at(Location::new("routes.yaml", 12));
/// assert!(problem.location.is_some_and(|at| at.to_string() == "routes.yaml:12"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where it stands, where the source knows.
    pub location: Option<Location>,
    /// The field's path, e.g. `spec.rules[0].backendRefs[1].weight`; empty for the object itself.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
    /// The conditions of the object that it makes, as the Gateway API names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A condition of an object of the Gateway API (GEP-1364).
///
/// ```
/// use inmesh_core::snapshot::{Condition, ConditionKind, Problem};
/// let lost = Problem::warning("spec.parentRefs[0]", "Service a.b does not exist")
///     .means(Condition::not(ConditionKind::Accepted, "NoMatchingParent"));
/// assert_eq!(lost.conditions[0].reason, "NoMatchingParent");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Condition {
    /// Which of them.
    #[serde(rename = "type")]
    pub kind: ConditionKind,
    /// Whether it holds.
    pub status: bool,
    /// Why, as one word.
    pub reason: &'static str,
}

/// The kinds of conditions that routes and policies have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[non_exhaustive]
pub enum ConditionKind {
    /// The object has an effect where it is attached.
    Accepted,
    /// A part of it cannot be applied.
    PartiallyInvalid,
    /// What it refers to is there.
    ResolvedRefs,
}

/// What serves of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Serving {
    /// The newest version.
    Current,
    /// An earlier version: the newest one was refused.
    LastGood,
    /// None: no version was ever good. A policy denies what it selects, a route is left out.
    Nothing,
}

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ObjectStatus {
    /// `Kind/namespace/name`.
    pub object: String,
    /// The source that spoke of it.
    #[serde(serialize_with = "display")]
    pub source: SourceId,
    /// What serves of it.
    pub serving: Serving,
    /// What is wrong with it; empty for most.
    pub problems: Vec<Problem>,
}

fn display<S: serde::Serializer>(value: &impl fmt::Display, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(value)
}

// === impl Location ===

impl Location {
    /// A line in a file.
    pub fn new(file: impl Into<Arc<str>>, line: u32) -> Self {
        Self {
            file: file.into(),
            line,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

// === impl Condition ===

impl Condition {
    /// It holds.
    pub const fn holds(kind: ConditionKind, reason: &'static str) -> Self {
        Self {
            kind,
            status: true,
            reason,
        }
    }

    /// It does not hold.
    pub const fn not(kind: ConditionKind, reason: &'static str) -> Self {
        Self {
            kind,
            status: false,
            reason,
        }
    }
}

impl ConditionKind {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::PartiallyInvalid => "PartiallyInvalid",
            Self::ResolvedRefs => "ResolvedRefs",
        }
    }
}

// === impl Problem ===

impl Problem {
    /// A reason to refuse the object.
    pub fn refused(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Refused,
            location: None,
            field: field.into(),
            message: message.into(),
            conditions: Vec::new(),
        }
    }

    /// Something that the operator should know although the object is applied.
    pub fn warning(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::refused(field, message)
        }
    }

    /// Something of interest about an object that is as it should be.
    pub fn note(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            ..Self::refused(field, message)
        }
    }

    /// The same problem, which makes a condition.
    #[must_use]
    pub fn means(mut self, condition: Condition) -> Self {
        self.conditions.push(condition);
        self
    }

    /// The same problem at a place.
    #[must_use]
    pub fn at(mut self, location: Location) -> Self {
        self.location = Some(location);
        self
    }
}

/// `file:line: field: message`, leaving out what is not known.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(location) = &self.location {
            write!(f, "{location}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}
