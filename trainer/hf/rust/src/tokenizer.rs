//! The `tokenizers` crate, loaded from the bytes of tokenizer.json.

use tokenizers::processors::PostProcessorWrapper;
use tokenizers::Tokenizer as Inner;

pub struct Tokenizer {
    inner: Inner,
    vocab_size: i64,
}

pub struct Encoded {
    pub ids: Vec<i32>,
    pub starts: Vec<i64>,
}

impl Tokenizer {
    pub fn load(json: &[u8]) -> Result<Tokenizer, String> {
        let mut inner = Inner::from_bytes(json).map_err(|e| e.to_string())?;
        // transformers ignores what the file says of both, unless asked; a trainer that cut silently would be wrong
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        let whole = inner.get_post_processor().map(keep_offsets).transpose()?;
        inner.with_post_processor(whole);
        let largest = inner.get_vocab(true).into_values().max();
        match largest {
            Some(id) if id <= i32::MAX as u32 => Ok(Tokenizer { inner, vocab_size: i64::from(id) + 1 }),
            Some(id) => Err(format!("the largest id must be below 2^31, got {id}")),
            None => Err("must hold at least one token, got none".into()),
        }
    }

    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoded, String> {
        let encoding = self.inner.encode(text, add_special).map_err(|e| e.to_string())?;
        if encoding.get_ids().len() != encoding.get_offsets().len() {
            return Err("the post-processor gives tokens without offsets".into());
        }
        if let Some(id) = encoding.get_ids().iter().find(|&&id| i64::from(id) >= self.vocab_size) {
            return Err(format!("ids must be below {}, the vocabulary's size, got {id}", self.vocab_size));
        }
        Ok(Encoded {
            ids: encoding.get_ids().iter().map(|&id| id as i32).collect(),
            starts: encoding.get_offsets().iter().map(|&(start, _)| start as i64).collect(),
        })
    }

    pub fn decode(&self, ids: &[i32], skip_special: bool) -> Result<String, String> {
        let known: Result<Vec<u32>, String> = ids
            .iter()
            .map(|&id| u32::try_from(id).map_err(|_| format!("an id must not be negative, got {id}")))
            .collect();
        self.inner.decode(&known?, skip_special).map_err(|e| e.to_string())
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    pub fn vocab_size(&self) -> i64 {
        self.vocab_size
    }
}

/// `trim_offsets` moves a token's start over its leading white space; the mask rule wants the true first byte.
fn keep_offsets(processor: &PostProcessorWrapper) -> Result<PostProcessorWrapper, String> {
    let mut json = serde_json::to_value(processor).map_err(|e| e.to_string())?;
    untrim(&mut json);
    serde_json::from_value(json).map_err(|e| e.to_string())
}

fn untrim(json: &mut serde_json::Value) {
    match json {
        serde_json::Value::Object(fields) => {
            if let Some(flag) = fields.get_mut("trim_offsets") {
                *flag = false.into();
            }
            fields.values_mut().for_each(untrim);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(untrim),
        _ => {}
    }
}
