#include "trainer/probe/unicode.h"

#include <algorithm>
#include <vector>

#include "trainer/probe/unicode_data.h"

namespace qkr {
namespace {

constexpr uint32_t kRawByte = 0x80000000u;
constexpr uint32_t kCapitalSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

// Tables ascend, so the range that may hold `c` is the last one that begins at or before it.
template <class Range>
const Range* range_of(const Range* table, int count, uint32_t c) {
  const Range* after = std::upper_bound(table, table + count, c,
                                        [](uint32_t x, const Range& r) { return x < r.first; });
  return after == table || c > after[-1].last ? nullptr : after - 1;
}

bool is_cased(uint32_t c) { return range_of(kCased, kCasedCount, c) != nullptr; }
bool is_case_ignorable(uint32_t c) {
  return range_of(kCaseIgnorable, kCaseIgnorableCount, c) != nullptr;
}

uint32_t simple_lower(uint32_t c) {
  const LowerRange* range = range_of(kLowerRanges, kLowerRangesCount, c);
  if (range == nullptr || (c - range->first) % range->stride != 0) return c;
  return static_cast<uint32_t>(static_cast<int64_t>(c) + range->delta);
}

std::vector<uint32_t> code_points(std::string_view text) {
  std::vector<uint32_t> out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) out.push_back(next_code_point(text, &at));
  return out;
}

// A sigma ends a word: a cased letter before it and none behind, ignorable ones skipped
// (Unicode 3.13, Final_Sigma).
bool is_final_sigma(const std::vector<uint32_t>& text, size_t at) {
  size_t before = at;
  while (before > 0 && is_case_ignorable(text[before - 1])) --before;
  if (before == 0 || !is_cased(text[before - 1])) return false;
  size_t behind = at + 1;
  while (behind < text.size() && is_case_ignorable(text[behind])) ++behind;
  return behind == text.size() || !is_cased(text[behind]);
}

}  // namespace

uint32_t next_code_point(std::string_view text, size_t* offset) {
  const auto byte = [&](size_t i) {
    return static_cast<uint32_t>(static_cast<unsigned char>(text[i]));
  };
  const size_t at = (*offset)++;
  const uint32_t lead = byte(at);
  if (lead < 0x80) return lead;
  const size_t more = lead >= 0xF0 && lead < 0xF5 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC2 ? 1 : 0;
  if (more == 0 || lead >= 0xF5 || at + more >= text.size()) return kRawByte | lead;
  uint32_t value = lead & (0x3Fu >> more);
  for (size_t i = 1; i <= more; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return kRawByte | lead;
    value = value << 6 | (byte(at + i) & 0x3F);
  }
  const bool overlong = (more == 2 && value < 0x800) || (more == 3 && value < 0x10000);
  if (overlong || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return kRawByte | lead;
  *offset = at + 1 + more;
  return value;
}

void append_code_point(std::string* text, uint32_t c) {
  const auto put = [&](uint32_t byte) { text->push_back(static_cast<char>(byte)); };
  if ((c & kRawByte) != 0 || c < 0x80) {
    put(c & 0xFF);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6), put(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12), put(0x80 | (c >> 6 & 0x3F)), put(0x80 | (c & 0x3F));
  } else {
    put(0xF0 | c >> 18), put(0x80 | (c >> 12 & 0x3F)), put(0x80 | (c >> 6 & 0x3F)),
        put(0x80 | (c & 0x3F));
  }
}

int64_t count_code_points(std::string_view text) {
  int64_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) next_code_point(text, &at);
  return count;
}

bool is_python_space(uint32_t c) {
  if (c <= 0x20) return c == 0x20 || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  if (c < 0x1680) return c == 0x85 || c == 0xA0;
  return c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

std::string collapse_white_space(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_space = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const bool space = is_python_space(next_code_point(text, &at));
    if (!space) {
      out.append(text, begin, at - begin);
    } else if (!in_space) {
      out.push_back(' ');
    }
    in_space = space;
  }
  return out;
}

std::string_view python_strip(std::string_view text) {
  size_t first = text.size(), last = 0;  // of what is not white space
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    if (is_python_space(next_code_point(text, &at))) continue;
    first = std::min(first, begin);
    last = at;
  }
  return first >= last ? std::string_view() : text.substr(first, last - first);
}

std::string python_lower(std::string_view text) {
  const std::vector<uint32_t> in = code_points(text);
  std::string out;
  out.reserve(text.size() + 1);
  for (size_t i = 0; i < in.size(); ++i) {
    if (in[i] == kCapitalSigma) {
      append_code_point(&out, is_final_sigma(in, i) ? kFinalSigma : kSmallSigma);
    } else if (in[i] == 0x130) {  // I with a dot: i and a combining dot, the one letter whose lower
                                  // case is two
      out += "i\xCC\x87";
    } else {
      append_code_point(&out, simple_lower(in[i]));
    }
  }
  return out;
}

bool is_lower_case(uint32_t c) { return is_cased(c) && c != 0x130 && simple_lower(c) == c; }

}  // namespace qkr
