//! A Rust file as the compiler's grammar reads it, so that comments and strings cannot fool a rule.
//!
//! [`Source::parse`] lexes the text once. Its flat tokens serve rules about words and calls, inside
//! macros too; syn's tree tells what stands under `#[cfg(test)]`, what is imported and how long a
//! function is. It does not expand macros and knows no types.

use std::ops::Range;

use proc_macro2::{Delimiter, Span, TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Meta, Token as T};

use super::violation::Violation;

/// A parsed file: its path from the workspace's root, its tokens and its outline.
pub(super) struct Source<'a> {
    path: &'a str,
    text: &'a str,
    tokens: Vec<Token<'a>>,
    outline: Outline<'a>,
}

/// A word, a literal, a doc comment or one punctuation character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
    /// Where it begins and ends, in bytes; a string's quotes included.
    at: usize,
    end: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A doc comment, with its marks.
    Doc,
    /// One character of punctuation.
    Punct,
    /// A string literal, without its quotes.
    Str,
    /// An identifier, a keyword, a number, a character or a lifetime's name.
    Word,
}

/// A leaf of a `use` tree.
#[derive(Debug)]
pub(super) struct Use<'a> {
    pub(super) line: usize,
    /// Whether it is `pub`, in whatever scope.
    pub(super) public: bool,
    /// `self` and `*` at its end are kept, a new name after `as` is not.
    pub(super) path: Vec<&'a str>,
    at: usize,
}

/// A function with a body.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) line: usize,
    /// From its signature to its closing brace.
    pub(super) lines: usize,
    at: usize,
}

impl<'a> Source<'a> {
    /// # Errors
    ///
    /// If the text is not valid Rust.
    pub(super) fn parse(path: &'a str, text: &'a str) -> Result<Self, Violation> {
        let refuse = |line, e: &dyn std::fmt::Display| {
            let what = format!("does not parse: {e}");
            let why = "every rule reads the code as the compiler does";
            Violation::error(path, line, what, why, "mend it as `cargo check` says")
        };
        let stream: TokenStream = text
            .parse()
            .map_err(|e: proc_macro2::LexError| refuse(e.span().start().line, &e))?;
        let mut tokens = Vec::new();
        flatten(text, stream.clone(), &mut tokens);
        let file: syn::File = syn::parse2(stream).map_err(|e| refuse(e.span().start().line, &e))?;
        let mut walk = Walk {
            text,
            nodes: Vec::new(),
            outline: Outline::default(),
        };
        walk.visit_file(&file);
        let outline = walk.outline;
        Ok(Self {
            path,
            text,
            tokens,
            outline,
        })
    }

    pub(super) fn path(&self) -> &'a str {
        self.path
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    pub(super) fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            self.path
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// Made by `xtask proto`, which no person edits and few read.
    pub(super) fn is_generated(&self) -> bool {
        self.text.starts_with("// @generated ")
    }

    /// Tests, benches and examples may do what libraries may not.
    pub(super) fn is_test_file(&self) -> bool {
        self.name() == "tests.rs"
            || self
                .path
                .split('/')
                .any(|part| ["tests", "benches", "examples", "fuzz"].contains(&part))
    }

    /// Where the `#[cfg(test)] mod name;` of this file live: `folder/name`, without `.rs`.
    pub(super) fn test_only_paths(&self) -> Vec<String> {
        let folder = self.path.strip_suffix(self.name()).unwrap_or("");
        // A module of foo.rs lives in foo/; one of mod.rs, lib.rs or main.rs beside it.
        let folder = match self.name() {
            "mod.rs" | "lib.rs" | "main.rs" => folder.to_owned(),
            name => format!("{folder}{}/", name.trim_end_matches(".rs")),
        };
        let modules = self.outline.modules.iter();
        modules
            .filter(|(at, _)| !self.is_live(*at))
            .map(|(_, name)| format!("{folder}{name}"))
            .collect()
    }

    /// All tokens of the file, tests included.
    pub(super) fn all_tokens(&self) -> &[Token<'a>] {
        &self.tokens
    }

