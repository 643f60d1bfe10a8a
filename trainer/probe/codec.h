// The tokenizer as the probe needs it: two functions, so that a test can bring its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/data/dataset.h"

namespace qkr {

struct TextCodec {
  std::function<std::vector<int32_t>(std::string_view)> encode;    // without special tokens
  std::function<std::string(const std::vector<int32_t>&)> decode;  // special tokens left out
  std::vector<int32_t> input_prefix = {};  // what it puts before every input (a BOS), or none
  // A user's turn in the model's chat template, up to where the assistant begins. Empty: it has none.
  std::function<std::string(const std::string&)> chat = {};
  bool many_threads = false;  // encode and chat may be called from several threads at once
};

// Keeps the tokenizer alive. The prefix is what its post-processor puts before a text.
TextCodec text_codec(const TextModel& text);

}  // namespace qkr
