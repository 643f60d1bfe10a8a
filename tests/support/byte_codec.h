// A byte a token: enough of a tokenizer for a model that has learnt no language.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/probe/codec.h"

namespace qkr::test {

// `letter` says how a token is written: what the model says is any of its tokens, not bytes alone.
template <class Letter>
TextCodec byte_codec(Letter letter) {
  TextCodec codec;
  codec.encode = [](std::string_view text) {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
    return ids;
  };
  codec.decode = [letter](const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) text += letter(id);
    return text;
  };
  return codec;
}

// What is no printable byte is a question mark.
inline TextCodec byte_codec() {
  return byte_codec([](int32_t id) { return id >= 32 && id < 127 ? static_cast<char>(id) : '?'; });
}

// 64 letters for all tokens, so that two texts seldom agree by accident.
inline TextCodec letter_codec() {
  return byte_codec([](int32_t id) { return static_cast<char>('0' + id % 64); });
}

// One byte a token, but for " 1", which is one of its own. It only encodes.
inline TextCodec pair_codec() {
  TextCodec codec;
  codec.encode = [](std::string_view text) {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < text.size(); ++i) {
      const bool pair = text[i] == ' ' && i + 1 < text.size() && text[i + 1] == '1';
      ids.push_back(pair ? 1001 : text[i]);
      i += pair ? 1 : 0;
    }
    return ids;
  };
  return codec;
}

}  // namespace qkr::test
