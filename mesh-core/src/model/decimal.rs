//! Numbers of documents with a fraction, as whole numbers of parts.

/// So many parts of a number, `of` of which are one; `None` where it lies between two of them, so that no
/// digit that was written is lost.
pub(crate) fn parts(number: f64, of: u32) -> Option<u32> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates"
    )]
    let parts = (number * f64::from(of)).round() as u32;
    // The division is rounded as a text is that is read: to the number that is nearest.
    #[expect(
        clippy::float_cmp,
        reason = "both are the nearest to one decimal number"
    )]
    let exact = f64::from(parts) / f64::from(of) == number;
    exact.then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::parts;

    #[test]
    fn no_digit_is_lost() {
        for n in 0..=1_000_000_u32 {
            let text = format!("{}.{:04}", n / 10_000, n % 10_000);
            assert_eq!(parts(text.parse().unwrap(), 10_000), Some(n), "{text}");
        }
        for between in [0.00001, 0.12345, 99.99999, 1e-300, -0.1, -1.0, 5e9] {
            assert_eq!(parts(between, 10_000), None, "{between}");
        }
        assert_eq!([parts(0.0, 1_000), parts(-0.0, 1_000)], [Some(0); 2]);
        assert_eq!(parts(f64::NAN, 10), None);
    }
}
