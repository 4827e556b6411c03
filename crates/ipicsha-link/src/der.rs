//! Reads one field, the end of validity, out of a certificate.
//!
//! Decides nothing about trust: expiry is shown and raises an alarm, it never cuts the link. A full
//! X.509 parser would be a large dependency for one date, so this walks to the field and no further.

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Last second at which the certificate (DER) is valid, in Unix seconds; `None` when the bytes are
/// no certificate.
pub fn not_after(certificate: &[u8]) -> Option<i64> {
    let (certificate, _) = expect(certificate, SEQUENCE)?;
    let (mut rest, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(rest, VERSION) {
        rest = after;
    }
    let (_, rest) = expect(rest, INTEGER)?; // serial number
    let (_, rest) = expect(rest, SEQUENCE)?; // signature algorithm
    let (_, rest) = expect(rest, SEQUENCE)?; // issuer
    let (validity, _) = expect(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?; // not before
    let (tag, text, _) = element(rest)?;
    match tag {
        UTC_TIME => {
            let (short, rest) = number(text, 2)?;
            // RFC 5280: two digits below 50 belong to this century.
            seconds(if short < 50 { 2000 + short } else { 1900 + short }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = number(text, 4)?;
            seconds(year, rest)
        }
        _ => None,
    }
}

/// The content of the first element and what follows it, if the element has this tag.
fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, content, rest) = element(input)?;
    (found == tag).then_some((content, rest))
}

fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // At most four length bytes: no certificate is longer.
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

fn number(text: &[u8], digits: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(digits)?;
    let mut value = 0;
    for digit in digits {
        value = value * 10 + i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    Some((value, rest))
}

/// `MMDDHHMMSSZ` of the given year as Unix seconds.
fn seconds(year: i64, text: &[u8]) -> Option<i64> {
    let (month, text) = number(text, 2)?;
    let (day, text) = number(text, 2)?;
    let (hour, text) = number(text, 2)?;
    let (minute, text) = number(text, 2)?;
    let (second, text) = number(text, 2)?;
    if text != b"Z" || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let days = days_before_year(year) - days_before_year(1970) + days_before_month(year, month);
    Some((((days + day - 1) * 24 + hour) * 60 + minute) * 60 + second)
}

fn days_before_year(year: i64) -> i64 {
    let full = year - 1;
    full * 365 + full / 4 - full / 100 + full / 400
}

fn days_before_month(year: i64, month: i64) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let index = usize::try_from(month - 1).expect("the caller checked that the month is 1 to 12");
    BEFORE[index] + i64::from(leap && month > 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_become_unix_seconds() {
        assert_eq!(seconds(1970, b"0101000000Z"), Some(0));
        assert_eq!(seconds(2000, b"0229000000Z"), Some(951_782_400));
        assert_eq!(seconds(2024, b"0301000000Z"), Some(1_709_251_200));
        assert_eq!(seconds(2100, b"0301000000Z"), Some(4_107_542_400));
        assert_eq!(seconds(2026, b"1231235959Z"), Some(1_798_761_599));
        assert_eq!(seconds(2026, b"1331235959Z"), None);
        assert_eq!(seconds(2026, b"1231235959"), None);
    }

    #[test]
    fn bytes_that_are_no_certificate_have_no_date() {
        for bytes in [&b""[..], b"\x30", b"\x30\x84\xff\xff\xff\xff", b"\x30\x03\x30\x01\x02"] {
            assert_eq!(not_after(bytes), None);
        }
    }
}
