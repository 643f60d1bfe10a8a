//! Note [Spans come from the template]
//! An assistant message's span begins right after its header and ends right after its end-of-turn marker. Looking for
//! these in the finished text is wrong, for a content may hold them; rendering prefixes of the conversation is wrong, for
//! a template may write a message otherwise when others follow. So the rendering itself must say where messages are. In
//! this order:
//!
//! 1. `{% generation %}` blocks (generation.rs): the template's author says it; a span is a block.
//! 2. Counted: a message notes how many bytes were out when the template read it (messages.rs). A template that writes as
//!    it goes reads a message right before or right after it writes the header, so one of the counts must be at a header;
//!    and the end marker is the last one before the next message's turn. Nothing of the conversation is changed, so
//!    whatever the template does with a content (Qwen3 cuts at </think>) is done as always.
//! 3. Marked: a template that collects its output in a variable and writes it at the end has no useful counts. There each
//!    content is wrapped in private-use characters; if the text without them is the text, they show where contents are. The
//!    header must be once between the content before and this one, and the end marker once between this and the next; of
//!    several (a blank message lies between, and blank contents have no marks) the nearest is taken if the message has
//!    nothing but its content that could hold one.
//!
//! If neither holds the template is refused with the reason: a wrong mask would train silently on the user's words.

use crate::learn::{Place, Run, Turn};
use crate::messages::{self, JsonObject, Read};
use crate::python_text;

pub type Span = (usize, usize);

/// Spans from the counts. The error names the first message that does not show.
pub fn counted(run: &Run, turn: &Turn, messages: &[JsonObject], asked: bool) -> Result<Vec<Span>, String> {
    let text = &run.text;
    let indices: Vec<usize> = (0..messages.len()).filter(|&i| messages::role(&messages[i]) == "assistant").collect();
    let mut begins = Vec::with_capacity(indices.len());
    let mut lower = 0;
    for &index in &indices {
        let begin = begin_of(text, turn, &run.reads[index], lower).ok_or_else(|| {
            format!("message {index} (assistant): {:?} is not where the template reads it", turn.header)
        })?;
        begins.push(begin);
        lower = begin;
    }
    let mut stop = text.len();
    if asked && !turn.generation.is_empty() && text.ends_with(&turn.generation) {
        stop -= turn.generation.len();
    }
    let mut spans = Vec::with_capacity(indices.len());
    for (k, &index) in indices.iter().enumerate() {
        let (next, bound) = match indices.get(k + 1) {
            Some(&next) => (next, begins[k + 1] - turn.header.len()),
            None => (messages.len(), stop.max(begins[k])),
        };
        let end = end_of(text, turn, &run.reads[index + 1..next], begins[k], bound.max(begins[k]))
            .ok_or_else(|| format!("message {index} (assistant): {:?} does not end it", turn.end))?;
        spans.push((begins[k], end));
    }
    Ok(spans)
}

fn begin_of(text: &str, turn: &Turn, reads: &[Read], lower: usize) -> Option<usize> {
    let header = turn.header.as_str();
    let before = |at: usize| (at >= lower && text[at..].starts_with(header)).then_some(at + header.len());
    let after = |at: usize| (at >= lower + header.len() && text[..at].ends_with(header)).then_some(at);
    let last_content = reads.iter().rev().find(|r| r.is_content).map(|r| r.written);
    let usual = match turn.place {
        Place::BeforeHeader => last_content.and_then(before),
        Place::AfterHeader => last_content.and_then(after),
        Place::Elsewhere => None,
    };
    if usual.is_some() {
        return usual;
    }
    let mut found: Vec<usize> = reads.iter().flat_map(|r| [before(r.written), after(r.written)]).flatten().collect();
    found.sort_unstable();
    found.dedup();
    (found.len() == 1).then(|| found[0])
}

