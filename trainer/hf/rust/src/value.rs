//! JSON → template values. By hand, because with arbitrary-precision numbers serde would turn each number into a map.

use minijinja::value::Value;
use serde_json::Value as Json;

/// Integers up to 128 bits stay integers; a float is what Python's float() reads; key order is kept.
pub fn from_json(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::String(text) => Value::from(text.as_str()),
        Json::Number(number) => number_value(&number.to_string())?,
        Json::Array(items) => Value::from(items.iter().map(from_json).collect::<Result<Vec<Value>, String>>()?),
        Json::Object(fields) => {
            let pairs: Result<Vec<(String, Value)>, String> =
                fields.iter().map(|(key, item)| Ok((key.clone(), from_json(item)?))).collect();
            Value::from_iter(pairs?)
        }
    })
}

fn number_value(text: &str) -> Result<Value, String> {
    if text.contains(['.', 'e', 'E']) {
        return match text.parse::<f64>() {
            Ok(x) if x.is_finite() => Ok(Value::from(x)),
            _ => Err(format!("number {} is not a finite float", shortened(text))),
        };
    }
    if let Ok(small) = text.parse::<i64>() {
        return Ok(Value::from(small));
    }
    text.parse::<i128>().map(Value::from).map_err(|_| format!("integer {} has more than 128 bits", shortened(text)))
}

fn shortened(text: &str) -> String {
    if text.len() <= 40 {
        text.to_string()
    } else {
        format!("{}… ({} digits)", &text[..30], text.len())
    }
}

/// What a message to the user calls this value.
pub fn kind_name(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "a list",
        Json::Object(_) => "an object",
    }
}
