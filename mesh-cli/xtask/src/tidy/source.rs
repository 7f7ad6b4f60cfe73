//! A Rust file, tokenised just enough that comments and strings cannot fool a rule.
//!
//! [`Source::parse`] drops comments and character literals, splits the rest into words, string
//! literals and punctuation, and marks what stands under `#[cfg(test)]`. It does not expand macros
//! and knows no types.

use std::ops::Range;

/// A parsed file: its path from the workspace's root, its tokens and its test-only stretches.
pub(super) struct Source<'a> {
    path: &'a str,
    text: &'a str,
    tokens: Vec<Token<'a>>,
    /// Ranges of tokens that stand under `#[cfg(test)]`.
    test_ranges: Vec<Range<usize>>,
    /// Names of modules declared as `#[cfg(test)] mod name;`.
    test_modules: Vec<&'a str>,
}

/// An identifier, a literal or one punctuation character.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) line: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A word: identifier, keyword, number or lifetime name.
    Word,
    /// A string literal, without its quotes.
    Str,
    /// One character of punctuation.
    Punct,
}

impl<'a> Source<'a> {
    pub(super) fn parse(path: &'a str, text: &'a str) -> Self {
        let tokens = tokenise(text);
        let (test_ranges, test_modules) = find_tests(&tokens);
        Self {
            path,
            text,
            tokens,
            test_ranges,
            test_modules,
        }
    }

    pub(super) fn path(&self) -> &'a str {
        self.path
    }

    /// The last part of the path.
    pub(super) fn name(&self) -> &'a str {
        self.path.rsplit('/').next().unwrap_or(self.path)
    }

    pub(super) fn lines(&self) -> usize {
        self.text.lines().count()
    }

    pub(super) fn is_in(&self, folders: &[&str]) -> bool {
        folders.iter().any(|folder| {
            self.path
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'))
        })
    }

    /// Made by `xtask proto`, which nobody edits and few read.
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
        self.test_modules
            .iter()
            .map(|name| format!("{folder}{name}"))
            .collect()
    }

    /// All tokens of the file, tests included.
    pub(super) fn all_tokens(&self) -> &[Token<'a>] {
        &self.tokens
    }

    /// The tokens outside `#[cfg(test)]`.
    pub(super) fn live_tokens(&self) -> Vec<Token<'a>> {
        self.tokens
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.test_ranges.iter().any(|range| range.contains(at)))
            .map(|(_, token)| *token)
            .collect()
    }
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

/// Every path that the code names, with its line: `a::b::c` as it stands, and each leaf of a
/// `use` tree spelled out.
pub(super) fn named_paths<'a>(tokens: &[Token<'a>]) -> Vec<(usize, Vec<&'a str>)> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at];
        if token.kind == Kind::Word && token.text == "use" {
            at = use_tree(tokens, at + 1, &[], &mut paths);
        } else if token.kind == Kind::Word {
            let mut path = vec![token.text];
            at += 1;
            while starts_with(&tokens[at..], &[":", ":"])
                && tokens
                    .get(at + 2)
                    .is_some_and(|next| next.kind == Kind::Word)
            {
                path.push(tokens[at + 2].text);
                at += 3;
            }
            paths.push((token.line, path));
        } else {
            at += 1;
        }
    }
    paths
}

/// Reads one branch of a `use` tree from `at` and returns where it ends.
fn use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    paths: &mut Vec<(usize, Vec<&'a str>)>,
) -> usize {
    let mut path = prefix.to_vec();
    let mut line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(at) {
        match (token.kind, token.text) {
            (Kind::Word, "as") => at += 2,
            (Kind::Word, word) => {
                // `use a::{self}` names `a`.
                if word != "self" || path.is_empty() {
                    path.push(word);
                }
                line = token.line;
                at += 1;
            }
            (Kind::Punct, ":" | "*") => at += 1,
            (Kind::Punct, "{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token.text != "}") {
                    at = use_tree(tokens, at, &path, paths);
                    if tokens.get(at).is_some_and(|token| token.text == ",") {
                        at += 1;
                    } else if tokens.get(at).is_none_or(|token| token.text != "}") {
                        return at; // not a use tree after all (a closure capture, a macro)
                    }
                }
                return at + 1;
            }
            _ => break,
        }
    }
    paths.push((line, path));
    at
}

