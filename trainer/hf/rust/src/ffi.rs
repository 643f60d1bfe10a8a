//! The C functions of `trainer/hf/qkr_hf.h`. Each catches panics; what is handed out is freed by the function beside it.
#![allow(clippy::missing_safety_doc)] // the header says what a caller owes

use crate::template::{ChatTemplate, Options};
use crate::tokenizer::Tokenizer;
use std::panic::{catch_unwind, set_hook, AssertUnwindSafe};
use std::ptr;
use std::sync::Once;

#[repr(C)]
#[derive(Clone, Copy)]
pub struct View {
    data: *const u8,
    size: usize,
}

#[repr(C)]
pub struct Text {
    data: *mut u8,
    size: usize,
}

#[repr(C)]
pub struct Encoding {
    ids: *mut i32,
    starts: *mut i64,
    size: usize,
}

#[repr(C)]
pub struct RenderArgs {
    messages: View,
    tools: View,
    extra: View,
    add_generation_prompt: i32,
    want_spans: i32,
    allow_dropped: i32,
}

#[repr(C)]
pub struct RenderResult {
    text: Text,
    spans: *mut i64,
    span_count: usize,
}

impl View {
    unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.size == 0 {
            &[]
        } else {
            std::slice::from_raw_parts(self.data, self.size)
        }
    }

    unsafe fn text<'a>(self, what: &str) -> Result<&'a str, String> {
        std::str::from_utf8(self.bytes())
            .map_err(|e| format!("{what} must be UTF-8, got a bad byte at offset {}", e.valid_up_to()))
    }
}

/// A vector as a pointer that `take_back` turns into a vector again. Empty gives null.
fn give<T>(items: Vec<T>) -> (*mut T, usize) {
    let size = items.len();
    if size == 0 {
        return (ptr::null_mut(), 0);
    }
    (Box::into_raw(items.into_boxed_slice()).cast(), size)
}

unsafe fn take_back<T>(data: *mut T, size: usize) {
    if !data.is_null() {
        drop(Box::from_raw(ptr::slice_from_raw_parts_mut(data, size)));
    }
}

fn give_text(text: String) -> Text {
    let (data, size) = give(text.into_bytes());
    Text { data, size }
}

/// 0 and the result stored, or 1 and one line in `error`. Panics (also inside the crates) end here and print nothing.
unsafe fn guard<T>(error: *mut Text, out: *mut T, work: impl FnOnce() -> Result<T, String>) -> i32 {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| set_hook(Box::new(|_| {})));
    let failure = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => {
            out.write(value);
            return 0;
        }
        Ok(Err(what)) => what,
        Err(panic) => format!("the library gave up: {}", reason_of(panic)),
    };
    error.write(give_text(failure.replace(['\n', '\r'], " ")));
    1
}

/// What a caught panic says.
pub fn reason_of(panic: Box<dyn std::any::Any + Send>) -> String {
    let told = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    told.unwrap_or("no reason given").to_string()
}

unsafe fn free_box<T>(object: *mut T) {
    if !object.is_null() {
        let _ = catch_unwind(AssertUnwindSafe(|| drop(Box::from_raw(object))));
    }
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_text_free(text: Text) {
    take_back(text.data, text.size);
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_tokenizer_load(json: View, out: *mut *mut Tokenizer, error: *mut Text) -> i32 {
    guard(error, out, || Ok(Box::into_raw(Box::new(Tokenizer::load(json.bytes())?))))
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_tokenizer_free(tokenizer: *mut Tokenizer) {
    free_box(tokenizer);
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_encode(
    tokenizer: *const Tokenizer,
    text: View,
    add_special: i32,
    out: *mut Encoding,
    error: *mut Text,
) -> i32 {
    guard(error, out, || {
        let encoded = (*tokenizer).encode(text.text("text")?, add_special != 0)?;
        let (ids, size) = give(encoded.ids);
        let (starts, _) = give(encoded.starts);
        Ok(Encoding { ids, starts, size })
    })
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_encoding_free(encoding: Encoding) {
    take_back(encoding.ids, encoding.size);
    take_back(encoding.starts, encoding.size);
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_decode(
    tokenizer: *const Tokenizer,
    ids: *const i32,
    size: usize,
    skip_special: i32,
    out: *mut Text,
    error: *mut Text,
) -> i32 {
    guard(error, out, || {
        let ids = if size == 0 { &[] } else { std::slice::from_raw_parts(ids, size) };
        Ok(give_text((*tokenizer).decode(ids, skip_special != 0)?))
    })
}

/// The id, or -1 where the token is unknown.
#[no_mangle]
pub unsafe extern "C" fn qkr_hf_token_to_id(
    tokenizer: *const Tokenizer,
    token: View,
    out: *mut i64,
    error: *mut Text,
) -> i32 {
    guard(error, out, || Ok((*tokenizer).token_to_id(token.text("token")?).map_or(-1, i64::from)))
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_vocab_size(tokenizer: *const Tokenizer) -> i64 {
    (*tokenizer).vocab_size()
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_template_load(
    source: View,
    special: View,
    name: View,
    out: *mut *mut ChatTemplate,
    error: *mut Text,
) -> i32 {
    guard(error, out, || {
        let name = name.text("name")?;
        let source = source.text(&format!("{name}: the template"))?;
        let template = ChatTemplate::load(source, special.text("special tokens")?, name)?;
        Ok(Box::into_raw(Box::new(template)))
    })
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_template_free(template: *mut ChatTemplate) {
    free_box(template);
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_render(
    template: *const ChatTemplate,
    args: *const RenderArgs,
    out: *mut RenderResult,
    error: *mut Text,
) -> i32 {
    guard(error, out, || {
        let args = &*args;
        let options = Options {
            add_generation_prompt: args.add_generation_prompt != 0,
            want_spans: args.want_spans != 0,
            allow_dropped: args.allow_dropped != 0,
            extra_json: args.extra.text("template variables")?,
        };
        let rendered = (*template).render(args.messages.text("messages")?, args.tools.text("tools")?, &options)?;
        let flat: Vec<i64> = rendered.spans.iter().flat_map(|&(begin, end)| [begin as i64, end as i64]).collect();
        let (spans, size) = give(flat);
        Ok(RenderResult { text: give_text(rendered.text), spans, span_count: size / 2 })
    })
}

#[no_mangle]
pub unsafe extern "C" fn qkr_hf_rendered_free(rendered: RenderResult) {
    take_back(rendered.spans, 2 * rendered.span_count);
    take_back(rendered.text.data, rendered.text.size);
}
