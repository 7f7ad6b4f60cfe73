//! Plain words: comments, docs, messages and pages use the field's terms.
//!
//! In: the text of a page (`.md`), or what people read of a Rust file: its comments and its string
//! literals. Identifiers are code and not looked at.

use super::source::Source;
use super::violation::Violation;

/// What is not written, and what is written instead.
const WORDS: [(&str, &str); 14] = [
    ("anybody", TASK),
    ("are over", ENDED),
    ("carries", FORWARDS),
    ("goes on", FORWARDS),
    ("is none", "say `invalid` or `not a valid X`"),
    ("is over", ENDED),
    ("news", UPDATE),
    (
        "nobody",
        "say `no task`, `no client`, `no peer` or `no caller`",
    ),
    ("somebody", TASK),
    ("told", UPDATE),
    ("who", TASK),
    ("whoever", TASK),
    ("whom", TASK),
    ("word of", UPDATE),
];
const ENDED: &str = "say `expired`, `ended` or `longer than`";
const FORWARDS: &str = "say `forwards`, `continues`, `holds` or `has`";
const TASK: &str = "say which: the task, client, peer, caller, user";
const UPDATE: &str = "say `notified` or `update`";

/// Where a word is the protocol's or a quoted standard's: the path, the word and the reason.
const ALLOWED: [(&str, &str, &str); 0] = [];

/// The files that name the words to ban them.
const OWN: [&str; 2] = [
    "mesh-cli/xtask/src/tidy/tests.rs",
    "mesh-cli/xtask/src/tidy/words.rs",
];

const WHY: &str = "the code is read by engineers who know the field's words";

/// A page, read whole.
pub(super) fn check_page(path: &str, text: &str) -> Vec<Violation> {
    check(path, text, &[text])
}

/// A Rust file, tests included.
pub(super) fn check_source(source: &Source<'_>) -> Vec<Violation> {
    if source.is_generated() {
        return Vec::new();
    }
    check(source.path(), source.text(), &source.prose())
}

/// `prose` are stretches of `text`.
fn check(path: &str, text: &str, prose: &[&str]) -> Vec<Violation> {
    if OWN.contains(&path) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for stretch in prose {
        let words = words(stretch);
        for at in 0..words.len() {
            let banned = |(phrase, _): &&(&str, &str)| begins(stretch, &words[at..], phrase);
            let Some((phrase, instead)) = WORDS.iter().find(banned) else {
                continue;
            };
            let counted = at > 0 && words[at - 1].eq_ignore_ascii_case("there");
            if counted && *phrase == "is none" {
                continue; // "if there is none" counts, it does not judge
            }
            let allowed = |(file, word, _): &(&str, &str, &str)| *file == path && word == phrase;
            if !ALLOWED.iter().any(allowed) {
                let before = &text[..offset(text, words[at])];
                let line = 1 + before.matches('\n').count();
                let what = format!("the text says `{phrase}`");
                found.push(Violation::error(path, line, what, WHY, instead));
            }
        }
    }
    found
}

/// The words of a text; one with `_` or a digit is a name of the code.
fn words(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
        .map(|word| match text[..offset(text, word)].ends_with('\\') {
            // The letter of an escape, as in `\n`, is not part of the word.
            true => word.get(1..).unwrap_or_default(),
            false => word,
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Whether `words` begins with `phrase`, with nothing between its words but the end of a line and
/// the marks of a comment.
fn begins(text: &str, words: &[&str], phrase: &str) -> bool {
    let mut end = None;
    phrase.split(' ').enumerate().all(|(n, want)| {
        words.get(n).is_some_and(|word| {
            let at = offset(text, word);
            let between = end.map_or("", |end| &text[end..at]);
            end = Some(at + word.len());
            word.eq_ignore_ascii_case(want)
                && between
                    .chars()
                    .all(|c| c.is_whitespace() || "/!*\\".contains(c))
        })
    })
}

/// Where a part of a text begins, in bytes.
fn offset(text: &str, part: &str) -> usize {
    part.as_ptr().addr() - text.as_ptr().addr()
}
