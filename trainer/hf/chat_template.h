// A chat template rendered as transformers renders it (minijinja), with the span of each assistant message in the output.
// Bytes in, bytes out: this room opens no file.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

struct Span {
  int64_t begin = 0, end = 0;  // half-open, bytes of Rendered::text
};

struct Rendered {
  std::string text;
  // One a message whose role is "assistant", in order: from just after its header to just after its end-of-turn marker. (A
  // template with {% generation %} blocks: one a block.) How they are found, and why searching the text is wrong:
  // Note [Spans come from the template] in rust/src/spans.rs.
  std::vector<Span> assistant_spans;
};

struct RenderOptions {
  bool add_generation_prompt = false;
  bool want_spans = true;          // false: no spans, and no error where a template does not show them
  bool allow_dropped = false;      // true: a message that the template leaves out is no error, as in transformers
  std::string extra_json = "{}";   // further template variables as a JSON object, e.g. {"enable_thinking": false}
};

class ChatTemplate {
 public:
  // `source` is Jinja text; `special_tokens_json` an object such as {"bos_token": "<s>", "eos_token": "</s>"} (null values
  // allowed). `name` is what errors call it. Throws Error with the line of the template on a syntax error.
  ChatTemplate(std::string_view source, std::string_view special_tokens_json, const std::string& name);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `messages_json` is a JSON array of messages, `tools_json` an array or "null". Throws Error: a message that the template
  // leaves out (an unknown role), null, absent or list content (null or absent is the template's to judge where the message
  // has tool_calls), whatever raise_exception says, a null printed as text, a template without visible spans. Errors about a
  // message begin "message <index from 0>", those about the template "<name>:<line>". A template is a program: its steps and
  // its output are limited, the memory that its variables take is not. Safe to call from several threads.
  Rendered render(std::string_view messages_json, std::string_view tools_json = "null",
                  const RenderOptions& options = {}) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The template and the special tokens of a model folder's tokenizer_config.json, as strings: `chat_template` may be a string
// or a list of {name, template} (then "default"), tokens may be strings or objects with "content". Either may be absent.
struct TokenizerConfig {
  std::string chat_template;               // "" if there is none
  std::string special_tokens_json = "{}";  // bos_token, eos_token, …, additional_special_tokens; nulls left out
  std::string eos_token;                   // "" if there is none
  std::string bos_token;
};
TokenizerConfig parse_tokenizer_config(std::string_view json, const std::string& name);

}  // namespace qkr