fn tokenise(text: &str) -> Vec<Token<'_>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut line = 1;
    while at < bytes.len() {
        let rest = &text[at..];
        let start = at;
        match bytes[at] {
            b'/' if rest.starts_with("//") => at += rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => at += block_comment(rest),
            b'"' => {
                at += quoted(rest);
                tokens.push(literal(text, start + 1, at, 1, line));
            }
            b'r' | b'b' | b'c' if string_prefix(rest).is_some() => {
                let (prefix, hashes, raw) = string_prefix(rest).unwrap_or((0, 0, false));
                let body = start + prefix + 1;
                at = if raw {
                    let close = format!("\"{}", "#".repeat(hashes));
                    text[body..]
                        .find(&close)
                        .map_or(text.len(), |found| body + found + close.len())
                } else {
                    start + prefix + quoted(&text[start + prefix..])
                };
                tokens.push(literal(text, body, at, 1 + hashes, line));
            }
            b'\'' => at += char_or_lifetime(rest),
            byte if byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii() => {
                let word = rest
                    .find(|c: char| !(c.is_alphanumeric() || c == '_'))
                    .unwrap_or(rest.len());
                // A character outside the alphabet (an emoji in a macro) is skipped whole.
                let word = word.max(rest.chars().next().map_or(1, char::len_utf8));
                at += word;
                tokens.push(Token {
                    kind: Kind::Word,
                    text: &text[start..at],
                    line,
                });
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            _ => {
                at += 1;
                tokens.push(Token {
                    kind: Kind::Punct,
                    text: &text[start..at],
                    line,
                });
            }
        }
        line += text[start..at].matches('\n').count();
    }
    tokens
}

/// The literal whose body starts at `body` and which ends, closing characters included, at `end`.
fn literal(text: &str, body: usize, end: usize, closing: usize, line: usize) -> Token<'_> {
    let until = end.saturating_sub(closing).max(body).min(text.len());
    Token {
        kind: Kind::Str,
        text: text.get(body..until).unwrap_or(""),
        line,
    }
}

/// For `r"`, `b"`, `br#"`, `c"` and their like: the length before the quote, the number of
/// hashes, and whether backslashes mean nothing in it.
fn string_prefix(rest: &str) -> Option<(usize, usize, bool)> {
    let letters = rest.find(|c: char| !matches!(c, 'r' | 'b' | 'c'))?;
    let raw = rest[..letters].ends_with('r');
    let hashes = rest[letters..].find(|c| c != '#')?;
    (letters <= 2 && (hashes == 0 || raw) && rest[letters + hashes..].starts_with('"')).then_some((
        letters + hashes,
        hashes,
        raw,
    ))
}

/// The length of a quoted string, quotes included, starting at its first quote.
fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The length of a block comment; they nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest.as_bytes()[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest.as_bytes()[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of `'x'`, `'\n'`, `'\u{1f600}'`, or 1 for the tick of a lifetime.
fn char_or_lifetime(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next(); // the escaped character, which may be a tick itself
            chars
                .find(|(_, c)| *c == '\'')
                .map_or(rest.len(), |(at, _)| at + 1)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// Finds what stands under `#[cfg(test)]`: ranges of tokens, and modules kept in other files.
fn find_tests<'a>(tokens: &[Token<'a>]) -> (Vec<Range<usize>>, Vec<&'a str>) {
    let mut ranges = Vec::new();
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inner = starts_with(&tokens[at..], &["#", "!", "[", "cfg", "("]);
        let outer = starts_with(&tokens[at..], &["#", "[", "cfg", "("]);
        if !inner && !outer {
            at += 1;
            continue;
        }
        let open = at + if inner { 4 } else { 3 };
        let close = closing(tokens, open);
        if !needs_test(&tokens[open + 1..close]) {
            at = close + 1;
            continue;
        }
        if inner {
            ranges.push(0..tokens.len());
            return (ranges, modules);
        }
        let end = item_end(tokens, close + 2);
        let item = &tokens[(close + 2).min(end)..end];
        if let Some(name) = item.windows(3).find_map(|three| match three {
            [keyword, name, semicolon] if keyword.text == "mod" && semicolon.text == ";" => {
                Some(name.text)
            }
            _ => None,
        }) {
            modules.push(name);
        }
        ranges.push(at..end);
        at = end.max(at + 1);
    }
    (ranges, modules)
}

/// Whether a `cfg` predicate holds only in tests: `test`, or `all(...)` with `test` in it.
fn needs_test(predicate: &[Token<'_>]) -> bool {
    let is = |want: &str| predicate.first().is_some_and(|token| token.text == want);
    if is("test") && predicate.len() == 1 {
        return true;
    }
    if !is("all") || predicate.len() < 3 {
        return false;
    }
    let mut depth = 0_usize;
    predicate[2..].iter().any(|token| {
        match token.text {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && token.kind == Kind::Word && token.text == "test"
    })
}

/// The index of the token that closes the bracket at `open`.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        if token.kind != Kind::Punct {
            continue;
        }
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// One past the end of the item that starts at `at`: its `;`, or the brace that closes it.
fn item_end(tokens: &[Token<'_>], mut at: usize) -> usize {
    let mut angles = 0_usize;
    while let Some(token) = tokens.get(at) {
        match (token.kind, token.text) {
            (Kind::Punct, ";") => return at + 1,
            (Kind::Punct, ",") if angles == 0 => return at + 1,
            (Kind::Punct, "{") => return closing(tokens, at) + 1,
            (Kind::Punct, "(" | "[") => at = closing(tokens, at),
            (Kind::Punct, "<") => angles += 1,
            // The head of an arrow closes nothing.
            (Kind::Punct, ">") if at > 0 && !matches!(tokens[at - 1].text, "-" | "=") => {
                angles = angles.saturating_sub(1);
            }
            _ => {}
        }
        at += 1;
    }
    tokens.len()
}
