// Small text helpers that several rooms need. No locale, no allocation tricks.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

// Levenshtein distance, bytes.
int edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `word`, or "" if none is within a third of its length (at least 2 edits).
std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates);

// "; did you mean X?" or "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);

// The items with `separator` between them.
std::string join(const std::vector<std::string>& items, std::string_view separator = ", ");

std::string fixed(double value, int digits);        // 3.14159, 2 -> "3.14"
std::string scientific(double value, int digits);   // 0.000123, 2 -> "1.23e-04"
std::string group_digits(int64_t value);            // 1234567 -> "1,234,567"
std::string human_bytes(int64_t bytes);             // 1536 -> "1.5 KiB"
std::string human_seconds(double seconds);          // 3725 -> "1h02m", 65 -> "1m05s", 4.2 -> "4.2s", not finite -> "?"

bool starts_with(std::string_view text, std::string_view prefix);
bool ends_with(std::string_view text, std::string_view suffix);

// True if `text` is well-formed UTF-8 (no surrogates, no overlong forms); else *bad_byte is the first wrong offset.
bool is_utf8(std::string_view text, size_t* bad_byte = nullptr);

// Text between single quotes for messages: control characters, quotes, backslashes and malformed UTF-8 escaped, and cut after
// about `limit` bytes, never within a character.
std::string quoted(std::string_view text, size_t limit = 60);
// Exact matches for each kind of string: else std::quoted (found by argument-dependent lookup, a template) would win.
inline std::string quoted(const std::string& text, size_t limit = 60) { return quoted(std::string_view(text), limit); }
inline std::string quoted(std::string& text, size_t limit = 60) { return quoted(std::string_view(text), limit); }
inline std::string quoted(const char* text, size_t limit = 60) { return quoted(std::string_view(text), limit); }

}  // namespace qkr
