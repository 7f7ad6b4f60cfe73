//! Two distinguished names in, whether they name the same out (RFC 5280, section 7.1).
//!
//! A list whose issuer is written in another string type, case or spacing than in the issuer's
//! certificate is its list all the same; by bytes alone it would match no issuer, and revoke nothing.
//! BMPString, TeletexString and UniversalString are compared by their bytes.

use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, RelativeDistinguishedName};

/// A name's parts in order; each is a set of attributes, as number and value.
type Parts = Vec<Vec<(String, Vec<u8>)>>;

/// Whether two names, as contents of their sequences in DER, are equal.
pub(super) fn equal(one: &[u8], other: &[u8]) -> bool {
    one == other || parts(one).is_some_and(|one| parts(other).is_some_and(|other| one == other))
}

/// `None` for what is no name.
fn parts(mut der: &[u8]) -> Option<Parts> {
    let mut parts = Vec::new();
    while !der.is_empty() {
        let (rest, part) = RelativeDistinguishedName::from_der(der).ok()?;
        let mut attributes: Vec<_> = part
            .iter()
            .map(|attribute| (attribute.attr_type().to_id_string(), value(attribute)))
            .collect();
        attributes.sort();
        parts.push(attributes);
        der = rest;
    }
    Some(parts)
}

/// The text in lower case, with one space for many, or the bytes with their tag.
fn value(attribute: &AttributeTypeAndValue<'_>) -> Vec<u8> {
    if let Ok(text) = attribute.as_str() {
        let words: Vec<_> = text.split_whitespace().map(str::to_lowercase).collect();
        return words.join(" ").into_bytes();
    }
    let mut tagged = attribute.attr_value().tag().0.to_be_bytes().to_vec();
    tagged.extend_from_slice(attribute.as_slice());
    tagged
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTF8: u8 = 12;
    const PRINTABLE: u8 = 19;
    const BMP: u8 = 30;

    /// One attribute of type id-at-`id`.
    fn attribute(id: u8, tag: u8, text: &[u8]) -> Vec<u8> {
        let len = |bytes: usize| u8::try_from(bytes).unwrap();
        let head = [
            0x30,
            len(text.len() + 7),
            6,
            3,
            0x55,
            4,
            id,
            tag,
            len(text.len()),
        ];
        [&head, text].concat()
    }

    /// A part with these attributes.
    fn part(attributes: &[Vec<u8>]) -> Vec<u8> {
        let all = attributes.concat();
        [&[0x31, u8::try_from(all.len()).unwrap()], &*all].concat()
    }

    fn cn(tag: u8, text: &[u8]) -> Vec<u8> {
        part(&[attribute(3, tag, text)])
    }

    #[test]
    fn names_are_compared_by_what_they_say() {
        let plain = cn(PRINTABLE, b"My CA");
        for same in [
            plain.clone(),
            cn(UTF8, b"My CA"),
            cn(UTF8, b"my ca"),
            cn(PRINTABLE, b" My  CA "),
        ] {
            assert!(equal(&plain, &same) && equal(&same, &plain), "{same:02x?}");
        }
        let two = [cn(UTF8, b"a"), cn(UTF8, b"b")];
        for other in [
            cn(PRINTABLE, b"MyCA"),
            cn(PRINTABLE, b"My CA 2"),
            part(&[attribute(10, PRINTABLE, b"My CA")]),
            [plain.clone(), plain.clone()].concat(),
            cn(BMP, b"My CA "),
            // Cut short, or no name at all.
            plain[..plain.len() - 1].to_vec(),
            b"junk".to_vec(),
            Vec::new(),
        ] {
            assert!(
                !equal(&plain, &other) && !equal(&other, &plain),
                "{other:02x?}"
            );
        }
        // The order of parts counts, that of attributes in a part does not.
        assert!(!equal(
            &two.concat(),
            &[two[1].clone(), two[0].clone()].concat()
        ));
        let (a, b) = (attribute(3, UTF8, b"b"), attribute(10, UTF8, b"A"));
        assert!(equal(&part(&[a.clone(), b.clone()]), &part(&[b, a])));
        // What cannot be read is like itself alone.
        assert!(equal(b"junk", b"junk") && !equal(b"junk", b"JUNK"));
        assert!(equal(&cn(BMP, &[0, 65]), &cn(BMP, &[0, 65])));
        assert!(!equal(&cn(BMP, &[0, 65]), &cn(BMP, &[0, 97])));
    }
}
