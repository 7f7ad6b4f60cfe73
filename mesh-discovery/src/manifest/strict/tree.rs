//! Text in, a tree of YAML values with their lines out, built from parser events.
//!
//! Events and not serde, since serde forgets lines, duplicate keys and the difference between
//! absent, null and empty. Everything is bounded: depth, documents, and the nodes counted after
//! aliases are expanded. Merge keys (`<<`), the tags of scalars and keys without quotes (`on` is `true`) are
//! read as `kubectl` reads them. It refuses duplicate keys, other tags and keys that are no scalars.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

#[cfg(feature = "kubernetes")]
use serde_json::Value as Json;
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Tag};

use super::scalar::{self, Scalar};

/// The largest file, in bytes.
pub const FILE_BYTES: usize = 1 << 20;
/// The deepest nesting.
const DEPTH: usize = 64;
/// The most documents in a file.
const DOCUMENTS: usize = 1_000;
/// The key whose value's fields are the mapping's own.
const MERGE: &str = "<<";
/// The tags of scalars.
const SCALARS: &[&str] = &["str", "int", "float", "bool", "null"];
/// The most values in a file, aliases expanded.
const NODES: usize = 200_000;

/// A value and the line on which it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: u32,
    pub(super) data: Data,
    /// How many values it holds, itself and what aliases stand for included.
    size: usize,
    /// How many levels it is deep.
    height: usize,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    List(Arc<[Node]>),
    Map(Arc<[(Arc<str>, Node)]>),
    Null,
    /// A scalar without quotes: a text, a number or a boolean, as its reader wants.
    Plain(Arc<str>),
    /// A scalar that can only be a text.
    Text(Arc<str>),
}

/// Why a text is not a tree: a line, counted from 1, and the reason.
pub(super) type Fault = (u32, String);

/// A list or mapping that is not at its end yet.
struct Open {
    line: u32,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<(Arc<str>, Node)>,
        seen: HashSet<Arc<str>>,
        /// What merge keys name, with their lines.
        merged: Vec<(u32, Node)>,
        key: Option<(Key, u32)>,
    },
}

enum Key {
    Field(Arc<str>),
    Merge,
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    documents: Vec<Node>,
}

