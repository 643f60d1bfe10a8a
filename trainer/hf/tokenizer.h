// Hugging Face's own tokenizer (the `tokenizers` crate) as a C++ value. Bytes in: this room opens no file. What the file says
// of truncation and padding is ignored, as transformers does.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

struct Encoding {
  std::vector<int32_t> ids;
  std::vector<int64_t> starts;  // byte offset in the text given of the character in which the token begins
};

class Tokenizer {
 public:
  // `json` is the content of tokenizer.json; `name` is what errors call it. Throws Error if it is not one.
  Tokenizer(std::string_view json, const std::string& name);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // `add_special` runs the post-processor (a Llama tokenizer then adds its BOS). Throws Error if `text` is not UTF-8.
  // Safe to call from several threads.
  Encoding encode(std::string_view text, bool add_special = false) const;
  std::vector<int32_t> ids(std::string_view text, bool add_special = false) const { return encode(text, add_special).ids; }

  // Ids without a token decode to nothing; bytes that are not UTF-8 become U+FFFD as Rust's from_utf8_lossy does.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special = false) const;

  std::optional<int32_t> token_to_id(std::string_view token) const;
  int64_t vocab_size() const;  // largest id + 1, added tokens included

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace qkr
