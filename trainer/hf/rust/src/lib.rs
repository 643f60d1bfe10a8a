//! Hugging Face's tokenizer and a Jinja engine behind the C functions of `trainer/hf/qkr_hf.h`. No file is opened here.

mod dropped;
mod ffi;
mod functions;
mod generation;
mod learn;
mod messages;
mod methods;
mod python_text;
mod spans;
mod template;
mod tojson;
mod tokenizer;
mod value;