    /// The tokens outside `#[cfg(test)]`.
    pub(super) fn live_tokens(&self) -> Vec<Token<'a>> {
        let live = self.tokens.iter().filter(|token| self.is_live(token.at));
        live.copied().collect()
    }

    /// The imports outside `#[cfg(test)]`.
    pub(super) fn live_uses(&self) -> impl Iterator<Item = &Use<'a>> {
        let uses = self.outline.uses.iter();
        uses.filter(|leaf| self.is_live(leaf.at))
    }

    /// The functions outside `#[cfg(test)]`.
    pub(super) fn live_functions(&self) -> impl Iterator<Item = &Function> {
        let functions = self.outline.functions.iter();
        functions.filter(|function| self.is_live(function.at))
    }

    /// Every path that live code names, with its line: `a::b::c` as it stands, and each leaf of a
    /// `use` tree spelled out.
    pub(super) fn named_paths(&self) -> Vec<(usize, Vec<&'a str>)> {
        let imported = self.live_uses().map(|leaf| {
            let mut path = leaf.path.clone();
            // `use a::{self}` and `use a::*` name `a`.
            if path.len() > 1 && matches!(path.last(), Some(&("self" | "*"))) {
                path.pop();
            }
            (leaf.line, path)
        });
        imported.chain(self.inline_paths()).collect()
    }

    /// The paths that live code names outside its imports.
    pub(super) fn inline_paths(&self) -> Vec<(usize, Vec<&'a str>)> {
        let mut tokens = self.live_tokens();
        tokens.retain(|token| !within(&self.outline.imports, token.at));
        let mut paths = Vec::new();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            if token.kind != Kind::Word {
                continue;
            }
            let mut path = vec![token.text];
            while let Some(next) = tokens.get(at + 2)
                && starts_with(&tokens[at..], &[":", ":"])
                && next.kind == Kind::Word
            {
                path.push(next.text);
                at += 3;
            }
            paths.push((token.line, path));
        }
        paths
    }

    /// What people read, tests included: comments and docs, a stretch each, then string literals.
    pub(super) fn prose(&self) -> Vec<&'a str> {
        let mut end = 0;
        let mut prose = Vec::new();
        for token in self.tokens.iter().filter(|token| token.kind != Kind::Doc) {
            // Between two tokens the lexer finds nothing but comments.
            prose.push(&self.text[end..token.at]);
            end = token.end;
        }
        prose.push(&self.text[end..]);
        let strings = self.tokens.iter().filter(|token| token.kind == Kind::Str);
        prose.extend(strings.map(|token| token.text));
        prose
    }

    fn is_live(&self, at: usize) -> bool {
        !within(&self.outline.tests, at)
    }
}

fn within(ranges: &[Range<usize>], at: usize) -> bool {
    ranges.iter().any(|range| range.contains(&at))
}

/// Whether `tokens` starts with these words and characters.
pub(super) fn starts_with(tokens: &[Token<'_>], pattern: &[&str]) -> bool {
    tokens.len() >= pattern.len()
        && tokens
            .iter()
            .zip(pattern)
            .all(|(token, want)| token.kind != Kind::Str && token.text == *want)
}

/// Whether `tokens` starts with a call of the macro `name`.
pub(super) fn calls_macro(tokens: &[Token<'_>], name: &str) -> bool {
    starts_with(tokens, &[name, "!"])
        && tokens
            .get(2)
            .is_some_and(|open| matches!(open.text, "(" | "[" | "{"))
}

/// Lays the tokens of every group out flat, brackets included.
fn flatten<'a>(text: &'a str, stream: TokenStream, tokens: &mut Vec<Token<'a>>) {
    for tree in stream {
        let token = |kind, span: Span| {
            let Range { start: at, end } = span.byte_range();
            Token {
                kind,
                text: &text[at..end],
                line: span.start().line,
                at,
                end,
            }
        };
        // The lexer makes `#[doc = "..."]` of a doc comment, each part with the whole's span.
        let whole = &text[tree.span().byte_range()];
        if whole.starts_with("//") || whole.starts_with("/*") {
            if matches!(tree, TokenTree::Group(_)) {
                tokens.push(token(Kind::Doc, tree.span()));
            }
            continue;
        }
        match tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::None => {
                flatten(text, group.stream(), tokens);
            }
            TokenTree::Group(group) => {
                tokens.push(token(Kind::Punct, group.span_open()));
                flatten(text, group.stream(), tokens);
                tokens.push(token(Kind::Punct, group.span_close()));
            }
            TokenTree::Literal(literal) if is_string(whole) => {
                let body = whole.trim_start_matches(|c| c != '"').trim_end_matches('#');
                tokens.push(Token {
                    text: &body[1..body.len() - 1],
                    ..token(Kind::Str, literal.span())
                });
            }
            TokenTree::Punct(punct) => tokens.push(token(Kind::Punct, punct.span())),
            word => tokens.push(token(Kind::Word, word.span())),
        }
    }
}

