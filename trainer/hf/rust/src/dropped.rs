//! Does the template write every message? Qwen3's leaves unknown roles out without a word. Asked by rendering the
//! conversation once more with each content replaced by a word of its own, and once only for each sequence of roles.

use crate::messages::{self, JsonObject};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

const LARGEST_CACHE: usize = 4096;

#[derive(Default)]
pub struct DropCheck {
    fine: Mutex<HashSet<String>>, // shapes of conversations that are written whole
}

fn word(index: usize) -> String {
    format!("Qkrmessage{index}x")
}

/// With tool calls a template may leave the content out, and does so rightly: the calls are the message.
fn is_checked(message: &JsonObject) -> bool {
    messages::content(message).is_some() && !messages::has_tool_calls(message)
}

impl DropCheck {
    /// The first message that does not appear. `render` gives the text of other messages; `with_tools` is part of the shape.
    pub fn find(
        &self,
        messages: &[JsonObject],
        with_tools: bool,
        render: &dyn Fn(&[JsonObject]) -> Result<String, String>,
    ) -> Option<usize> {
        let mut shape = String::from(if with_tools { "t" } else { "-" });
        for message in messages {
            shape.push_str(if is_checked(message) { "\n" } else { "\r" });
            shape.push_str(messages::role(message));
        }
        let lock = || self.fine.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().contains(&shape) {
            return None;
        }
        let mut renamed = messages.to_vec();
        for (index, message) in renamed.iter_mut().enumerate() {
            if is_checked(message) {
                message.insert("content".into(), word(index).into());
            }
        }
        let text = render(&renamed).ok()?; // it wants contents of a certain form: nothing can be said
        let dropped = (0..messages.len()).find(|&i| is_checked(&messages[i]) && !text.contains(&word(i)));
        let mut fine = lock();
        if dropped.is_none() && fine.len() < LARGEST_CACHE {
            fine.insert(shape);
        }
        dropped
    }
}
