//! Values and fields of a document, as the reader of a kind sees them.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use inmesh_core::snapshot::Severity;

use super::scalar::Scalar;
use super::tree::{Data, Node};
use super::{Asked, Report};

/// The longest key shown in a path, in characters.
const KEY_CHARS: usize = 64;

/// A value of a document: what it is, and where it stands.
///
/// The methods that read it return `None` after they reported why it cannot be read; the document
/// is refused then, whatever is returned in the end.
#[derive(Debug, Clone)]
pub struct Value<'t> {
    node: &'t Node,
    path: String,
    report: &'t Report,
}

/// The fields of a mapping. Those that were neither asked for nor ignored when its reader returns
/// are unknown.
#[derive(Debug)]
pub struct Fields<'t> {
    value: Value<'t>,
    taken: Vec<bool>,
}

/// What an API server takes for a field that has no effect here. It decodes an object as a whole, and
/// refuses it for one value of another type.
#[derive(Debug, Clone, Copy)]
pub(in crate::manifest) enum Shape {
    Boolean,
    Integer,
    IntegerOrText,
    List,
    Map,
    Text,
    /// A mapping whose values are texts.
    TextMap,
    /// A list of texts.
    Texts,
}

// === impl Value ===

impl<'t> Value<'t> {
    pub(super) fn new(node: &'t Node, path: String, report: &'t Report) -> Self {
        Self { node, path, report }
    }