/// Whether a literal is a string of any kind: quotes after nothing but `b`, `c`, `r` and `#`.
fn is_string(literal: &str) -> bool {
    literal
        .trim_start_matches(['b', 'c', 'r', '#'])
        .starts_with('"')
}

// === outline ===

/// What the tree tells of a file.
#[derive(Debug, Default)]
struct Outline<'a> {
    /// What stands under `#[cfg(test)]`, in bytes.
    tests: Vec<Range<usize>>,
    /// Whole `use` items, in bytes.
    imports: Vec<Range<usize>>,
    uses: Vec<Use<'a>>,
    functions: Vec<Function>,
    /// Modules kept in other files, and where they are declared.
    modules: Vec<(usize, String)>,
}

/// Fills an outline.
struct Walk<'a, 'ast> {
    text: &'a str,
    /// The nodes around the one that is visited: an attribute belongs to the innermost.
    nodes: Vec<&'ast dyn Spanned>,
    outline: Outline<'a>,
}

impl<'a> Walk<'a, '_> {
    fn leaves(&mut self, tree: &syn::UseTree, public: bool, mut path: Vec<&'a str>) {
        let mut leaf = |span: Span| {
            let Range { start: at, end } = span.byte_range();
            path.push(&self.text[at..end]);
            (at, span.start().line)
        };
        let (at, line) = match tree {
            syn::UseTree::Path(inner) => {
                leaf(inner.ident.span());
                return self.leaves(&inner.tree, public, path);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.leaves(tree, public, path.clone());
                }
                return;
            }
            syn::UseTree::Glob(glob) => leaf(glob.star_token.span()),
            syn::UseTree::Name(name) => leaf(name.ident.span()),
            syn::UseTree::Rename(rename) => leaf(rename.ident.span()),
        };
        self.outline.uses.push(Use {
            line,
            public,
            path,
            at,
        });
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let start = signature.span();
        let line = start.start().line;
        self.outline.functions.push(Function {
            name: signature.ident.to_string(),
            line,
            lines: block.brace_token.span.close().end().line + 1 - line,
            at: start.byte_range().start,
        });
    }
}

/// Keeps the node on the stack while its parts are visited.
macro_rules! nodes {
    ($($visit:ident: $Node:ident,)*) => {$(
        fn $visit(&mut self, node: &'ast syn::$Node) {
            self.nodes.push(node);
            visit::$visit(self, node);
            self.nodes.pop();
        }
    )*};
}

impl<'ast> Visit<'ast> for Walk<'_, 'ast> {
    nodes! {
        visit_arm: Arm,
        visit_expr: Expr,
        visit_field: Field,
        visit_field_value: FieldValue,
        visit_file: File,
        visit_foreign_item: ForeignItem,
        visit_impl_item: ImplItem,
        visit_item: Item,
        visit_stmt: Stmt,
        visit_trait_item: TraitItem,
        visit_variant: Variant,
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        let holds = attribute.path().is_ident("cfg")
            && attribute.parse_args().is_ok_and(|meta| needs_test(&meta));
        if let Some(node) = self.nodes.last()
            && holds
        {
            self.outline.tests.push(node.span().byte_range());
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let public = !matches!(item.vis, syn::Visibility::Inherited);
        self.outline.imports.push(item.span().byte_range());
        self.leaves(&item.tree, public, Vec::new());
        visit::visit_item_use(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item.content.is_none() {
            let at = item.ident.span().byte_range().start;
            self.outline.modules.push((at, item.ident.to_string()));
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

/// Whether a `cfg` predicate holds only in tests: `test`, or `all(...)` with such a one in it.
fn needs_test(predicate: &Meta) -> bool {
    match predicate {
        Meta::List(list) if list.path.is_ident("all") => {
            Punctuated::<Meta, T![,]>::parse_terminated
                .parse2(list.tokens.clone())
                .is_ok_and(|parts| parts.iter().any(needs_test))
        }
        predicate => matches!(predicate, Meta::Path(path) if path.is_ident("test")),
    }
}
