// The C face of the Rust library in rust/: Hugging Face's `tokenizers` and the minijinja template engine.
// Fallible functions return 0, or 1 with one line of text in *error (then *out is untouched); they never abort and never throw.
// What is handed out belongs to the library: free it once with the function named beside it. All functions that take a const
// handle may be called from several threads at once. Offsets and sizes are bytes of UTF-8.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct QkrHfTokenizer QkrHfTokenizer;
typedef struct QkrHfTemplate QkrHfTemplate;

typedef struct QkrHfView {  // the caller's bytes; data may be null where size is 0
  const char* data;
  size_t size;
} QkrHfView;

typedef struct QkrHfText {  // qkr_hf_text_free; not terminated by NUL
  char* data;
  size_t size;
} QkrHfText;
void qkr_hf_text_free(QkrHfText text);

int32_t qkr_hf_tokenizer_load(QkrHfView json, QkrHfTokenizer** out, QkrHfText* error);
void qkr_hf_tokenizer_free(QkrHfTokenizer* tokenizer);

typedef struct QkrHfEncoding {  // qkr_hf_encoding_free
  int32_t* ids;                 // [size]
  int64_t* starts;              // [size], offset of the character in which the token begins
  size_t size;
} QkrHfEncoding;
int32_t qkr_hf_encode(const QkrHfTokenizer* tokenizer, QkrHfView text, int32_t add_special, QkrHfEncoding* out,
                      QkrHfText* error);
void qkr_hf_encoding_free(QkrHfEncoding encoding);

int32_t qkr_hf_decode(const QkrHfTokenizer* tokenizer, const int32_t* ids, size_t size, int32_t skip_special,
                      QkrHfText* out, QkrHfText* error);
int32_t qkr_hf_token_to_id(const QkrHfTokenizer* tokenizer, QkrHfView token, int64_t* out, QkrHfText* error);  // -1: unknown
int64_t qkr_hf_vocab_size(const QkrHfTokenizer* tokenizer);  // largest id + 1

int32_t qkr_hf_template_load(QkrHfView source, QkrHfView special_tokens, QkrHfView name, QkrHfTemplate** out,
                             QkrHfText* error);
void qkr_hf_template_free(QkrHfTemplate* chat_template);

typedef struct QkrHfRenderArgs {  // the views are JSON: an array, an array or null, an object
  QkrHfView messages, tools, extra;
  int32_t add_generation_prompt, want_spans, allow_dropped;
} QkrHfRenderArgs;

typedef struct QkrHfRendered {  // qkr_hf_rendered_free
  QkrHfText text;
  int64_t* spans;  // [span_count][2], half-open
  size_t span_count;
} QkrHfRendered;
int32_t qkr_hf_render(const QkrHfTemplate* chat_template, const QkrHfRenderArgs* args, QkrHfRendered* out, QkrHfText* error);
void qkr_hf_rendered_free(QkrHfRendered rendered);

#ifdef __cplusplus
}
#endif
