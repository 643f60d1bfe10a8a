//! Messages that note how far the output had come whenever the template read one of their fields, and the writer that
//! counts.

use crate::value;
use minijinja::value::{Enumerator, Object, Value};
use serde_json::{Map, Value as Json};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub type JsonObject = Map<String, Json>;

/// More output than this is refused: no conversation is so long, and a hostile template would fill the memory.
const MAX_OUTPUT: usize = 1 << 30;

/// One read of a field: the bytes written until then.
#[derive(Clone, Copy, PartialEq)]
pub struct Read {
    pub written: usize,
    pub is_content: bool,
}

/// What one rendering did; shared by the writer and the messages.
pub struct Tracker {
    written: AtomicUsize,
    reads: Vec<Mutex<Vec<Read>>>, // by message
}

impl Tracker {
    pub fn new(message_count: usize) -> Arc<Tracker> {
        let reads = (0..message_count).map(|_| Mutex::new(Vec::new())).collect();
        Arc::new(Tracker { written: AtomicUsize::new(0), reads })
    }

    fn note(&self, message: usize, is_content: bool) {
        let read = Read { written: self.written.load(Ordering::Relaxed), is_content };
        let mut reads = self.reads[message].lock().unwrap_or_else(PoisonError::into_inner);
        if reads.last() != Some(&read) {
            reads.push(read);
        }
    }

    /// The reads of each message, in the order they happened.
    pub fn take_reads(&self) -> Vec<Vec<Read>> {
        self.reads.iter().map(|r| std::mem::take(&mut *r.lock().unwrap_or_else(PoisonError::into_inner))).collect()
    }
}

struct Message {
    index: usize,
    keys: Vec<Value>,
    fields: Value, // a map
    tracker: Arc<Tracker>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<message {}>", self.index)
    }
}

impl Object for Message {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.tracker.note(self.index, key.as_str() == Some("content"));
        self.fields.as_object()?.get_value(key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.keys.clone())
    }
}

/// The list of messages as the template sees it.
pub fn list(messages: &[JsonObject], tracker: &Arc<Tracker>) -> Result<Value, String> {
    let mut items = Vec::with_capacity(messages.len());
    for (index, message) in messages.iter().enumerate() {
        let mut fields = Vec::with_capacity(message.len());
        for (key, item) in message {
            let item = value::from_json(item).map_err(|what| format!("message {index}: {key}: {what}"))?;
            fields.push((Value::from(key.as_str()), item));
        }
        items.push(Value::from_object(Message {
            index,
            keys: fields.iter().map(|(key, _)| key.clone()).collect(),
            fields: fields.into_iter().collect(),
            tracker: tracker.clone(),
        }));
    }
    Ok(Value::from(items))
}

/// The output of one rendering.
pub struct CountingWriter {
    pub bytes: Vec<u8>,
    tracker: Arc<Tracker>,
}

impl CountingWriter {
    pub fn new(tracker: Arc<Tracker>) -> CountingWriter {
        CountingWriter { bytes: Vec::new(), tracker }
    }
}

impl io::Write for CountingWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + data.len() > MAX_OUTPUT {
            return Err(io::Error::other("the template writes more than 1 GiB"));
        }
        self.bytes.extend_from_slice(data);
        self.tracker.written.store(self.bytes.len(), Ordering::Relaxed);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub fn role(message: &JsonObject) -> &str {
    message.get("role").and_then(Json::as_str).unwrap_or_default()
}

pub fn content(message: &JsonObject) -> Option<&str> {
    message.get("content").and_then(Json::as_str)
}

pub fn has_tool_calls(message: &JsonObject) -> bool {
    message.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
}

/// A JSON list of messages, checked: each an object with a role and a text as content (or tool calls in its place).
pub fn parse(json: &str) -> Result<Vec<JsonObject>, String> {
    let parsed: Json = serde_json::from_str(json).map_err(|e| format!("messages must be JSON, got an error: {e}"))?;
    let Json::Array(items) = parsed else {
        return Err(format!("messages must be a list, got {}", value::kind_name(&parsed)));
    };
    if items.is_empty() {
        return Err("messages must not be an empty list".into());
    }
    let mut messages = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        let Json::Object(message) = item else {
            return Err(format!("message {index} must be an object, got {}", value::kind_name(&item)));
        };
        check(index, &message)?;
        messages.push(message);
    }
    Ok(messages)
}

fn check(index: usize, message: &JsonObject) -> Result<(), String> {
    let name = match message.get("role") {
        Some(Json::String(name)) if !name.is_empty() => name,
        Some(other) => return Err(format!("message {index}: role must be a name, got {}", describe(other))),
        None => return Err(format!("message {index}: role must be given, got none")),
    };
    let got = match message.get("content") {
        Some(Json::String(_)) => return Ok(()),
        Some(Json::Null) | None if has_tool_calls(message) => return Ok(()), // the template decides
        Some(other) => value::kind_name(other),
        None => "none at all",
    };
    Err(format!("message {index} ({name}): content must be a string, got {got}"))
}

fn describe(json: &Json) -> String {
    if json.as_str() == Some("") {
        "an empty string".into()
    } else {
        value::kind_name(json).into()
    }
}
