// heads.jsonl: how much of each softmax head's attention falls on the needle, measured beside recall on the same prompts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/hooks/console.h"
#include "trainer/model/decoder.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/heads.h"
#include "trainer/probe/items.h"

namespace qkr {

class HeadProbe {
 public:
  // `file` is appended to. Rows of an earlier process that `resumed_step` will not do again stay, others are taken back.
  HeadProbe(const Decoder& decoder, TextCodec codec, std::filesystem::path file, int64_t prefill_chunk, int64_t resumed_step, Console& console);
  // The same for a file of which every row stays.
  HeadProbe(const Decoder& decoder, TextCodec codec, std::filesystem::path file, int64_t prefill_chunk, Console& console);

  // One prefill a prompt with the weights as they are, those prompts apart that the file has of this stage and model; says which heads
  // look at the needle most. Error (bad input): a prompt without a needle.
  void measure(const std::string& stage, int64_t step, const std::string& model, const std::vector<NeedleItem>& items) const;

 private:
  std::vector<NeedleItem> left(const std::string& stage, const std::string& model, const std::vector<NeedleItem>& items) const;

  const Decoder& decoder_;
  TextCodec codec_;
  std::filesystem::path file_;
  int64_t prefill_chunk_;
  Console& console_;
};

// "layer 7 head 3 12.3%, layer 3 head 0 8.1%, ...": the means' largest, at most `count` of them.
std::string top_heads_text(const std::vector<HeadResult>& results, size_t count);

}  // namespace qkr
