//! The operators `+ - * / // % ** ~`, exact or refused: an integer too large for a float is never silently rounded into
//! one, and nothing grows without bound.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::MAX_TEXT;
use super::value::{json, text};

/// Both operands of a calculation.
enum Pair {
    Integers(i128, i128),
    Floats(f64, f64),
}

pub(super) fn add(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (left.as_str(), right.as_str()) {
        return bounded(a.len() + b.len()).map(|()| Value::from([a, b].concat()));
    }
    if is_sequence(left) && is_sequence(right) {
        let items = left.try_iter()?.checked().chain(right.try_iter()?.checked());
        return items.collect::<Result<Vec<Value>, Error>>().map(Value::from);
    }
    calculate("+", left, right, i128::checked_add, |a, b| a + b)
}

pub(super) fn subtract(left: &Value, right: &Value) -> Result<Value, Error> {
    calculate("-", left, right, i128::checked_sub, |a, b| a - b)
}

pub(super) fn multiply(left: &Value, right: &Value) -> Result<Value, Error> {
    let repeat = |text: &str, times: &Value| match times.as_usize() {
        Some(times) => bounded(text.len().saturating_mul(times)).map(|()| Value::from(text.repeat(times))),
        None => Err(unsuitable("*", left, right)),
    };
    match (left.as_str(), right.as_str()) {
        (Some(text), None) => repeat(text, right),
        (None, Some(text)) => repeat(text, left),
        _ => calculate("*", left, right, i128::checked_mul, |a, b| a * b),
    }
}

/// Always a float, as in Python.
pub(super) fn divide(left: &Value, right: &Value) -> Result<Value, Error> {
    let (a, b) = match pair("/", left, right)? {
        Pair::Integers(a, b) => (exact(a)?, exact(b)?),
        Pair::Floats(a, b) => (a, b),
    };
    finite("/", left, right, a / b)
}

/// Rounds down, as in Python.
pub(super) fn divide_whole(left: &Value, right: &Value) -> Result<Value, Error> {
    calculate("//", left, right, |a, b| floor_division(a, b).map(|(quotient, _)| quotient), |a, b| (a / b).floor())
}

/// With the sign of the divisor, as in Python.
pub(super) fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let of_floats = |a: f64, b: f64| a - b * (a / b).floor();
    calculate("%", left, right, |a, b| floor_division(a, b).map(|(_, remainder)| remainder), of_floats)
}

pub(super) fn power(left: &Value, right: &Value) -> Result<Value, Error> {
    let of_integers = |a: i128, b: i128| a.checked_pow(u32::try_from(b).ok()?);
    calculate("**", left, right, of_integers, f64::powf)
}

pub(super) fn negate(value: &Value) -> Result<Value, Error> {
    subtract(&Value::from(0), value)
}

/// `~`: any two values as text.
pub(super) fn concatenate(left: &Value, right: &Value) -> Result<Value, Error> {
    let (left, right) = (json(&defined(left)?)?, json(&defined(right)?)?);
    let (left, right) = (text(&left), text(&right));
    bounded(left.len() + right.len()).map(|()| Value::from([left, right].concat()))
}

/// Refuses text that is too long before it is made.
pub(super) fn bounded(length: usize) -> Result<(), Error> {
    if length <= MAX_TEXT {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("the text would be longer than {MAX_TEXT} bytes")))
}

fn calculate(
    operator: &str,
    left: &Value,
    right: &Value,
    of_integers: impl Fn(i128, i128) -> Option<i128>,
    of_floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    match pair(operator, left, right)? {
        Pair::Integers(a, b) => match of_integers(a, b) {
            Some(result) => Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from)),
            None => Err(impossible(operator, left, right)),
        },
        Pair::Floats(a, b) => finite(operator, left, right, of_floats(a, b)),
    }
}

fn pair(operator: &str, left: &Value, right: &Value) -> Result<Pair, Error> {
    let (left, right) = (defined(left)?, defined(right)?);
    if left.kind() != ValueKind::Number || right.kind() != ValueKind::Number {
        return Err(unsuitable(operator, &left, &right));
    }
    if left.is_integer() && right.is_integer() {
        return Ok(Pair::Integers(i128::try_from(left)?, i128::try_from(right)?));
    }
    let float = |value: Value| if value.is_integer() { exact(i128::try_from(value)?) } else { f64::try_from(value) };
    Ok(Pair::Floats(float(left)?, float(right)?))
}

/// An integer as a float, if that is the same number.
pub(super) fn exact(integer: i128) -> Result<f64, Error> {
    let float = integer as f64;
    // The cast back saturates at the largest i128, which no float is.
    if float as i128 == integer && integer != i128::MAX {
        return Ok(float);
    }
    let message = format!("{integer} is too large to calculate with together with fractions");
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

fn floor_division(a: i128, b: i128) -> Option<(i128, i128)> {
    let (quotient, remainder) = (a.checked_div(b)?, a.checked_rem(b)?);
    if remainder != 0 && (remainder < 0) != (b < 0) {
        Some((quotient - 1, remainder + b))
    } else {
        Some((quotient, remainder))
    }
}

fn finite(operator: &str, left: &Value, right: &Value, result: f64) -> Result<Value, Error> {
    if result.is_finite() { Ok(Value::from(result)) } else { Err(impossible(operator, left, right)) }
}

fn defined(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() { Err(Error::from(ErrorKind::UndefinedError)) } else { Ok(value.clone()) }
}

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn impossible(operator: &str, left: &Value, right: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{left} {operator} {right} has no result"))
}

fn unsuitable(operator: &str, left: &Value, right: &Value) -> Error {
    let (left, right) = (left.kind(), right.kind());
    Error::new(ErrorKind::InvalidOperation, format!("`{operator}` does not work on a {left} and a {right}"))
}
