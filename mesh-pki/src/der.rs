//! Numbers in, the two DER structures out in which JOSE and X.509 differ: RSA public keys, which
//! JWKs hold as two numbers, and ECDSA signatures, which JWS holds as two numbers of fixed length; and
//! the older forms of private keys, to be put into the PKCS#8 that libraries take. Reading
//! certificates and requests is the work of libraries; this only joins what they take.

use zeroize::Zeroizing;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const SEQUENCE: u8 = 0x30;

/// The context tag of an EC key's curve (RFC 5915, section 3).
const CURVE: u8 = 0xa0;

/// The largest private key; an RSA key of 16,384 bits has 9 KiB.
const MAX_KEY: usize = 32 * 1024;

/// The integer 0, a version of PKCS#8.
const VERSION_0: [u8; 3] = [INTEGER, 1, 0];

/// rsaEncryption with its NULL (RFC 8017, appendix A.1), and id-ecPublicKey (RFC 5480, section 2.1.1).
const RSA: [u8; 13] = [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
const EC: [u8; 9] = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];

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

/// An RSA key of PKCS#1 (RFC 8017, appendix A.1.2) as PKCS#8.
pub(crate) fn pkcs8_of_pkcs1(key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (SEQUENCE, _, []) = take(key)? else {
        return None;
    };
    pkcs8(&RSA, key)
}

/// An EC key of SEC 1 (RFC 5915) as PKCS#8; `curve` is its curve, where the key does not say it.
pub(crate) fn pkcs8_of_sec1(key: &[u8], curve: Option<&[u8]>) -> Option<Zeroizing<Vec<u8>>> {
    let (SEQUENCE, content, []) = take(key)? else {
        return None;
    };
    let (INTEGER, [1], rest) = take(content)? else {
        return None;
    };
    let (OCTETS, _, rest) = take(rest)? else {
        return None;
    };
    let named = match take(rest) {
        Some((CURVE, named, _)) => Some(named),
        _ => None,
    };
    let curve = named.or(curve)?;
    // The object identifier of a named curve, and nothing else.
    let (6, _, []) = take(curve)? else {
        return None;
    };
    pkcs8(&[&EC, curve].concat(), key)
}

/// A private key of PKCS#8 (RFC 5208, section 5).
fn pkcs8(algorithm: &[u8], key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    if key.len() > MAX_KEY {
        return None;
    }
    // Room for all at once: a buffer that grows leaves copies behind in the heap.
    let mut content = Zeroizing::new(Vec::with_capacity(key.len() + algorithm.len() + 16));
    content.extend(VERSION_0);
    put(&mut content, SEQUENCE, algorithm);
    put(&mut content, OCTETS, key);
    let mut out = Zeroizing::new(Vec::with_capacity(content.len() + 4));
    put(&mut out, SEQUENCE, &content);
    Some(out)
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

/// One value with a length of up to two bytes: its tag, its content, and what follows it.
fn take(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (len, rest) = match rest.split_first()? {
        (len @ 0..=0x7f, rest) => (usize::from(*len), rest),
        (0x81, rest) => rest
            .split_first()
            .map(|(len, rest)| (usize::from(*len), rest))?,
        (0x82, rest) => {
            let (len, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*len)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The curve of an EC key of PKCS#8, and the key of SEC 1 in it.
    pub(crate) fn parts_of_ec_pkcs8(key: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (_, content, _) = take(key).unwrap();
        let (_, _, rest) = take(content).unwrap();
        let (_, algorithm, rest) = take(rest).unwrap();
        let (_, sec1, _) = take(rest).unwrap();
        (algorithm[EC.len()..].to_vec(), sec1.to_vec())
    }

    /// The key in a PKCS#8 one.
    pub(crate) fn key_of_pkcs8(key: &[u8]) -> Vec<u8> {
        let (_, content, _) = take(key).unwrap();
        let (_, _, rest) = take(content).unwrap();
        let (_, _, rest) = take(rest).unwrap();
        take(rest).unwrap().1.to_vec()
    }

    /// The same key of SEC 1 with its curve.
    pub(crate) fn with_curve(sec1: &[u8], curve: &[u8]) -> Vec<u8> {
        let (_, content, _) = take(sec1).unwrap();
        let (_, _, rest) = take(content).unwrap();
        let (_, key, public) = take(rest).unwrap();
        let mut content = vec![INTEGER, 1, 1];
        put(&mut content, OCTETS, key);
        put(&mut content, CURVE, curve);
        content.extend_from_slice(public);
        let mut out = Vec::new();
        put(&mut out, SEQUENCE, &content);
        out
    }

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
