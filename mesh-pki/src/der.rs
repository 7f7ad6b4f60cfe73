//! Numbers in, the two DER structures out in which JOSE and X.509 differ: RSA public keys, which
//! JWKs hold as two numbers, and ECDSA signatures, which JWS holds as two numbers of fixed length.
//! Reading certificates and requests is the work of libraries; this only joins what they take.

const INTEGER: u8 = 0x02;
const SEQUENCE: u8 = 0x30;

/// An RSA public key (RFC 8017, appendix A.1.1) of its modulus and exponent, big-endian.
pub(crate) fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    pair(modulus, exponent)
}

/// An ECDSA signature (RFC 3279, section 2.2.3) of `r` and `s`, big-endian.
pub(crate) fn ecdsa_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    pair(r, s)
}

/// The two numbers of an ECDSA signature, each padded to `len` bytes; the way back.
pub(crate) fn ecdsa_numbers(signature: &[u8], len: usize) -> Option<Vec<u8>> {
    let (SEQUENCE, content, []) = take(signature)? else {
        return None;
    };
    let (INTEGER, r, rest) = take(content)? else {
        return None;
    };
    let (INTEGER, s, []) = take(rest)? else {
        return None;
    };
    let mut numbers = Vec::with_capacity(2 * len);
    for number in [r, s] {
        let number = trim(number);
        numbers.extend(std::iter::repeat_n(0, len.checked_sub(number.len())?));
        numbers.extend_from_slice(number);
    }
    Some(numbers)
}

/// A sequence of two unsigned integers.
fn pair(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut content = Vec::with_capacity(a.len() + b.len() + 10);
    for number in [a, b] {
        let number = trim(number);
        // A leading one bit would make it negative, and nothing at all is no number.
        let sign = number.first().is_none_or(|first| *first >= 0x80);
        let mut bytes = vec![0; usize::from(sign)];
        bytes.extend_from_slice(number);
        put(&mut content, INTEGER, &bytes);
    }
    let mut out = Vec::with_capacity(content.len() + 4);
    put(&mut out, SEQUENCE, &content);
    out
}

fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

/// Appends one value; its content is shorter than 64 KiB, as keys and signatures are.
fn put(out: &mut Vec<u8>, tag: u8, content: &[u8]) {
    out.push(tag);
    let [.., high, low] = content.len().to_be_bytes();
    match content.len() {
        0..=0x7f => out.push(low),
        0x80..=0xff => out.extend([0x81, low]),
        _ => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
}

/// One value with a length of one byte, as signatures of up to 55 bytes a number have, or of two:
/// its tag, its content, and what follows it.
fn take(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (len, rest) = match rest.split_first()? {
        (len @ 0..=0x7f, rest) => (*len, rest),
        (0x81, rest) => rest.split_first().map(|(len, rest)| (*len, rest))?,
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(usize::from(len))?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_der_and_come_back() {
        for (r, s, der) in [
            (vec![1], vec![2], vec![0x30, 6, 2, 1, 1, 2, 1, 2]),
            // A leading one bit takes a zero before it, leading zeros go.
            (
                vec![0, 0x80],
                vec![0, 0, 3],
                vec![0x30, 7, 2, 2, 0, 0x80, 2, 1, 3],
            ),
            (vec![0], vec![], vec![0x30, 6, 2, 1, 0, 2, 1, 0]),
        ] {
            assert_eq!(ecdsa_signature(&r, &s), der);
            let back = ecdsa_numbers(&der, 4).unwrap();
            assert!(back[..4].ends_with(trim(&r)) && back[4..].ends_with(trim(&s)));
        }
        // As long as P-521 makes them.
        let (r, s) = ([0xff; 66], [0x7f; 66]);
        let der = ecdsa_signature(&r, &s);
        assert_eq!(ecdsa_numbers(&der, 66).unwrap(), [r, s].concat());
        assert_eq!(ecdsa_numbers(&der, 65), None, "does not fit");
        for cut in 0..der.len() {
            assert_eq!(ecdsa_numbers(&der[..cut], 66), None);
        }
        assert_eq!(
            rsa_public_key(&[0xff; 256], &[1, 0, 1])[..4],
            [0x30, 0x82, 1, 10]
        );
    }
}
