// Where sentences begin, without a trained model.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace qkr {

// The plain rule of Haystack, in byte offsets of `text` (white space collapsed to single spaces;
// UTF-8). The first word begins a sentence; a text without words has none.
std::vector<size_t> plain_sentence_starts(std::string_view text);

}  // namespace qkr
