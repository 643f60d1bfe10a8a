//! `{% generation %} … {% endgeneration %}` marks the assistant's own text. transformers has it as a call block, so it is
//! rewritten to one: `{% call __qkr_generation() %} … {% endcall %}`. Scoping and white space stay as they are, and the
//! function puts two private characters around what the block wrote.

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, State};

pub const FUNCTION: &str = "__qkr_generation";
pub const OPENING: &str = "__qkr_opening"; // context variables: the private characters, or absent
pub const CLOSING: &str = "__qkr_closing";

/// The function behind the call block.
pub fn call(state: &State, kwargs: Kwargs) -> Result<String, Error> {
    let written = kwargs.get::<Value>("caller")?.call(state, &[])?;
    let mark = |name: &str| state.lookup(name).map(|v| v.to_string()).unwrap_or_default();
    Ok(format!("{}{}{}", mark(OPENING), written, mark(CLOSING)))
}

/// `source` with its generation tags rewritten, or None if it has none. Comments, raw blocks and strings are left alone.
pub fn rewrite(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut found = false;
    let mut at = 0; // everything before is copied or rewritten
    while let Some(open) = next_open(source, at) {
        out.push_str(&source[at..open]);
        at = open;
        let close = match &source[open..open + 2] {
            "{#" => source[open..].find("#}").map(|i| open + i + 2),
            "{{" => end_of_expression(source, open + 2, "}}"),
            _ => end_of_expression(source, open + 2, "%}"),
        };
        let Some(mut close) = close else { break }; // unclosed: the engine will say so
        if source[open..].starts_with("{%") {
            let (lead, word, tail) = tag_parts(&source[open..close]);
            match word {
                "generation" if is_bare(tail) => {
                    out.push_str(&format!("{lead}call {FUNCTION}(){tail}"));
                    found = true;
                    at = close;
                    continue;
                }
                "endgeneration" if is_bare(tail) => {
                    out.push_str(&format!("{lead}endcall{tail}"));
                    at = close;
                    continue;
                }
                "raw" => close = end_of_raw(source, close),
                _ => {}
            }
        }
        out.push_str(&source[at..close]);
        at = close;
    }
    out.push_str(&source[at..]);
    found.then_some(out)
}

fn next_open(source: &str, from: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    (from..bytes.len().saturating_sub(1)).find(|&i| bytes[i] == b'{' && matches!(bytes[i + 1], b'%' | b'{' | b'#'))
}

/// The offset just after `closing`, strings skipped.
fn end_of_expression(source: &str, from: usize, closing: &str) -> Option<usize> {
    let bytes = source.as_bytes();
    let mut quote = 0;
    let mut i = from;
    while i < bytes.len() {
        if quote != 0 {
            match bytes[i] {
                b'\\' => i += 1,
                c if c == quote => quote = 0,
                _ => {}
            }
        } else if bytes[i..].starts_with(closing.as_bytes()) {
            return Some(i + closing.len());
        } else if matches!(bytes[i], b'"' | b'\'') {
            quote = bytes[i];
        }
        i += 1;
    }
    None
}

/// "{%- word rest %}" → ("{%- ", "word", " rest %}").
fn tag_parts(tag: &str) -> (&str, &str, &str) {
    let bytes = tag.as_bytes();
    let mut begin = 2;
    if begin < bytes.len() && matches!(bytes[begin], b'-' | b'+') {
        begin += 1;
    }
    while begin < bytes.len() && bytes[begin].is_ascii_whitespace() {
        begin += 1;
    }
    let mut end = begin;
    while end < bytes.len() && (bytes[end].is_ascii_alphanumeric() || bytes[end] == b'_') {
        end += 1;
    }
    (&tag[..begin], &tag[begin..end], &tag[end..])
}

fn is_bare(tail: &str) -> bool {
    matches!(tail.trim_start(), "%}" | "-%}" | "+%}")
}

fn end_of_raw(source: &str, from: usize) -> usize {
    let mut at = from;
    while let Some(i) = source[at..].find("{%") {
        let open = at + i;
        let Some(close) = source[open..].find("%}").map(|i| open + i + 2) else { break };
        if tag_parts(&source[open..close]).1 == "endraw" {
            return close;
        }
        at = open + 2;
    }
    source.len()
}
