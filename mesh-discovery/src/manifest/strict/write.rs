//! A tree as text again, for those that it is handed on to. Reading that text gives the same values.
//!
//! It is JSON, but for numbers that only YAML has (`0x1f`), which are written as they were. What an API
//! server keeps for itself is left out.

use std::fmt::Write;
use std::sync::Arc;

use inmesh_core::model::Namespace;
use serde_json::Value as Json;

use super::Document;
use super::scalar::Scalar;
use super::tree::{Data, Node};
use crate::layout::{PREVIOUS, STAGE};

/// Fields of an object that are an API server's own.
const OF_SERVER: &[&str] = &["apiVersion", "kind", "metadata", "status"];
/// Those of its `metadata`. `namespace` is written first.
const OF_METADATA: &[&str] = &[
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
/// Annotations that say nothing of the object itself: that in which kubectl keeps the whole document again, and
/// what is staged in its place, of which those that have the object as it is are to see no change.
const LEFT_OUT: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    STAGE,
    PREVIOUS,
];

impl Document {
    /// Its text, as an object of a namespace; `None` where it is no mapping.
    pub(in crate::manifest) fn text_in(&self, namespace: &Namespace) -> Option<String> {
        let Data::Map(fields) = &self.root.data else {
            return None;
        };
        let (version, kind) = (self.api_version()?, self.kind()?);
        let mut out = String::new();
        out.push_str("{\"apiVersion\":");
        text(version, &mut out);
        out.push_str(",\"kind\":");
        text(kind, &mut out);
        out.push_str(",\"metadata\":{\"namespace\":");
        text(namespace.as_str(), &mut out);
        if let Some(Data::Map(metadata)) = self.root.field("metadata").map(|node| &node.data) {
            for (name, node) in &**metadata {
                if OF_METADATA.contains(&&**name) {
                    continue;
                }
                let is_kept = |(name, _): &&(Arc<str>, Node)| !LEFT_OUT.contains(&&**name);
                match &node.data {
                    Data::Map(all) if **name == *"annotations" => {
                        // Where none is left it is as if there had never been one.
                        if all.iter().any(|one| is_kept(&one)) {
                            out.push_str(",\"annotations\":");
                            map(all.iter().filter(is_kept), &mut out);
                        }
                    }
                    _ => {
                        out.push(',');
                        field(name, &mut out);
                        write_node(node, &mut out);
                    }
                }
            }
        }
        out.push('}');
        for (name, node) in fields
            .iter()
            .filter(|(name, _)| !OF_SERVER.contains(&&**name))
        {
            out.push(',');
            field(name, &mut out);
            write_node(node, &mut out);
        }
        out.push('}');
        Some(out)
    }
}

fn write_node(node: &Node, out: &mut String) {
    match &node.data {
        Data::List(items) => {
            out.push('[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push(',');
                }
                write_node(item, out);
            }
            out.push(']');
        }
        Data::Map(fields) => map(fields.iter(), out),
        Data::Null => out.push_str("null"),
        Data::Plain(plain) if Scalar::of(plain) == Scalar::Text => text(plain, out),
        Data::Plain(plain) => out.push_str(plain),
        Data::Text(quoted) => text(quoted, out),
    }
}

fn map<'n>(fields: impl Iterator<Item = &'n (Arc<str>, Node)>, out: &mut String) {
    out.push('{');
    for (nth, (name, node)) in fields.enumerate() {
        if nth > 0 {
            out.push(',');
        }
        field(name, out);
        write_node(node, out);
    }
    out.push('}');
}

fn field(name: &str, out: &mut String) {
    text(name, out);
    out.push(':');
}

/// A text in quotes. All characters that YAML does not take as they are escaped.
fn text(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            c => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ok = write!(out, "\\u{unit:04x}");
                }
            }
        }
    }
    out.push('"');
}

impl Document {
    /// What it says, as an API server has it; a number that JSON has no form for is null.
    #[must_use]
    pub fn to_value(&self) -> Json {
        value_of(&self.root)
    }
}

fn value_of(node: &Node) -> Json {
    match &node.data {
        Data::List(items) => items.iter().map(value_of).collect(),
        Data::Map(fields) => {
            let fields = fields
                .iter()
                .map(|(name, node)| (name.to_string(), value_of(node)));
            Json::Object(fields.collect())
        }
        Data::Null => Json::Null,
        Data::Text(text) => Json::from(&**text),
        Data::Plain(plain) => match Scalar::of(plain) {
            Scalar::Boolean(boolean) => boolean.into(),
            Scalar::Float(float) => float.into(),
            Scalar::Integer(integer) => integer.into(),
            Scalar::Null => Json::Null,
            Scalar::Text => Json::from(&**plain),
        },
    }
}
