//! The steps of a decision, as it makes them, for an explanation of how it came about.

use std::fmt;

use super::policy::Policy;
use crate::model::ObjectKey;

/// One step of a decision, for an explanation of how it came about.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Step<'a> {
    /// A policy was looked at.
    Policy {
        /// Which.
        policy: &'a Policy,
        /// The rule that matched, counted from 0; `None` where none did.
        rule: Option<usize>,
    },
    /// A route's rule was looked at.
    Rule {
        /// The route.
        route: &'a ObjectKey,
        /// The rule, counted from 0.
        rule: usize,
        /// Whether it matched.
        matched: bool,
        /// Why it did not.
        missed: Option<Missed<'a>>,
    },
}

/// Why a rule did not match, in words that are made only if they are asked for.
#[derive(Clone, Copy)]
pub struct Missed<'a>(pub &'a dyn fmt::Display);

/// Observes the steps of a decision; `()` ignores them at no cost.
pub trait Trace {
    /// Whether it looks at any step. Where it does not, the reasons of a step need not be found.
    const WATCHES: bool = true;

    /// A step was made.
    fn saw(&mut self, step: Step<'_>);
}

// === impl Missed ===

impl fmt::Debug for Missed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_fmt(format_args!("{:?}", self.0.to_string()))
    }
}

// === impl Trace ===

impl Trace for () {
    const WATCHES: bool = false;

    fn saw(&mut self, _: Step<'_>) {}
}