    /// Where it stands: `spec.rules[0].backendRefs[1].weight`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line on which it begins.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.node.line
    }

    /// Reports it as a reason to refuse the document.
    pub fn refuse(&self, message: impl Display) {
        self.report
            .add(Severity::Refused, self.node.line, &self.path, &message);
    }

    /// Reports something that the author should know although the document is applied.
    pub fn warn(&self, message: impl Display) {
        self.report
            .add(Severity::Warning, self.node.line, &self.path, &message);
    }

    /// Reports something that a person may want to know of a document that is as it should be.
    pub fn note(&self, message: impl Display) {
        self.report
            .add(Severity::Note, self.node.line, &self.path, &message);
    }

    /// What a check made of it; its error refuses the document.
    pub fn check<T>(&self, checked: Result<T, impl Display>) -> Option<T> {
        checked.map_err(|e| self.refuse(e)).ok()
    }

    /// A text. A number, a boolean or `yes` without quotes is not a text, as for an API server.
    #[must_use]
    pub fn text(&self) -> Option<&'t str> {
        let text = self.node.text();
        if text.is_none() {
            match &self.node.data {
                Data::Plain(plain) => {
                    self.refuse(format_args!("is not a text; write it in quotes: {plain:?}"));
                }
                _ => self.refuse(format_args!("is {}, not a text", self.what())),
            }
        }
        text
    }

    /// A text that is one of `choices`.
    #[must_use]
    pub fn choice(&self, choices: &[&'static str]) -> Option<&'static str> {
        let text = self.text()?;
        let found = choices.iter().find(|choice| **choice == text).copied();
        if found.is_none() {
            self.refuse(format_args!(
                "{text:?} is not one of {}",
                choices.join(", ")
            ));
        }
        found
    }

    /// A text that parses as `T`.
    #[must_use]
    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.check(self.text()?.parse())
    }

    /// `true` or `false`, in every spelling that YAML 1.1 has for them.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        match self.scalar() {
            Some(Scalar::Boolean(boolean)) => Some(boolean),
            _ => {
                self.refuse(format_args!("is {}, not true or false", self.what()));
                None
            }
        }
    }

    fn scalar(&self) -> Option<Scalar> {
        match &self.node.data {
            Data::Plain(plain) => Some(Scalar::of(plain)),
            _ => None,
        }
    }

    /// A whole number that `T` can hold, in every spelling that YAML 1.1 has for it: `0x1f`, `1_000`
    /// and `017` (octal) too.
    #[must_use]
    pub fn integer<T: TryFrom<i64>>(&self) -> Option<T> {
        let number = self.scalar().and_then(Scalar::whole);
        let Some(number) = number else {
            self.refuse(format_args!("is {}, not a whole number", self.what()));
            return None;
        };
        let fits = T::try_from(number).ok();
        if fits.is_none() {
            self.refuse(format_args!("{number} is out of range"));
        }
        fits
    }

    /// A whole number within bounds, both included.
    #[must_use]
    pub fn integer_in<T: TryFrom<i64>>(&self, least: i64, most: i64) -> Option<T> {
        let number: i64 = self.integer()?;
        if !(least..=most).contains(&number) {
            self.refuse(format_args!("{number} is not within {least} and {most}"));
            return None;
        }
        self.integer()
    }

    /// A number, whole or with a fraction.
    #[must_use]
    pub fn number(&self) -> Option<f64> {
        match self.scalar() {
            #[expect(
                clippy::cast_precision_loss,
                reason = "a document's number of this kind is small"
            )]
            Some(Scalar::Integer(integer)) => Some(integer as f64),
            Some(Scalar::Float(float)) if float.is_finite() => Some(float),
            _ => {
                self.refuse(format_args!("is {}, not a number", self.what()));
                None
            }
        }
    }

    /// The items of a list with at least one; an empty list is refused, since it may mean all or
    /// nothing.
    #[must_use]
    pub fn list(&self) -> Option<Vec<Self>> {
        let items = self.list_or_empty()?;
        if items.is_empty() {
            self.refuse("is an empty list, which may mean all or nothing; name what is meant");
            return None;
        }
        Some(items)
    }

    /// The same for a list of at most `most` items.
    #[must_use]
    pub fn list_of(&self, most: usize) -> Option<Vec<Self>> {
        self.within(most, self.list()?)
    }

    /// The items of a list of at most `most`, which may be empty.
    #[must_use]
    pub fn list_of_or_empty(&self, most: usize) -> Option<Vec<Self>> {
        self.within(most, self.list_or_empty()?)
    }

    fn within(&self, most: usize, items: Vec<Self>) -> Option<Vec<Self>> {
        if items.len() > most {
            let len = items.len();
            self.refuse(format_args!("has {len} items; {most} are allowed"));
            return None;
        }
        Some(items)
    }

    /// The items of a list, which may be empty.
    #[must_use]
    pub fn list_or_empty(&self) -> Option<Vec<Self>> {
        let Data::List(items) = &self.node.data else {
            self.refuse(format_args!("is {}, not a list", self.what()));
            return None;
        };
        let item = |(n, node)| Self::new(node, index(&self.path, n), self.report);
        Some(items.iter().enumerate().map(item).collect())
    }

    /// How many items it has; `None` where it is no list.
    pub(in crate::manifest) fn len(&self) -> Option<usize> {
        match &self.node.data {
            Data::List(items) => Some(items.len()),
            _ => None,
        }
    }

    /// The entries of a mapping whose keys are data, such as labels.
    #[must_use]
    pub fn entries(&self) -> Option<Vec<(&'t str, Self)>> {
        let Data::Map(entries) = &self.node.data else {
            self.refuse(format_args!("is {}, not a mapping", self.what()));
            return None;
        };
        let entry = |(key, node): &'t (Arc<str>, Node)| {
            (
                &**key,
                Self::new(node, entry_path(&self.path, key), self.report),
            )
        };
        Some(entries.iter().map(entry).collect())
    }

    /// The entries of a mapping whose keys are data and whose values are texts; null is as good as
    /// absent.
    pub(in crate::manifest) fn texts(&self) -> Option<Vec<(&'t str, Self)>> {
        let mut entries = self.entries()?;
        entries.retain(|(_, value)| !value.is_null());
        // All are looked at, for their problems.
        let texts = entries.iter().filter(|(_, value)| value.text().is_some());
        (texts.count() == entries.len()).then_some(entries)
    }

    /// Refuses what an API server would not decode as this.
    fn check_shape(&self, shape: Shape) {
        let _reported = match shape {
            Shape::Boolean => self.boolean().map(drop),
            Shape::Integer => self.integer::<i64>().map(drop),
            Shape::IntegerOrText if self.node.text().is_some() => Some(()),
            Shape::IntegerOrText => self.integer::<i64>().map(drop),
            Shape::List => self.list_or_empty().map(drop),
            Shape::Map => self.entries().map(drop),
            Shape::Text => self.text().map(drop),
            Shape::TextMap => self.texts().map(drop),
            Shape::Texts => self.list_or_empty().map(|items| {
                for item in items.iter().filter(|item| !item.is_null()) {
                    let _reported = item.text();
                }
            }),
        };
    }

    /// Reads a mapping with known fields. Those that `read` did not ask for are reported as unknown,
    /// so it asks for all of them before it gives up. Where `read` returns `None` and reported no problem,
    /// this reports one: a part that its reader leaves out never vanishes from a document that is applied.
    pub fn object<T>(&self, read: impl FnOnce(&mut Fields<'t>) -> Option<T>) -> Option<T> {
        let Data::Map(entries) = &self.node.data else {
            self.refuse(format_args!("is {}, not a mapping", self.what()));
            return None;
        };
        let mut fields = Fields {
            value: self.clone(),
            taken: vec![false; entries.len()],
        };
        let value = read(&mut fields);
        fields.report_unknown();
        if value.is_none() && !self.report.refused.get() {
            self.refuse("says nothing that can be applied");
        }
        value
    }

    /// Whether it is null.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.node.data, Data::Null)
    }

    fn what(&self) -> &'static str {
        match &self.node.data {
            Data::List(_) => "a list",
            Data::Map(_) => "a mapping",
            Data::Null => "null",
            Data::Plain(plain) if Scalar::of(plain) != Scalar::Text => "a number or boolean",
            Data::Plain(_) | Data::Text(_) => "a text",
        }
    }
}

