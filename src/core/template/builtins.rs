//! What templates can call: MiniJinja's filters and tests, less those that only serve HTML or can blow up a small value
//! (`batch`, `center`, `format`, `indent`, `slice`, …), and `range`. Each result is charged to the rendering's budget by
//! its size, so no chain of filters can use up time or memory.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use minijinja::value::{FunctionArgs, FunctionResult, Kwargs, Rest, Value, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, filters, functions, tests};

use super::arithmetic;
use super::value::{cost, json, text};

/// Where the evaluation's [`Budget`] is found: no name that a template can write.
pub(super) const BUDGET: &str = "*budget";

/// What one rendering may still look up and compute, in bytes or so.
#[derive(Debug)]
pub(super) struct Budget(AtomicU64);

impl minijinja::value::Object for Budget {}

impl Budget {
    pub(super) fn new(limit: u64) -> Budget {
        Budget(AtomicU64::new(limit))
    }

    /// Takes what `value` costs.
    pub(super) fn charge(&self, value: &Value) -> Result<(), Error> {
        self.take(cost(value, self.0.load(Ordering::Relaxed)))
    }

    /// Takes `cost`.
    pub(super) fn take(&self, cost: u64) -> Result<(), Error> {
        // One thread renders: an atomic only because MiniJinja's values can be sent.
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(cost), Ordering::Relaxed);
        if cost <= left {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::InvalidOperation,
            "the template takes too much work: it loops too often or handles too much data",
        ))
    }
}

fn charged(state: &State<'_, '_>, result: Value) -> Result<Value, Error> {
    match state.lookup(BUDGET).as_ref().and_then(Value::downcast_object_ref::<Budget>) {
        Some(budget) => budget.charge(&result).map(|()| result),
        None => Ok(result),
    }
}

/// Collects names while an environment is filled.
struct Builder {
    environment: Environment<'static>,
    filters: Vec<&'static str>,
    tests: Vec<&'static str>,
}

impl Builder {
    fn filter<F, Rv, Args>(&mut self, name: &'static str, function: F)
    where
        F: functions::Function<Rv, Args>,
        Rv: FunctionResult,
        Args: for<'a> FunctionArgs<'a>,
    {
        let inner = Value::from_function(function);
        let outer = move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let result = inner.call(state, &args.into_values())?;
            charged(state, result)
        };
        self.environment.add_filter(name, outer);
        if name.starts_with(|first: char| first.is_ascii_alphabetic()) {
            self.filters.push(name);
        }
    }

