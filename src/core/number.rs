//! JSON numbers by their value, to the last digit.

use serde_json::Number;

/// The double that is a JSON number to its last digit; `None` if none is.
pub fn exact_double(number: &Number) -> Option<f64> {
    number.as_f64().filter(|double| same_decimal(number.as_str(), &format!("{double:e}")))
}

/// Whether two JSON numbers are the same decimal number, however written.
pub fn same_decimal(a: &str, b: &str) -> bool {
    let (a, b) = (Decimal::read(a), Decimal::read(b));
    a.is_some() && a == b
}

/// A decimal number without the accidents of its writing.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    /// Of the last digit.
    exponent: i64,
}

impl Decimal {
    fn read(text: &str) -> Option<Decimal> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Decimal { negative: false, digits: String::new(), exponent: 0 });
        }
        let dropped = i64::try_from(digits.len() - significant.len()).ok()?;
        let exponent: i64 = exponent.parse().ok()?;
        let exponent = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(dropped)?;
        Some(Decimal { negative, digits: significant.trim_start_matches('0').to_owned(), exponent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_compared_by_value() {
        for (a, b) in [("1.10", "1.1e0"), ("100", "1e2"), ("-0.0", "0e0"), ("0.00012", "1.2e-4"), ("1E3", "1e3")] {
            assert!(same_decimal(a, b), "{a} {b}");
        }
        for (a, b) in [("1.1", "1.10000000000000001"), ("1", "-1"), ("10", "1")] {
            assert!(!same_decimal(a, b), "{a} {b}");
        }
    }
}
