//! A chat template in minijinja, set up as transformers sets up Jinja2.

use crate::dropped::DropCheck;
use crate::ffi::reason_of;
use crate::learn::{self, Run, Turn};
use crate::messages::{self, CountingWriter, JsonObject, Tracker};
use crate::spans::{self, Span};
use crate::{functions, generation, methods, python_text, tojson, value};
use minijinja::value::Value;
use minijinja::{escape_formatter, AutoEscape, Environment, Error, ErrorKind};
use serde_json::Value as Json;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::OnceLock;

const FUEL: u64 = 20_000_000; // steps of the engine, about two seconds; a long conversation takes thousands
const TEMPLATE: &str = "chat_template";

// The engine's compiler recurses once for each operator of a chain: with so short a source on so large a stack (reserved,
// not used) no template can overflow it. The longest public templates have 20 KB.
const LONGEST_SOURCE: usize = 128 << 10;
const COMPILE_STACK: usize = 512 << 20;

pub struct ChatTemplate {
    environment: Environment<'static>,
    name: String,
    has_generation: bool,
    special: JsonObject,
    turn: OnceLock<Result<Turn, String>>,
    dropped: DropCheck,
}

pub struct Options<'a> {
    pub add_generation_prompt: bool,
    pub want_spans: bool,
    pub allow_dropped: bool,
    pub extra_json: &'a str,
}

pub struct Rendered {
    pub text: String,
    pub spans: Vec<Span>,
}

/// The variables of one rendering.
struct Call<'a> {
    tools: &'a Json,
    extra: &'a JsonObject,
    add_generation_prompt: bool,
}

impl ChatTemplate {
    pub fn load(source: &str, special_json: &str, name: &str) -> Result<ChatTemplate, String> {
        let special = parse_object(special_json, "special tokens").map_err(|what| format!("{name}: {what}"))?;
        if source.len() > LONGEST_SOURCE {
            return Err(format!("{name}: a template must have at most {LONGEST_SOURCE} bytes, got {}", source.len()));
        }
        let source = source.replace("\r\n", "\n").replace('\r', "\n"); // as Jinja2's lexer does
        let rewritten = generation::rewrite(&source);
        let mut template = ChatTemplate {
            environment: new_environment(),
            name: name.to_string(),
            has_generation: rewritten.is_some(),
            special,
            turn: OnceLock::new(),
            dropped: DropCheck::default(),
        };
        let compile = move || -> Result<ChatTemplate, String> {
            let added = template.environment.add_template_owned(TEMPLATE, rewritten.unwrap_or(source));
            added.map_err(|e| template.describe(&e))?;
            Ok(template)
        };
        let thread = std::thread::Builder::new().stack_size(COMPILE_STACK).spawn(compile);
        let finished = thread.map_err(|e| format!("{name}: no thread to compile it in: {e}"))?.join();
        finished.unwrap_or_else(|_| Err(format!("{name}: the template engine gave up on it")))
    }

    /// A template that makes the engine panic (''[::-1] does) is at fault by name.
    pub fn render(&self, messages_json: &str, tools_json: &str, options: &Options) -> Result<Rendered, String> {
        let work = AssertUnwindSafe(|| self.render_parsed(messages_json, tools_json, options));
        catch_unwind(work)
            .unwrap_or_else(|panic| Err(format!("{}: the template engine gave up: {}", self.name, reason_of(panic))))
    }

    fn render_parsed(&self, messages_json: &str, tools_json: &str, options: &Options) -> Result<Rendered, String> {
        let messages = messages::parse(messages_json)?;
        let tools = parse_tools(tools_json)?;
        let extra = parse_object(options.extra_json, "template variables")?;
        let call = Call { tools: &tools, extra: &extra, add_generation_prompt: options.add_generation_prompt };
        let run = self.run(&messages, &call, None).map_err(|what| what + &null_content(&messages))?;
        if !options.allow_dropped {
            self.refuse_dropped(&messages, &call)?;
        }
        let spans = if options.want_spans { self.find_spans(&run, &messages, &call)? } else { Vec::new() };
        Ok(Rendered { text: run.text, spans })
    }