/// Reads every document of a text; empty ones (`---` with nothing behind it) are left out.
pub(super) fn documents(text: &str) -> Result<Vec<Node>, Fault> {
    if text.len() > FILE_BYTES {
        return Err((1, format!("the file is larger than {FILE_BYTES} bytes")));
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH;
    options.block_nesting_limit = DEPTH;
    let mut builder = Builder::default();
    for (above, text) in in_a_row(text.strip_prefix('\u{feff}').unwrap_or(text)) {
        for next in Parser::new_from_str_with_options(text, options.clone()) {
            let (event, span) = next.map_err(|e| (line(above + e.marker().line()), e.info()))?;
            builder.handle_event(event, line(above + span.start.line()))?;
        }
    }
    Ok(builder.documents)
}

/// The pieces of a text, with the lines above each: JSON documents that follow each other without a
/// mark between, as `kubectl` takes them, and what stands between the marks (`---`) around them. A text
/// without such documents is one piece.
fn in_a_row(text: &str) -> Vec<(usize, &str)> {
    let (mut found, mut above, mut any) = (Vec::new(), 0, false);
    let mut rest = text;
    while !rest.is_empty() {
        let (part, next) = rest.split_at(next_mark(rest));
        rest = next;
        let row = json_row(part);
        any |= row.len() > 1;
        for piece in row {
            found.push((above, piece));
            above += piece.bytes().filter(|b| *b == b'\n').count();
        }
    }
    match any {
        true => found,
        false => vec![(0, text)],
    }
}

/// Where the next mark begins that is not at the start.
fn next_mark(text: &str) -> usize {
    const MARK: &str = "\n---";
    let mut marks = text.match_indices(MARK).map(|(at, _)| at + 1);
    let ends = |at: &usize| {
        let after = text[at + MARK.len() - 1..].chars().next();
        after.is_none_or(char::is_whitespace)
    };
    marks.find(ends).unwrap_or(text.len())
}

/// The JSON objects that all of a text between two marks consists of, the first with the mark before
/// it; else the text as it is.
fn json_row(part: &str) -> Vec<&str> {
    let mark = match part.strip_prefix("---") {
        Some(after) => {
            // A comment may stand behind it.
            let first = after.split_inclusive('\n').next().unwrap_or_default();
            let comment = first.trim_start().starts_with('#');
            "---".len() + if comment { first.len() } else { 0 }
        }
        None => 0,
    };
    let (mut row, mut start, mut end) = (Vec::new(), 0, mark);
    while let Some(len) = json_object(&part[end..]) {
        end += len;
        row.push(&part[start..end]);
        start = end;
    }
    match part[end..].trim().is_empty() && row.len() > 1 {
        true => {
            if start < part.len() {
                row.push(&part[start..]);
            }
            row
        }
        false => vec![part],
    }
}

/// The length of the JSON object that a text begins with, space before it included.
fn json_object(text: &str) -> Option<usize> {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            b' ' | b'\t' | b'\r' | b'\n' => {}
            // YAML begins otherwise, or has marks that JSON has not.
            b'#' | b'\'' => return None,
            _ if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

/// A value of JSON as a tree, within the same bounds; all of it is on the first line.
#[cfg(feature = "kubernetes")]
pub(super) fn of_json(value: &Json) -> Result<Node, Fault> {
    let mut left = NODES;
    json_node(value, DEPTH, &mut left)
}

#[cfg(feature = "kubernetes")]
fn json_node(value: &Json, depth: usize, left: &mut usize) -> Result<Node, Fault> {
    let fault = |message: String| Err((1, message));
    let Some(depth) = depth.checked_sub(1) else {
        return fault(format!("it is nested deeper than {DEPTH} levels"));
    };
    *left = match left.checked_sub(1) {
        Some(left) => left,
        None => return fault(format!("it holds more than {NODES} values")),
    };
    let data = match value {
        Json::Null => Data::Null,
        Json::Bool(boolean) => Data::Plain(if *boolean { "true" } else { "false" }.into()),
        Json::Number(number) => Data::Plain(number.to_string().into()),
        Json::String(text) => Data::Text(text.as_str().into()),
        Json::Array(items) => {
            let items = items.iter().map(|item| json_node(item, depth, left));
            Data::List(items.collect::<Result<Vec<_>, _>>()?.into())
        }
        Json::Object(fields) => {
            let field = |(name, value): (&String, &Json)| {
                Ok((name.as_str().into(), json_node(value, depth, left)?))
            };
            let fields: Result<Vec<_>, Fault> = fields.iter().map(field).collect();
            Data::Map(fields?.into())
        }
    };
    Ok(Node::new(1, data))
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

// === impl Builder ===

impl Builder {
    fn handle_event(&mut self, event: Event<'_>, line: u32) -> Result<(), Fault> {
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let forced = tagged(tag.as_deref(), SCALARS, line)?;
                let plain = match forced {
                    None => style == ScalarStyle::Plain,
                    Some(tag) => tag != "str",
                };
                if self.wants_key() {
                    let merge = plain && &*text == MERGE;
                    let name = match plain {
                        true => plain_key(&text, line)?,
                        false => (&*text).into(),
                    };
                    return self.key(&name, merge, line);
                }
                let data = match &*text {
                    text if plain && Scalar::of(text) == Scalar::Null => Data::Null,
                    text if plain => Data::Plain(text.into()),
                    text => Data::Text(text.into()),
                };
                self.value(Node::new(line, data), anchor)?;
            }
            Event::SequenceStart(_, anchor, tag) => {
                let _list = tagged(tag.as_deref(), &["seq"], line)?;
                self.start(line, anchor, OpenKind::List(Vec::new()))?;
            }
            Event::MappingStart(_, anchor, tag) => {
                let _mapping = tagged(tag.as_deref(), &["map"], line)?;
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    merged: Vec::new(),
                    key: None,
                };
                self.start(line, anchor, kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Err((line, "a list or mapping ends that never began".into()));
                };
                let data = match open.kind {
                    OpenKind::List(items) => Data::List(items.into()),
                    OpenKind::Map {
                        mut entries,
                        mut seen,
                        merged,
                        ..
                    } => {
                        for (line, node) in merged {
                            self.nodes = self.nodes.saturating_add(node.size);
                            merge(line, &node, &mut entries, &mut seen)?;
                        }
                        Data::Map(entries.into())
                    }
                };
                self.value(Node::new(open.line, data), open.anchor)?;
            }
            Event::Alias(anchor) => {
                if self.wants_key() {
                    return Err((line, "an alias cannot be a key".into()));
                }
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err((line, "the alias stands inside what it stands for".into()));
                };
                let node = Node {
                    line,
                    ..node.clone()
                };
                self.nodes = self.nodes.saturating_add(node.size - 1);
                self.value(node, 0)?;
            }
            // Stream and document marks; comments are switched off.
            _ => {}
        }
        Ok(())
    }

    fn wants_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Open {
                kind: OpenKind::Map { key: None, .. },
                ..
            })
        )
    }

    fn key(&mut self, text: &str, merge: bool, line: u32) -> Result<(), Fault> {
        if let Some(Open {
            kind: OpenKind::Map { seen, key, .. },
            ..
        }) = self.open.last_mut()
        {
            let text: Arc<str> = text.into();
            if !seen.insert(Arc::clone(&text)) {
                return Err((
                    line,
                    format!("the field {text:?} stands twice in one mapping"),
                ));
            }
            *key = Some(match merge {
                true => (Key::Merge, line),
                false => (Key::Field(text), line),
            });
        }
        Ok(())
    }

    fn start(&mut self, line: u32, anchor: usize, kind: OpenKind) -> Result<(), Fault> {
        if self.wants_key() {
            return Err((line, "a key must be a text".into()));
        }
        self.open.push(Open { line, anchor, kind });
        Ok(())
    }

    fn value(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        let line = node.line;
        self.nodes = self.nodes.saturating_add(1);
        if self.nodes > NODES {
            return Err((line, format!("the file holds more than {NODES} values")));
        }
        if self.open.len() + node.height > DEPTH {
            return Err((line, format!("it is nested deeper than {DEPTH} levels")));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.kind) {
            Some(OpenKind::List(items)) => items.push(node),
            // A value follows its key; `wants_key` is asked before every value.
            Some(OpenKind::Map {
                entries,
                key,
                merged,
                ..
            }) => match key.take() {
                // A person looks for a field where its name stands.
                Some((Key::Field(key), line)) => entries.push((key, Node { line, ..node })),
                Some((Key::Merge, line)) => merged.push((line, node)),
                None => {}
            },
            None if matches!(node.data, Data::Null) => {}
            None if self.documents.len() == DOCUMENTS => {
                return Err((
                    line,
                    format!("the file holds more than {DOCUMENTS} documents"),
                ));
            }
            None => self.documents.push(node),
        }
        Ok(())
    }
}

