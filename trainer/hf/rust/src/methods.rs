//! What Jinja2 templates expect of Python and minijinja does not give, or gives with another meaning.

use crate::python_text;
use minijinja::value::{from_args, Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Tests, filters and methods that differ are put right here; all others are minijinja's own.
pub fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("trim", trim);
    environment.add_filter("indent", indent);
    environment.add_filter("string", |value: &Value| text_of(value));
    environment.add_test("iterable", |v: &Value| !v.is_none() && v.try_iter().is_ok());
    environment.add_test("sequence", |v: &Value| {
        matches!(v.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
    });
    environment.add_test("number", |v: &Value| matches!(v.kind(), ValueKind::Number | ValueKind::Bool));
}

fn text_of(value: &Value) -> Result<String, Error> {
    python_text::text(value).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))
}

fn trim(value: &Value, chars: Option<String>) -> Result<String, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "trim: the value is null"));
    }
    let text = text_of(value)?;
    Ok(strip(&text, chars.as_deref(), true, true).to_string())
}

/// Jinja2's indent(s, width=4, first=False, blank=False); minijinja's loses a line end at the end.
fn indent(value: &Value, rest: Rest<Value>) -> Result<String, Error> {
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&rest)?;
    let argument = |index: usize, name: &str| match positional.get(index) {
        Some(given) => Ok(Some(given.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let margin = match argument(0, "width")? {
        None => "    ".to_string(),
        Some(width) => match (width.as_str(), width.as_usize()) {
            (Some(text), _) => text.to_string(),
            (None, Some(count)) if count <= 1000 => " ".repeat(count),
            _ => return Err(Error::new(ErrorKind::InvalidOperation, "indent: width must be a string or up to 1000")),
        },
    };
    let first = argument(1, "first")?.is_some_and(|v| v.is_true());
    let blank = argument(2, "blank")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let text = text_of(value)? + "\n";
    let mut out = String::with_capacity(text.len());
    for (index, line) in split_lines(&text, false).into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&margin);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// str.splitlines(keepends).
fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let is_end = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let stop = rest.find(is_end).unwrap_or(rest.len());
        let end = if rest[stop..].starts_with("\r\n") {
            stop + 2
        } else {
            stop + rest[stop..].chars().next().map_or(0, char::len_utf8)
        };
        lines.push(if keep_ends { &rest[..end] } else { &rest[..stop] });
        rest = &rest[end..];
    }
    lines
}

/// str.strip, lstrip and rstrip: by a set of characters, or by Python's white space.
fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| chars.map_or_else(|| python_text::is_space(c), |set| set.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right {
        text.trim_end_matches(goes)
    } else {
        text
    }
}

fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        if let Some(result) = string_method(text, name, args)? {
            return Ok(result);
        }
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        // pycompat loops for ever over an empty needle, and says true for an empty text
        "count" => {
            let (needle,): (&str,) = from_args(args)?;
            Value::from(if needle.is_empty() { text.chars().count() + 1 } else { text.matches(needle).count() })
        }
        "isspace" | "isdigit" | "isnumeric" | "isalnum" | "isalpha" | "islower" | "isupper" if text.is_empty() => {
            let () = from_args(args)?;
            Value::from(false)
        }
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Value::from_iter(split_lines(text, keep_ends.unwrap_or(false)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" | "rpartition" => partition(text, name == "rpartition", args)?,
        "rsplit" => return rsplit(text, args),
        _ => return Ok(None),
    }))
}

fn partition(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "partition: empty separator"));
    }
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match (cut, from_right) {
        (Some((head, tail)), _) => [head, separator, tail],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(Value::from_iter(parts))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let (separator, limit): (&str, Option<i64>) = from_args(args)?;
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: empty separator"));
    }
    let mut parts: Vec<&str> = match limit {
        Some(n) if n >= 0 => text.rsplitn((n as usize).saturating_add(1), separator).collect(),
        _ => text.rsplit(separator).collect(),
    };
    parts.reverse();
    Ok(Some(Value::from_iter(parts)))
}