// === impl Fields ===

impl<'t> Fields<'t> {
    /// The mapping itself, to report something about it as a whole.
    #[must_use]
    pub fn whole(&self) -> &Value<'t> {
        &self.value
    }

    /// A field that may be absent. In a Kubernetes object null is absent, as an API server prunes
    /// it; elsewhere it is refused, since it may mean absent or empty.
    pub fn get(&mut self, name: &str) -> Option<Value<'t>> {
        let value = self.take(name, Asked::Read)?;
        if value.is_null() && self.value.report.prune {
            return None;
        }
        if value.is_null() {
            value.refuse("is null, which may mean absent or empty; write what is meant");
            return None;
        }
        Some(value)
    }

    /// A field that may be absent or null, which mean the same.
    pub fn nullable(&mut self, name: &str) -> Option<Value<'t>> {
        self.take(name, Asked::Read)
            .filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub fn need(&mut self, name: &str) -> Option<Value<'t>> {
        let value = self.get(name);
        if !self.has(name) {
            self.missing(name, "is missing");
        }
        value
    }

    /// Whether it has no field at all, but such as are null where that is as good as absent.
    pub(in crate::manifest) fn is_empty(&self) -> bool {
        match &self.value.node.data {
            Data::Map(entries) => entries.iter().all(|(name, _)| !self.has(name)),
            _ => true,
        }
    }

    /// Whether the field is there; null is, where it is not as good as absent.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let field = self.value.node.field(name);
        field.is_some_and(|node| !(self.value.report.prune && matches!(node.data, Data::Null)))
    }

    /// Refuses the document for a field that is not there.
    pub fn missing(&self, name: &str, message: impl Display) {
        let (line, path) = (self.value.node.line, member(&self.value.path, name));
        self.value
            .report
            .add(Severity::Refused, line, &path, &message);
    }

    /// Fields that are known and of no meaning here, whatever they hold.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            let _known = self.take(name, Asked::Ignored);
        }
    }

    /// Fields that are known and of no meaning here, if they are of the type that they have there.
    pub(in crate::manifest) fn ignore_typed(&mut self, known: &[(&str, Shape)]) {
        for (name, shape) in known {
            let value = self.take(name, Asked::Ignored);
            if let Some(value) = value.filter(|value| !value.is_null()) {
                value.check_shape(*shape);
            }
        }
    }

    /// Takes every field as known, for a reader that looks at a part only.
    pub(in crate::manifest) fn ignore_all(&mut self) {
        self.taken.fill(true);
    }

    /// Refuses fields that are valid where the kind comes from and not evaluated here.
    pub fn refuse_all(&mut self, names: &[&str], why: &str) {
        for name in names {
            let value = self.take(name, Asked::Refused);
            let value = value.filter(|value| !(self.value.report.prune && value.is_null()));
            if let Some(value) = value {
                value.refuse(why);
            }
        }
    }

    /// Refuses a list of what is not evaluated here, unless it is empty.
    pub(in crate::manifest) fn refuse_items(&mut self, name: &str, why: &str) {
        let list = self.take(name, Asked::Refused);
        if let Some(list) = list
            && !(self.value.report.prune && list.is_null())
            && list.list_or_empty().is_none_or(|items| !items.is_empty())
        {
            list.refuse(why);
        }
    }

    fn take(&mut self, name: &str, how: Asked) -> Option<Value<'t>> {
        self.value.report.asked(&self.value.path, name, how);
        let (n, node) = self.position(name)?;
        if let Some(taken) = self.taken.get_mut(n) {
            *taken = true;
        }
        Some(Value::new(
            node,
            member(&self.value.path, name),
            self.value.report,
        ))
    }

    fn position(&self, name: &str) -> Option<(usize, &'t Node)> {
        let Data::Map(entries) = &self.value.node.data else {
            return None;
        };
        let found = entries
            .iter()
            .enumerate()
            .find(|(_, (key, _))| **key == *name);
        found.map(|(n, (_, node))| (n, node))
    }

    fn report_unknown(&self) {
        let Data::Map(entries) = &self.value.node.data else {
            return;
        };
        for ((key, node), _) in entries
            .iter()
            .zip(&self.taken)
            .filter(|(_, taken)| !**taken)
        {
            let report = self.value.report;
            report.unknown(node.line, &member(&self.value.path, key));
        }
    }
}

/// The path of a field.
pub(super) fn member(path: &str, name: &str) -> String {
    let name = short(name);
    if path.is_empty() {
        name
    } else {
        format!("{path}.{name}")
    }
}

/// The path of an item.
pub(super) fn index(path: &str, n: usize) -> String {
    format!("{path}[{n}]")
}

fn entry_path(path: &str, key: &str) -> String {
    format!("{path}[{}]", short(key))
}

fn short(key: &str) -> String {
    key.chars().take(KEY_CHARS).collect()
}
