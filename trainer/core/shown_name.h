// Names that a file gives (keys, tensors, files, stages) as messages show them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qkr {

// The name as it is where it is printable UTF-8 of at most `limit` bytes, else quoted() and so cut: whatever a file
// calls a thing, the message stays one line that a terminal can take.
std::string shown_name(std::string_view name, size_t limit = 80);

// "a, b, c", of more than `most` the first and how many more.
std::string shown_names(const std::vector<std::string>& names, size_t most = 12);

// Somebody else's words: control characters become spaces, malformed UTF-8 "?", and what is longer than `limit` bytes
// is cut with "…".
std::string shown_words(std::string_view text, size_t limit = 1000);

}  // namespace qkr
