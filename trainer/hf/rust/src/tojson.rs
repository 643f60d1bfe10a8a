//! The `tojson` filter as transformers defines it: json.dumps(x, ensure_ascii=…, indent=…, separators=…, sort_keys=…)
//! with ensure_ascii off by default, and no HTML escapes (Jinja2's own filter has them).

use crate::python_text;
use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind};
use minijinja::{Error, ErrorKind};

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

pub fn filter(value: &Value, rest: Rest<Value>) -> Result<String, Error> {
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&rest)?;
    if positional.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let argument = |index: usize, name: &str| -> Result<Option<Value>, Error> {
        match positional.get(index) {
            Some(given) => Ok(Some(given.clone())),
            None => kwargs.get::<Option<Value>>(name),
        }
    };
    let indent = argument(1, "indent")?;
    let separators = argument(2, "separators")?;
    let style = Style {
        ensure_ascii: argument(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        sort_keys: argument(3, "sort_keys")?.is_some_and(|v| v.is_true()),
        item_separator: separator(&separators, 0, if is_given(&indent) { "," } else { ", " })?,
        key_separator: separator(&separators, 1, ": ")?,
        indent: indent_text(&indent)?,
    };
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write(value, &style, 0, &mut out)?;
    Ok(out)
}

fn is_given(argument: &Option<Value>) -> bool {
    argument.as_ref().is_some_and(|v| !v.is_none() && !v.is_undefined())
}

fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("tojson: {}", what.into()))
}

fn indent_text(indent: &Option<Value>) -> Result<Option<String>, Error> {
    let Some(value) = indent.as_ref().filter(|_| is_given(indent)) else {
        return Ok(None);
    };
    if let Some(text) = value.as_str() {
        return Ok(Some(text.to_string()));
    }
    match value.as_i64() {
        Some(width) if width <= 100 => Ok(Some(" ".repeat(width.max(0) as usize))),
        _ => Err(invalid("indent must be a string or an integer up to 100")),
    }
}

fn separator(separators: &Option<Value>, index: usize, otherwise: &str) -> Result<String, Error> {
    match separators.as_ref().filter(|_| is_given(separators)) {
        None => Ok(otherwise.to_string()),
        Some(pair) => match pair.get_item_by_index(index)?.as_str() {
            Some(text) => Ok(text.to_string()),
            None => Err(invalid("separators must be two strings")),
        },
    }
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > python_text::MAX_DEPTH {
        return Err(invalid(format!("the value is nested more than {} deep", python_text::MAX_DEPTH)));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
        ValueKind::Number => out.push_str(&json_float(python_text::as_float(value))),
        ValueKind::String => write_string(value.as_str().unwrap_or_default(), style.ensure_ascii, out),
        ValueKind::Map => write_map(value, style, depth, out)?,
        ValueKind::Seq | ValueKind::Iterable => write_list(value, style, depth, out)?,
        kind => return Err(invalid(format!("a value of type {kind} cannot be written as JSON"))),
    }
    Ok(())
}

fn json_float(x: f64) -> String {
    match python_text::float(x).as_str() {
        "nan" => "NaN".into(),
        "inf" => "Infinity".into(),
        "-inf" => "-Infinity".into(),
        finite => finite.into(),
    }
}

fn line_break(style: &Style, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_map(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    let mut keys: Vec<Value> = value.try_iter()?.collect();
    if style.sort_keys {
        keys.sort();
    }
    out.push('{');
    for (index, key) in keys.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.item_separator);
        }
        line_break(style, depth + 1, out);
        match key.as_str() {
            Some(text) => write_string(text, style.ensure_ascii, out),
            None => {
                let mut text = String::new();
                write(key, style, depth + 1, &mut text)?;
                write_string(&text, style.ensure_ascii, out);
            }
        }
        out.push_str(&style.key_separator);
        write(&value.get_item(key)?, style, depth + 1, out)?;
    }
    if !keys.is_empty() {
        line_break(style, depth, out);
    }
    out.push('}');
    Ok(())
}

fn write_list(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    let mut empty = true;
    out.push('[');
    for item in value.try_iter()? {
        if !empty {
            out.push_str(&style.item_separator);
        }
        empty = false;
        line_break(style, depth + 1, out);
        write(&item, style, depth + 1, out)?;
    }
    if !empty {
        line_break(style, depth, out);
    }
    out.push(']');
    Ok(())
}

fn write_string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || (ensure_ascii && !(' '..='~').contains(&c)) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
