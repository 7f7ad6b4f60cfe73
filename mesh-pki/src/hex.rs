//! Bytes in, lower-case hexadecimal out; for serials and key ids in errors and logs.

/// Formats `bytes` as lower-case hexadecimal without separators.
pub(crate) fn encode(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 0x0f)]));
    }
    out
}

/// The bytes of an even number of hexadecimal digits; anything else is read as 0, so it is checked
/// before.
#[cfg(any(feature = "aws-lc-rs", feature = "ring"))]
pub(crate) fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, b| (byte << 4) | digit(*b)))
        .collect()
}
