//! JSON values in, YAML text out, in blocks: what a person reads and may put into a file.
//!
//! Only texts that no reader of YAML takes for something else stand without quotes; a quoted text of JSON
//! is one of YAML.

use std::fmt::Write;

use serde_json::Value;

/// The YAML of a value, in blocks.
///
/// ```
/// use inmesh_discovery::manifest::to_yaml;
/// use serde_json::json;
/// assert_eq!(to_yaml(&json!({"name": "web", "share": "10%"})), "name: web\nshare: \"10%\"\n");
/// ```
#[must_use]
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    block(value, 0, &mut out);
    out
}

fn block(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                let _ = write!(
                    out,
                    "{:indent$}{}:",
                    "",
                    scalar(&Value::from(name.as_str()))
                );
                inner(value, indent + 2, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut nested = String::new();
                block(item, indent + 2, &mut nested);
                // The first line of the item stands behind its dash.
                let nested = nested.get(indent + 2..).unwrap_or(&nested);
                let _ = write!(out, "{:indent$}- {nested}", "");
            }
        }
        value => {
            let _ = write!(out, "{:indent$}", "");
            line(value, indent, out);
        }
    }
}

/// What follows the name of a field.
fn inner(value: &Value, indent: usize, out: &mut String) {
    let nested = match value {
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    };
    if nested {
        out.push('\n');
        block(value, indent, out);
    } else {
        out.push(' ');
        line(value, indent, out);
    }
}

/// A scalar up to the end of its line, or a text of several lines as it is, each of them indented.
fn line(value: &Value, indent: usize, out: &mut String) {
    let Some(text) = value.as_str().filter(|text| is_literal(text)) else {
        let _ = writeln!(out, "{}", scalar(value));
        return;
    };
    out.push_str(if text.ends_with('\n') { "|\n" } else { "|-\n" });
    for line in text.lines() {
        match line {
            "" => out.push('\n'),
            line => {
                let _ = writeln!(out, "{:indent$}{line}", "");
            }
        }
    }
}

/// Whether a text has several lines that mean the same as they are: nothing that a reader takes for
/// indentation, for the end of a line, or that it may not contain.
fn is_literal(text: &str) -> bool {
    let odd = |c: char| c != '\n' && (c.is_control() || "\u{2028}\u{2029}\u{feff}".contains(c));
    let blank = |line: &str| !line.is_empty() && line.trim().is_empty();
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with(char::is_whitespace)
        && !text.ends_with("\n\n")
        && !text.contains(odd)
        && !text.lines().any(blank)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A name of letters that is no boolean and no null in any version of YAML.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 10] = [
        "true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan",
    ];
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let fine = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    begins && text.chars().all(fine) && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::manifest::strict::documents;

    #[test]
    fn a_value_is_written_in_blocks() {
        let value = json!({
            "name": "web", "port": 80, "share": "10%", "none": null, "empty": {}, "list": [],
            "labels": {"app": "yes", "a/b": "1.10"},
            "listeners": [
                {"bind": "127.0.0.1:80", "probes": ["/a", "b: c"]},
                {"bind": "[::1]:80"},
            ],
            "nested": [["a"], [{"b": [1, 2]}]],
            "text": "{\n  \"a\": 1\n\n}\n", "texts": ["a\n b", {"c": "d\ne"}],
            "quoted": ["a\n", " a\nb\n", "a\nb\n\n", "a\n  \nb", "a\r\nb"],
        });
        let expected = "empty: {}
labels:
  a/b: \"1.10\"
  app: \"yes\"
list: []
listeners:
  - bind: \"127.0.0.1:80\"
    probes:
      - /a
      - \"b: c\"
  - bind: \"[::1]:80\"
name: web
nested:
  - - a
  - - b:
        - 1
        - 2
none: null
port: 80
quoted:
  - \"a\\n\"
  - \" a\\nb\\n\"
  - \"a\\nb\\n\\n\"
  - \"a\\n  \\nb\"
  - \"a\\r\\nb\"
share: \"10%\"
text: |
  {
    \"a\": 1

  }
texts:
  - |-
    a
     b
  - c: |-
      d
      e
";
        assert_eq!(to_yaml(&value), expected);
        let read = documents("it", expected).expect("it is YAML");
        assert_eq!(read[0].to_value(), value);
    }
}
