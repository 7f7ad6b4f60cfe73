//! A report in JUnit's format, as CI servers read it: a `testsuite` for each file.

use std::fmt::Write;

use super::Ran;

/// The report of all files.
pub(super) fn text(all: &[Ran]) -> String {
    let mut out = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for ran in all {
        let (cases, failed) = (ran.report.cases.len(), ran.report.failed());
        let (file, took) = (escaped(&ran.file), ran.took.as_secs_f64());
        let _written = writeln!(
            out,
            "  <testsuite name=\"{file}\" tests=\"{cases}\" failures=\"{failed}\" time=\"{took:.3}\">"
        );
        for case in &ran.report.cases {
            let (name, at) = (escaped(&case.name), escaped(&case.place.file));
            let line = case.place.line;
            let head = format!(
                "    <testcase name=\"{name}\" classname=\"{file}\" file=\"{at}\" line=\"{line}\""
            );
            if case.failures.is_empty() {
                let _written = writeln!(out, "{head}/>");
                continue;
            }
            let first = case.failures.first().map(|why| escaped(why));
            let (first, all) = (
                first.unwrap_or_default(),
                escaped(&case.failures.join("\n")),
            );
            let _written = writeln!(
                out,
                "{head}>\n      <failure message=\"{first}\">{all}</failure>\n    </testcase>"
            );
        }
        out += "  </testsuite>\n";
    }
    out + "</testsuites>\n"
}

/// A text as XML has it; what it cannot hold at all (XML 1.0, Char) becomes U+FFFD.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\n' => out += "&#10;",
            '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_one_of_xml() {
        assert_eq!(
            escaped("a<b & \"c\"\n\u{1b}[0m\u{0}>"),
            "a&lt;b &amp; &quot;c&quot;&#10;\u{fffd}[0m\u{fffd}&gt;"
        );
    }
}
