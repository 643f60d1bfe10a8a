#include <cstdio>

#include "trainer/core/text.h"
#include "trainer/data/dataset.h"

namespace qkr {
namespace {

// The text of ids [begin, end) as it stands in the whole: some decoders treat the first token of a call differently (a Llama
// drops its space), so the run is what decoding up to `end` adds to decoding up to `begin`.
std::string decode_run(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, size_t begin, size_t end) {
  const auto at = [&](size_t k) { return ids.begin() + static_cast<std::ptrdiff_t>(k); };
  const std::string before = tokenizer.decode({ids.begin(), at(begin)});
  const std::string after = tokenizer.decode({ids.begin(), at(end)});
  if (starts_with(after, before)) return after.substr(before.size());
  return tokenizer.decode({at(begin), at(end)});  // a character that the run's border cuts
}

// Data comes from anywhere, and a terminal obeys what it is shown: control characters (C1 too, in UTF-8) are spelled out.
std::string printable(const std::string& text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = [&](size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
    const bool c1 = byte(i) == 0xC2 && byte(i + 1) >= 0x80 && byte(i + 1) < 0xA0;
    const bool c0 = (byte(i) < 0x20 && text[i] != '\n' && text[i] != '\t') || byte(i) == 0x7F;
    if (c0 || c1) {
      char code[8];
      std::snprintf(code, sizeof code, "\\x%02x", c1 ? byte(++i) : byte(i));
      out += code;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

std::string inspect_sample(const Sample& sample, const Tokenizer& tokenizer, bool color) {
  const std::string on = color ? "\x1b[32m" : "⟦";
  const std::string off = color ? "\x1b[0m" : "⟧";
  std::string out;
  for (size_t begin = 0; begin < sample.ids.size();) {
    size_t end = begin;
    while (end < sample.ids.size() && sample.trained[end] == sample.trained[begin]) ++end;
    const std::string text = printable(decode_run(tokenizer, sample.ids, begin, end));
    out += sample.trained[begin] != 0 ? on + text + off : text;
    begin = end;
  }
  return out;
}

}  // namespace qkr
