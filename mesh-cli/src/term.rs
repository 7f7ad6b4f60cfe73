//! What a person sees: colours only on a terminal, errors with their whole cause on one screen.

use std::io::{IsTerminal, Write, stderr, stdout};

use comfy_table::{ContentArrangement, Table, presets};

/// Prints to the output; a reader that has gone (`mesh status | head`) is not an error.
pub(crate) fn print(text: &str) {
    let _gone = writeln!(stdout(), "{text}");
}

/// Clears the screen, if there is one.
pub(crate) fn clear() {
    if stdout().is_terminal() {
        let _gone = write!(stdout(), "\x1b[H\x1b[2J");
    }
}

/// Prints an error and its causes.
pub(crate) fn error(error: &anyhow::Error) {
    let _gone = writeln!(stderr(), "error: {error:#}");
}

/// Prints a warning.
pub(crate) fn warn(text: &str) {
    let _gone = writeln!(stderr(), "warning: {text}");
}

/// A colour of a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Colour {
    Green,
    Red,
}

/// A word in a colour, on a terminal whose user has not asked for none (<https://no-color.org>).
pub(crate) fn paint(colour: Colour, word: &str) -> String {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty());
    if plain || !stdout().is_terminal() {
        return word.into();
    }
    let code = match colour {
        Colour::Green => 32,
        Colour::Red => 31,
    };
    format!("\x1b[{code}m{word}\x1b[0m")
}

/// A plain table, as wide as the terminal.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header.iter().copied());
    for row in rows {
        table.add_row(row);
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}