/// The name that a key without quotes has.
fn plain_key(text: &str, line: u32) -> Result<Cow<'_, str>, Fault> {
    let message = || format!("write the key {text:?} in quotes: it is no text");
    scalar::key(text).ok_or_else(|| (line, message()))
}

/// Adds the fields of what a merge key names, a mapping or a list of them. A field that is there
/// already stays.
fn merge(
    line: u32,
    of: &Node,
    entries: &mut Vec<(Arc<str>, Node)>,
    seen: &mut HashSet<Arc<str>>,
) -> Result<(), Fault> {
    let one: &[Node] = match &of.data {
        Data::Map(_) => std::slice::from_ref(of),
        Data::List(list) => list,
        _ => &[],
    };
    if one.is_empty() || one.iter().any(|node| !matches!(node.data, Data::Map(_))) {
        return Err((
            line,
            format!("{MERGE} names a mapping or a list of mappings"),
        ));
    }
    for node in one {
        if let Data::Map(fields) = &node.data {
            for (key, value) in fields.iter() {
                if seen.insert(Arc::clone(key)) {
                    entries.push((Arc::clone(key), value.clone()));
                }
            }
        }
    }
    Ok(())
}

/// The tag, where it is one of `core`; none is fine too, any other is refused.
fn tagged<'c>(tag: Option<&Tag>, core: &[&'c str], line: u32) -> Result<Option<&'c str>, Fault> {
    let Some(tag) = tag else { return Ok(None) };
    let suffix = tag.core_suffix();
    match core.iter().find(|core| suffix == Some(**core)) {
        Some(core) => Ok(Some(core)),
        None => Err((line, format!("the tag {} is not read", tag.original()))),
    }
}

// === impl Node ===

impl Node {
    fn new(line: u32, data: Data) -> Self {
        let (size, height) = match &data {
            Data::List(items) => measure(items.iter()),
            Data::Map(entries) => measure(entries.iter().map(|(_, node)| node)),
            Data::Null | Data::Plain(_) | Data::Text(_) => (1, 0),
        };
        Self {
            line,
            data,
            size,
            height,
        }
    }

    /// The value of a field, where this is a mapping that has it.
    pub(super) fn field(&self, name: &str) -> Option<&Self> {
        match &self.data {
            Data::Map(entries) => entries
                .iter()
                .find(|(key, _)| **key == *name)
                .map(|(_, n)| n),
            _ => None,
        }
    }

    /// The line of what a path names (`a.b[1].c`, `labels[a.b]`), or of the last part of it that is
    /// there.
    pub(super) fn line_of(&self, path: &str) -> u32 {
        let (mut node, mut rest) = (self, path);
        while !rest.is_empty() {
            let next = match rest.strip_prefix('[') {
                Some(inner) => {
                    let (key, after) = inner.split_once(']').unwrap_or((inner, ""));
                    rest = after;
                    match &node.data {
                        Data::List(items) => key.parse().ok().and_then(|n: usize| items.get(n)),
                        _ => node.field(key),
                    }
                }
                None => {
                    let field = rest.trim_start_matches('.');
                    let end = field.find(['.', '[']).unwrap_or(field.len());
                    rest = &field[end..];
                    node.field(&field[..end])
                }
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node.line
    }

    /// Its text, where it is one.
    pub(super) fn text(&self) -> Option<&str> {
        match &self.data {
            Data::Text(text) => Some(text),
            Data::Plain(text) if Scalar::of(text) == Scalar::Text => Some(text),
            _ => None,
        }
    }
}

fn measure<'n>(nodes: impl Iterator<Item = &'n Node>) -> (usize, usize) {
    nodes.fold((1, 1), |(size, height), node| {
        (size.saturating_add(node.size), height.max(node.height + 1))
    })
}
