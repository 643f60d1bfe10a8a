//! Note [Learning the turn]
//! The text that opens an assistant's turn (its header) and the marker that ends it are not asked for: they are learned from
//! three renderings of a small conversation whose contents are words that nothing else holds.
//!
//! * Where the user's turn ends: there the message is first read after the user's text, and there the renderings with and
//!   without the answer part.
//! * header: what stands from there to the assistant's content, as far as every turn and the generation prompt agree
//!   (the prompt is what a served model is given, so all that follows it is the model's to write: a think block, a
//!   space). Without a generation prompt, all but trailing spaces. If nothing is left (Llama 2), the marker that ends the
//!   user's turn.
//! * end: in the text that follows the content both inside a conversation and at its end, the first special token or
//!   `<|…|>`; if there is none, the first `<…>`. A template without one is refused: a model trained on it would not
//!   stop.

use crate::messages::{JsonObject, Read};
use serde_json::Value as Json;

/// What was learned of a template.
#[derive(Clone, Debug)]
pub struct Turn {
    pub header: String,
    pub end: String,
    pub generation: String, // what add_generation_prompt appends
    pub place: Place,
}

/// Where the output stood, relative to the header, when the template last read a message's content.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Place {
    BeforeHeader,
    AfterHeader,
    Elsewhere,
}

/// One rendering: the text, and the reads of each message.
pub struct Run {
    pub text: String,
    pub reads: Vec<Vec<Read>>,
}

const WORDS: [&str; 4] = ["Qkrfirstask", "Qkrfirstanswer", "Qkrsecondask", "Qkrsecondanswer"];

fn conversation(length: usize) -> Vec<JsonObject> {
    let message = |index: usize| {
        let role = if index % 2 == 0 { "user" } else { "assistant" };
        let mut fields = JsonObject::new();
        fields.insert("role".into(), Json::from(role));
        fields.insert("content".into(), Json::from(WORDS[index]));
        fields
    };
    (0..length).map(message).collect()
}

/// The range of `word`, which must be in `text` once.
fn place_of(text: &str, word: &str) -> Result<(usize, usize), String> {
    match (text.find(word), text.rfind(word)) {
        (Some(first), Some(last)) if first == last => Ok((first, first + word.len())),
        _ => Err("it does not write the content of each message once".into()),
    }
}

fn common_prefix<'t>(a: &'t str, b: &str) -> &'t str {
    let length = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    &a[..length]
}

/// Texts that part inside a marker share its beginning: back to the end of the last whole marker or line.
fn whole_part(text: &str) -> &str {
    text.rfind(['>', ']', '\n', ':']).map_or("", |i| &text[..=i])
}

fn shared<'t>(first: &'t str, others: &[&str]) -> &'t str {
    let common = others.iter().fold(first, |a, b| common_prefix(a, b));
    let whole = common.len() == first.len() || others.iter().any(|o| o.len() == common.len());
    if whole {
        common
    } else {
        whole_part(common)
    }
}

/// What is between the end of the user's turn and the assistant's content: (offset of its start, text).
fn opening<'t>(full: &'t str, user_end: usize, content: usize, prompt_tail: &str, reads: &[Read]) -> (usize, &'t str) {
    let between = &full[user_end..content];
    let user_tail = shared(prompt_tail, &[between]).len();
    let first_read = reads.iter().map(|r| r.written).filter(|w| (user_end..=content).contains(w)).min();
    let from = first_read.unwrap_or(user_end).max(user_end + user_tail);
    (from, &full[from..content])
}

/// `render(messages, add_generation_prompt)`; `special` are the special tokens' texts.
pub fn learn(render: &dyn Fn(&[JsonObject], bool) -> Result<Run, String>, special: &[String]) -> Result<Turn, String> {
    let run = render(&conversation(4), false)?;
    let full = &run.text;
    let mut places = [(0, 0); 4];
    for (place, word) in places.iter_mut().zip(WORDS) {
        *place = place_of(full, word)?;
    }
    if !places.windows(2).all(|pair| pair[0].1 <= pair[1].0) {
        return Err("it does not write the messages in their order".into());
    }
    let prompt = render(&conversation(1), false)?.text;
    let asked = render(&conversation(1), true)?.text;
    let prompt_tail = &prompt[place_of(&prompt, WORDS[0])?.1..];
    let asked_tail = &asked[place_of(&asked, WORDS[0])?.1..];

    let (from, first) = opening(full, places[0].1, places[1].0, prompt_tail, &run.reads[1]);
    let (_, second) = opening(full, places[2].1, places[3].0, prompt_tail, &run.reads[3]);
    let user_tail = &full[places[0].1..from];
    let generation = asked_tail.strip_prefix(user_tail).unwrap_or("");
    let header = header_text(first, second, generation, user_tail)?;
    let tail = shared(&full[places[3].1..], &[&full[places[1].1..places[2].0]]);
    let end = first_marker(tail, special)
        .ok_or("no end-of-turn marker follows an assistant's content both inside a conversation and at its end")?;
    let place = place_of_reads(full, &header, &[&run.reads[1], &run.reads[3]]);
    Ok(Turn { header, end: end.into(), generation: generation.into(), place })
}

fn header_text(first: &str, second: &str, generation: &str, user_tail: &str) -> Result<String, String> {
    let given = shared(first, &[second, generation]);
    if !given.is_empty() {
        return Ok(given.into());
    }
    let own = shared(first, &[second]).trim_end_matches(' ');
    if !own.is_empty() {
        return Ok(own.into());
    }
    let tail = user_tail.trim_end();
    let opens = match tail.chars().next_back() {
        Some('>') => tail.rfind('<'),
        Some(']') => tail.rfind('['),
        _ => None,
    };
    opens.map(|i| tail[i..].into()).ok_or("nothing marks where an assistant's turn begins".into())
}

fn first_marker<'t>(tail: &'t str, special: &[String]) -> Option<&'t str> {
    let known = special.iter().filter(|s| !s.is_empty()).filter_map(|s| tail.find(s.as_str()).map(|i| (i, s.len())));
    let piped = angle_marks(tail).filter(|(i, n)| {
        let inner = &tail[i + 1..i + n - 1];
        inner.len() > 2 && inner.starts_with(['|', '｜']) && inner.ends_with(['|', '｜'])
    });
    let (at, length) =
        known.chain(piped).min_by_key(|&(i, n)| (i, usize::MAX - n)).or_else(|| angle_marks(tail).next())?;
    Some(&tail[at..at + length])
}

/// (offset, length) of every `<…>` without white space or another `<` inside.
fn angle_marks(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    text.match_indices('<').filter_map(move |(i, _)| {
        let inner = &text[i + 1..];
        let stop = inner.find(|c: char| c == '>' || c == '<' || c.is_whitespace())?;
        (stop > 0 && inner[stop..].starts_with('>')).then_some((i, stop + 2))
    })
}

fn place_of_reads(full: &str, header: &str, reads: &[&Vec<Read>; 2]) -> Place {
    let last = |r: &Vec<Read>| r.iter().rev().find(|r| r.is_content).map(|r| r.written);
    let all = |holds: &dyn Fn(usize) -> bool| reads.iter().all(|r| last(r).is_some_and(holds));
    if all(&|at| full[at..].starts_with(header)) {
        Place::BeforeHeader
    } else if all(&|at| full[..at].ends_with(header)) {
        Place::AfterHeader
    } else {
        Place::Elsewhere
    }
}