    fn refuse_dropped(&self, messages: &[JsonObject], call: &Call) -> Result<(), String> {
        let render = |renamed: &[JsonObject]| self.run(renamed, call, None).map(|run| run.text);
        match self.dropped.find(messages, !call.tools.is_null(), &render) {
            None => Ok(()),
            Some(index) => Err(format!(
                "message {index}: role must be one that {} writes, got \"{}\", which it leaves out",
                self.name,
                messages::role(&messages[index])
            )),
        }
    }

    fn find_spans(&self, run: &Run, messages: &[JsonObject], call: &Call) -> Result<Vec<Span>, String> {
        if self.has_generation {
            return self.generation_spans(&run.text, messages, call);
        }
        if !messages.iter().any(|m| messages::role(m) == "assistant") {
            return Ok(Vec::new());
        }
        let unseen = |why: &str| {
            format!(
                "{}: does not show where an assistant message begins and ends: {why}; mark its text with \
                 {{% generation %}} … {{% endgeneration %}}",
                self.name
            )
        };
        let turn = self.turn.get_or_init(|| self.learn()).as_ref().map_err(|why| unseen(why))?;
        let counted = match spans::counted(run, turn, messages, call.add_generation_prompt) {
            Ok(spans) => return Ok(spans),
            Err(why) => why,
        };
        let wrapped = spans::wrap_contents(messages).ok_or_else(|| unseen(&counted))?;
        let marked = self
            .run(&wrapped, call, None)
            .and_then(|with_marks| spans::marked(&run.text, &with_marks.text, turn, messages));
        marked.map_err(|why| unseen(&format!("{counted}, {why}")))
    }

    fn learn(&self) -> Result<Turn, String> {
        let render = |messages: &[JsonObject], ask: bool| {
            self.run(
                messages,
                &Call { tools: &Json::Null, extra: &JsonObject::new(), add_generation_prompt: ask },
                None,
            )
        };
        let texts = |item: &Json| match item {
            Json::String(text) => vec![text.clone()],
            Json::Array(items) => items.iter().filter_map(|i| i.as_str().map(String::from)).collect(),
            _ => Vec::new(),
        };
        let special: Vec<String> = self.special.values().flat_map(texts).collect();
        learn::learn(&render, &special)
    }

    /// One span a block, found by private characters that the text itself does not hold.
    fn generation_spans(&self, text: &str, messages: &[JsonObject], call: &Call) -> Result<Vec<Span>, String> {
        let free = |from: u32| (from..0x10FFFE).filter_map(char::from_u32).find(|&c| !text.contains(c));
        let opening = free(0x100000).ok_or("the text holds every private character")?;
        let closing = free(opening as u32 + 1).ok_or("the text holds every private character")?;
        let marked = self.run(messages, call, Some((opening, closing)))?.text;
        let mut plain = String::with_capacity(text.len());
        let mut spans = Vec::new();
        let mut begun = None;
        for c in marked.chars() {
            if c == opening {
                begun = Some(plain.len());
            } else if c == closing {
                spans.extend(begun.take().map(|begin| (begin, plain.len())));
            } else {
                plain.push(c);
            }
        }
        if plain != text {
            return Err(format!("{}: changes the text of a generation block after the block", self.name));
        }
        Ok(spans)
    }