/// The end of the last end marker before the turn of the next message; `others` are the reads of the messages in between.
fn end_of(text: &str, turn: &Turn, others: &[Vec<Read>], begin: usize, bound: usize) -> Option<usize> {
    let last_end = |bound: usize| text[begin..bound].rfind(&turn.end).map(|i| begin + i + turn.end.len());
    let (mut earliest, mut latest) = (bound, bound);
    for reads in others {
        let here = |content: bool| {
            reads.iter().filter(move |r| (r.is_content || !content) && (begin..=bound).contains(&r.written))
        };
        let content_only = here(true).next().is_some();
        if let (Some(first), Some(last)) =
            (here(content_only).map(|r| r.written).min(), here(content_only).map(|r| r.written).max())
        {
            earliest = earliest.min(if content_only { first } else { last });
            latest = latest.min(last);
        }
    }
    let end = last_end(latest)?;
    (last_end(earliest) == Some(end)).then_some(end) // else the template looks ahead or back: not sure enough
}

const FIRST_MARK: u32 = 0x100000; // plane 16, private use
const LAST_MARK: u32 = 0x10FFFD;

fn is_mark(c: char) -> bool {
    (FIRST_MARK..=LAST_MARK).contains(&(c as u32))
}

/// The characters that stand before and after the content of message `index`.
fn marks(index: usize) -> Option<(char, char)> {
    let first = FIRST_MARK.checked_add(u32::try_from(index).ok()?.checked_mul(2)?)?;
    if first + 1 > LAST_MARK {
        return None;
    }
    Some((char::from_u32(first)?, char::from_u32(first + 1)?))
}

/// The conversation with every content wrapped, inside its outer white space so that a template's trim does what it did.
pub fn wrap_contents(messages: &[JsonObject]) -> Option<Vec<JsonObject>> {
    let mut wrapped = messages.to_vec();
    for (index, message) in wrapped.iter_mut().enumerate() {
        let Some(content) = messages::content(message) else { continue };
        let core = content.trim_matches(python_text::is_space);
        if core.is_empty() {
            continue;
        }
        let lead = content.len() - content.trim_start_matches(python_text::is_space).len();
        let (opening, closing) = marks(index)?;
        let (head, tail) = (&content[..lead], &content[lead + core.len()..]);
        let text = format!("{head}{opening}{core}{closing}{tail}");
        message.insert("content".into(), text.into());
    }
    Some(wrapped)
}

/// Spans from the rendering of wrap_contents(messages); `text` is the rendering of the messages themselves.
pub fn marked(text: &str, with_marks: &str, turn: &Turn, messages: &[JsonObject]) -> Result<Vec<Span>, String> {
    let mut plain = String::with_capacity(with_marks.len());
    let mut found: Vec<(char, usize)> = Vec::new(); // mark, offset in the plain text
    for c in with_marks.chars() {
        if is_mark(c) {
            found.push((c, plain.len()));
        } else {
            plain.push(c);
        }
    }
    if plain != text {
        return Err("and it depends on what a content begins or ends with, or on its length".into());
    }
    let mut spans = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if messages::role(message) == "assistant" {
            let only_content = message.keys().all(|key| key == "role" || key == "content");
            spans.push(marked_span(text, &found, turn, index, only_content).ok_or_else(|| {
                format!("and message {index} (assistant) does not show {:?} … {:?} once each", turn.header, turn.end)
            })?);
        }
    }
    Ok(spans)
}

fn marked_span(text: &str, found: &[(char, usize)], turn: &Turn, index: usize, only_content: bool) -> Option<Span> {
    let (opening, closing) = marks(index)?;
    let only = |mark: char| {
        let mut hits = (0..found.len()).filter(|&k| found[k].0 == mark);
        hits.next().filter(|_| hits.next().is_none())
    };
    let (first, last) = (only(opening)?, only(closing)?);
    if last != first + 1 {
        return None; // another content inside this one
    }
    let before = if first == 0 { 0 } else { found[first - 1].1 };
    let after = found.get(last + 1).map_or(text.len(), |mark| mark.1);
    let (head, tail) = (text.get(before..found[first].1)?, text.get(found[last].1..after)?);
    let (header, end) = (head.rfind(&turn.header)?, tail.find(&turn.end)?);
    let once = head.find(&turn.header) == Some(header) && tail.rfind(&turn.end) == Some(end);
    (once || only_content).then_some((before + header + turn.header.len(), found[last].1 + end + turn.end.len()))
}
