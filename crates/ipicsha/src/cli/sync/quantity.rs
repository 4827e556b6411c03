//! Numbers as people type and read them.
//!
//! Decides what suffixes mean. Must not know what is counted.

/// Bytes from `1.5m`, `10K`, `3MB` (thousands), `2GiB`, `1K-1`; without a suffix of `unit` bytes.
pub(super) fn bytes(text: &str, unit: u64) -> Option<u64> {
    let (text, correction) = match (text.strip_suffix("+1"), text.strip_suffix("-1")) {
        (Some(text), _) => (text, 1i64),
        (_, Some(text)) if !text.is_empty() => (text, -1),
        _ => (text, 0),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let suffix = text[end..].to_ascii_lowercase();
    let power = match suffix.chars().next() {
        None => None,
        Some('b') if suffix == "b" => Some(0),
        Some('k') => Some(1),
        Some('m') => Some(2),
        Some('g') => Some(3),
        Some('t') => Some(4),
        Some('p') => Some(5),
        Some(_) => return None,
    };
    let base: f64 = match suffix.get(1..).unwrap_or_default() {
        "" | "ib" => 1024.0,
        "b" => 1000.0,
        _ => return None,
    };
    let factor = power.map_or(unit as f64, |power| base.powi(power));
    let bytes = number * factor;
    if !bytes.is_finite() || bytes > u64::MAX as f64 {
        return None;
    }
    (bytes as u64).checked_add_signed(correction)
}

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number at a level of `-h`: 0 plain, 1 grouped, 2 in thousands, 3 in units of 1024.
pub(super) fn human(number: u64, level: u8) -> String {
    let step = match level {
        0 => return number.to_string(),
        1 => return grouped(number),
        2 => 1000.0,
        _ => 1024.0,
    };
    let mut value = number as f64;
    if value < step {
        return number.to_string();
    }
    for unit in ["K", "M", "G", "T", "P"] {
        value /= step;
        if value < step || unit == "P" {
            return format!("{value:.2}{unit}");
        }
    }
    number.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_suffixes() {
        let table = [
            ("0", 1, Some(0)),
            ("100", 1, Some(100)),
            ("100", 1024, Some(102_400)),
            ("1.5m", 1, Some(1_572_864)),
            ("10K", 1024, Some(10_240)),
            ("3MB", 1, Some(3_000_000)),
            ("2GiB", 1, Some(2 << 30)),
            ("1K-1", 1, Some(1023)),
            ("1K+1", 1, Some(1025)),
            ("7b", 1024, Some(7)),
            ("x", 1, None),
            ("", 1, None),
            ("5q", 1, None),
            ("-1", 1, None),
        ];
        for (text, unit, expected) in table {
            assert_eq!(bytes(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn numbers_are_shown() {
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(
            (grouped(0), grouped(999), grouped(1000)),
            ("0".into(), "999".into(), "1,000".into())
        );
        assert_eq!((human(1_234_567, 2), human(1_048_576, 3)), ("1.23M".into(), "1.00M".into()));
        assert_eq!((human(999, 2), human(1000, 0)), ("999".into(), "1000".into()));
    }
}