    fn run(&self, messages: &[JsonObject], call: &Call, marks: Option<(char, char)>) -> Result<Run, String> {
        let tracker = Tracker::new(messages.len());
        let mut variables: Vec<(String, Value)> = Vec::new();
        variables.push(("documents".into(), Value::from(())));
        for (key, item) in self.special.iter().filter(|(_, item)| !item.is_null()).chain(call.extra) {
            let variable = value::from_json(item).map_err(|what| format!("{}: {key}: {what}", self.name))?;
            variables.push((key.clone(), variable));
        }
        if let Some((opening, closing)) = marks {
            variables.push((generation::OPENING.into(), Value::from(opening)));
            variables.push((generation::CLOSING.into(), Value::from(closing)));
        }
        let tools = value::from_json(call.tools).map_err(|what| format!("tools: {what}"))?;
        variables.push(("tools".into(), tools));
        variables.push(("messages".into(), messages::list(messages, &tracker)?));
        variables.push(("add_generation_prompt".into(), Value::from(call.add_generation_prompt)));

        let template = self.environment.get_template(TEMPLATE).map_err(|e| self.describe(&e))?;
        let mut writer = CountingWriter::new(tracker.clone());
        let context: Value = variables.into_iter().collect();
        template.render_captured_to(context, &mut writer).map_err(|e| self.describe(&e))?;
        let text = String::from_utf8(writer.bytes).map_err(|_| format!("{}: writes no UTF-8", self.name))?;
        Ok(Run { text, reads: tracker.take_reads() })
    }

    /// "<name>:<line>: <what>", in one line.
    fn describe(&self, error: &Error) -> String {
        let mut innermost = error;
        while let Some(next) = std::error::Error::source(innermost).and_then(|e| e.downcast_ref::<Error>()) {
            innermost = next;
        }
        let detail = innermost.detail().map_or_else(|| innermost.kind().to_string(), String::from);
        let what = match innermost.kind() {
            ErrorKind::SyntaxError => format!("syntax error: {detail}"),
            ErrorKind::OutOfFuel => format!("the template does not end (more than {FUEL} steps)"),
            ErrorKind::WriteFailure => "the template writes more than 1 GiB".into(),
            _ => detail,
        };
        let line = error.line().map_or_else(String::new, |line| format!("{line}:"));
        format!("{}:{line} {}", self.name, what.replace(['\n', '\r'], " "))
    }
}

fn new_environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(false);
    environment.set_formatter(|out, state, item| {
        if item.is_none() {
            let what = "it writes a null value as text (transformers would write None)";
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        }
        if item.as_object().is_none() && !python_text::is_float(item) {
            return escape_formatter(out, state, item);
        }
        let text = python_text::text(item).map_err(|what| Error::new(ErrorKind::InvalidOperation, what))?;
        out.write_str(&text).map_err(Error::from)
    });
    environment.remove_global("debug"); // not Jinja2's
    environment.add_filter("tojson", tojson::filter);
    environment.add_function(generation::FUNCTION, generation::call);
    methods::install(&mut environment);
    functions::install(&mut environment);
    environment
}

fn parse_object(json: &str, what: &str) -> Result<JsonObject, String> {
    let parsed: Json = serde_json::from_str(json).map_err(|e| format!("{what} must be JSON, got an error: {e}"))?;
    let Json::Object(fields) = parsed else {
        return Err(format!("{what} must be an object, got {}", value::kind_name(&parsed)));
    };
    let taken = ["messages", "tools", "add_generation_prompt", generation::OPENING, generation::CLOSING];
    match fields.keys().find(|key| taken.contains(&key.as_str())) {
        Some(key) => Err(format!("{what} must not hold {key}")),
        None => Ok(fields),
    }
}

fn parse_tools(json: &str) -> Result<Json, String> {
    let tools: Json = serde_json::from_str(json).map_err(|e| format!("tools must be JSON, got an error: {e}"))?;
    match tools {
        Json::Null | Json::Array(_) => Ok(tools),
        other => Err(format!("tools must be a list or null, got {}", value::kind_name(&other))),
    }
}

/// A template that fails often does so on a content that tool calls stand in for: say which.
fn null_content(messages: &[JsonObject]) -> String {
    let index = messages.iter().position(|m| messages::content(m).is_none());
    index.map_or_else(String::new, |i| format!(" (message {i} has tool calls and no content)"))
}
