//! Whether a JSON Schema refuses what it took before, as far as its keywords say plainly.

use serde_json::{Map, Value};

/// How it is narrower; for a person. A keyword whose effect is not plain counts as narrower, as nobody can be sure.
pub(super) fn narrowed(before: &Value, after: &Value) -> Option<String> {
    let mut found = Vec::new();
    let object = |schema: &Value| schema.as_object().cloned().unwrap_or_default();
    if after.is_null() {
        return None;
    }
    compare("", &object(before), &object(after), &mut found);
    (!found.is_empty()).then(|| found.join("; "))
}

fn compare(at: &str, before: &Map<String, Value>, after: &Map<String, Value>, found: &mut Vec<String>) {
    let place = if at.is_empty() { "the input" } else { at };
    for (keyword, now) in after {
        let was = before.get(keyword);
        if was == Some(now) {
            continue;
        }
        match keyword.as_str() {
            "title" | "description" | "default" | "examples" | "$comment" | "deprecated" | "format" | "$schema"
            | "$id" => {}
            "required" => {
                let needed = |schema: Option<&Value>| schema.and_then(Value::as_array).cloned().unwrap_or_default();
                let had = needed(was);
                for name in needed(Some(now)).iter().filter(|name| !had.contains(name)) {
                    found.push(format!("{place} needs {name}"));
                }
            }
            "properties" => {
                let nothing = Map::new();
                let had = was.and_then(Value::as_object).unwrap_or(&nothing);
                for (name, schema) in now.as_object().unwrap_or(&nothing) {
                    let inner = |schema: Option<&Value>| schema.and_then(Value::as_object).cloned().unwrap_or_default();
                    let path = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                    if *schema == Value::Bool(false) {
                        found.push(format!("{path} is forbidden"));
                    }
                    compare(&path, &inner(had.get(name)), &inner(Some(schema)), found);
                }
            }
            "items" => {
                let inner = |schema: Option<&Value>| schema.and_then(Value::as_object).cloned().unwrap_or_default();
                compare(&format!("{at}[]"), &inner(was), &inner(Some(now)), found);
            }
            "enum" | "type" => {
                let words = |value: &Value| value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
                let may = words(now);
                let gone = was
                    .map(words)
                    .map(|had| had.into_iter().filter(|it| !takes(keyword, &may, it)).collect::<Vec<_>>());
                match gone {
                    None => found.push(format!("{place} must be {}", shown(now))),
                    Some(gone) if !gone.is_empty() => {
                        found.push(format!(
                            "{place} can no longer be {}",
                            gone.iter().map(shown).collect::<Vec<_>>().join(", ")
                        ));
                    }
                    Some(_) => {}
                }
            }
            "minimum" | "exclusiveMinimum" | "minLength" | "minItems" | "minProperties" => {
                if was.and_then(Value::as_f64).is_none_or(|was| now.as_f64().is_none_or(|now| now > was)) {
                    found.push(format!("{place}: {keyword} is now {now}"));
                }
            }
            "maximum" | "exclusiveMaximum" | "maxLength" | "maxItems" | "maxProperties" => {
                if was.and_then(Value::as_f64).is_none_or(|was| now.as_f64().is_none_or(|now| now < was)) {
                    found.push(format!("{place}: {keyword} is now {now}"));
                }
            }
            "additionalProperties" | "unevaluatedProperties" | "uniqueItems" if *now == (keyword != "uniqueItems") => {}
            _ => found.push(format!("{place}: {keyword} is now {now}")),
        }
    }
    // What is forbidden is what is not listed.
    if after.get("additionalProperties") == Some(&Value::Bool(false))
        && before.get("additionalProperties") == Some(&Value::Bool(false))
    {
        let names = |schema: &Map<String, Value>| {
            schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default()
        };
        let now = names(after);
        for name in names(before).keys().filter(|name| !now.contains_key(*name)) {
            found.push(format!("{place} can no longer have {name}"));
        }
    }
}

/// Whether a value is still among those that are allowed: an integer is a number, too.
fn takes(keyword: &str, allowed: &[Value], value: &Value) -> bool {
    allowed.contains(value) || keyword == "type" && value == "integer" && allowed.iter().any(|it| it == "number")
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_narrower_where_it_refuses_more() {
        let base = json!({ "type": "object", "required": ["a"], "properties": { "a": { "enum": [1, 2] }, "n": { "type": "integer", "minimum": 1 } } });
        let with = |pointer: &str, value: Value| {
            let mut schema = base.clone();
            *schema.pointer_mut(pointer).unwrap_or(&mut Value::Null) = value;
            narrowed(&base, &schema)
        };
        assert_eq!(with("/required", json!(["a", "b"])).as_deref(), Some("the input needs \"b\""));
        assert_eq!(with("/required", json!([])), None);
        assert_eq!(with("/properties/a/enum", json!([2])).as_deref(), Some("a can no longer be 1"));
        assert_eq!(with("/properties/a/enum", json!([1, 2, 3])), None);
        assert_eq!(with("/properties/n/minimum", json!(2)).as_deref(), Some("n: minimum is now 2"));
        assert_eq!(with("/properties/n/minimum", json!(0)), None);
        assert_eq!(with("/properties/n/type", json!("number")), None);
        assert_eq!(with("/properties/n/type", json!("string")).as_deref(), Some("n can no longer be integer"));
        assert!(narrowed(&Value::Null, &base).is_some());
        assert_eq!(narrowed(&base, &Value::Null), None);
    }
}