    fn test<F, Rv, Args>(&mut self, name: &'static str, function: F)
    where
        F: functions::Function<Rv, Args>,
        Rv: FunctionResult,
        Args: for<'a> FunctionArgs<'a>,
    {
        self.environment.add_test(name, function);
        self.tests.push(name);
    }
}

/// What every template runs in, and the names it has.
pub(super) struct Builtins {
    pub(super) environment: Environment<'static>,
    pub(super) filters: Vec<&'static str>,
    pub(super) tests: Vec<&'static str>,
}

/// The functions that can be called.
pub(super) const FUNCTIONS: [&str; 1] = ["range"];

pub(super) static BUILTINS: LazyLock<Builtins> = LazyLock::new(|| {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_debug(false);
    environment.add_function("range", functions::range);
    let mut builder = Builder { environment, filters: Vec::new(), tests: Vec::new() };
    add_operators(&mut builder);
    add_filters(&mut builder);
    add_tests(&mut builder);
    Builtins { environment: builder.environment, filters: builder.filters, tests: builder.tests }
});

/// Operators are compiled to filters of these names.
fn add_operators(b: &mut Builder) {
    b.filter("+", |left: &Value, right: &Value| arithmetic::add(left, right));
    b.filter("-", |left: &Value, right: &Value| arithmetic::subtract(left, right));
    b.filter("*", |left: &Value, right: &Value| arithmetic::multiply(left, right));
    b.filter("/", |left: &Value, right: &Value| arithmetic::divide(left, right));
    b.filter("//", |left: &Value, right: &Value| arithmetic::divide_whole(left, right));
    b.filter("%", |left: &Value, right: &Value| arithmetic::remainder(left, right));
    b.filter("**", |left: &Value, right: &Value| arithmetic::power(left, right));
    b.filter("~", |left: &Value, right: &Value| arithmetic::concatenate(left, right));
    b.filter("0-", |value: &Value| arithmetic::negate(value));
}

fn add_filters(b: &mut Builder) {
    b.filter("abs", filters::abs);
    b.filter("attr", filters::attr);
    b.filter("bool", filters::bool);
    b.filter("capitalize", filters::capitalize);
    b.filter("chain", filters::chain);
    b.filter("count", filters::length);
    b.filter("d", filters::default);
    b.filter("default", filters::default);
    b.filter("dictsort", filters::dictsort);
    b.filter("first", filters::first);
    b.filter("float", float);
    b.filter("groupby", filters::groupby);
    b.filter("int", filters::int);
    b.filter("items", filters::items);
    b.filter("join", join);
    b.filter("last", filters::last);
    b.filter("length", filters::length);
    b.filter("lines", filters::lines);
    b.filter("list", filters::list);
    b.filter("lower", filters::lower);
    b.filter("map", filters::map);
    b.filter("max", filters::max);
    b.filter("min", filters::min);
    b.filter("reject", filters::reject);
    b.filter("rejectattr", filters::rejectattr);
    b.filter("replace", replace);
    b.filter("reverse", filters::reverse);
    b.filter("round", filters::round);
    b.filter("select", filters::select);
    b.filter("selectattr", filters::selectattr);
    b.filter("sort", filters::sort);
    b.filter("split", filters::split);
    b.filter("string", string);
    b.filter("sum", sum);
    b.filter("title", filters::title);
    b.filter("tojson", |value: &Value| Ok::<_, Error>(json(value)?.to_string()));
    b.filter("trim", filters::trim);
    b.filter("unique", filters::unique);
    b.filter("upper", filters::upper);
    b.filter("zip", filters::zip);
}

fn add_tests(b: &mut Builder) {
    b.test("boolean", tests::is_boolean);
    b.test("defined", tests::is_defined);
    b.test("divisibleby", tests::is_divisibleby);
    b.test("endingwith", tests::is_endingwith);
    b.test("eq", tests::is_eq);
    b.test("equalto", tests::is_eq);
    b.test("even", tests::is_even);
    b.test("false", tests::is_false);
    b.test("float", tests::is_float);
    b.test("ge", tests::is_ge);
    b.test("greaterthan", tests::is_gt);
    b.test("gt", tests::is_gt);
    b.test("in", tests::is_in);
    b.test("int", tests::is_integer);
    b.test("integer", tests::is_integer);
    b.test("iterable", tests::is_iterable);
    b.test("le", tests::is_le);
    b.test("lessthan", tests::is_lt);
    b.test("lower", tests::is_lower);
    b.test("lt", tests::is_lt);
    b.test("mapping", tests::is_mapping);
    b.test("ne", tests::is_ne);
    b.test("none", tests::is_none);
    b.test("number", tests::is_number);
    b.test("odd", tests::is_odd);
    b.test("sequence", tests::is_sequence);
    b.test("startingwith", tests::is_startingwith);
    b.test("string", tests::is_string);
    b.test("true", tests::is_true);
    b.test("undefined", tests::is_undefined);
    b.test("upper", tests::is_upper);
}

/// As MiniJinja's, but for integers that no float is.
fn float(state: &mut State<'_, '_>, value: &Value, default: Option<Value>) -> Result<Value, Error> {
    if value.is_integer() {
        return arithmetic::exact(i128::try_from(value.clone())?).map(Value::from);
    }
    filters::float(state, value, default, Kwargs::from_iter(std::iter::empty::<(&str, Value)>()))
}

fn string(value: &Value) -> Result<Value, Error> {
    Ok(Value::from(text(&json(value)?).into_owned()))
}

fn join(value: &Value, separator: Option<&str>, kwargs: Kwargs) -> Result<String, Error> {
    let attribute = kwargs.get::<Option<&str>>("attribute")?;
    kwargs.assert_all_used()?;
    let mut joined = String::new();
    for (at, item) in attributes(value, attribute)?.into_iter().enumerate() {
        if at > 0 {
            joined.push_str(separator.unwrap_or_default());
        }
        joined.push_str(&text(&json(&item)?));
        arithmetic::bounded(joined.len())?;
    }
    Ok(joined)
}

fn sum(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let attribute = kwargs.get::<Option<&str>>("attribute")?;
    let start = kwargs.get::<Option<Value>>("start")?.unwrap_or(Value::from(0));
    kwargs.assert_all_used()?;
    attributes(value, attribute)?.iter().try_fold(start, |total, item| arithmetic::add(&total, item))
}

fn replace(text: &str, from: &str, to: &str) -> Result<String, Error> {
    let added = text.matches(from).count().saturating_mul(to.len().saturating_sub(from.len()));
    arithmetic::bounded(text.len().saturating_add(added))?;
    Ok(text.replace(from, to))
}

/// The elements of a sequence, or one attribute of each.
fn attributes(value: &Value, attribute: Option<&str>) -> Result<Vec<Value>, Error> {
    let one = |item: Value| match attribute {
        Some(name) => item.get_attr(name),
        None => Ok(item),
    };
    value.try_iter()?.checked().map(|item| one(item?)).collect()
}
