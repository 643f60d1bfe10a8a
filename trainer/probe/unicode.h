// Text as Python sees it, on UTF-8: RULER cleans and compares with str.strip, str.lower and \s, so
// scores depend on them. Bytes that are not UTF-8 stay as they are.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace qkr {

// The code point at text[*offset], which then moves past it. A byte that begins no well-formed
// sequence is returned with bit 31 set and is passed alone.
uint32_t next_code_point(std::string_view text, size_t* offset);

void append_code_point(std::string* text, uint32_t code_point);  // the inverse, malformed bytes too

int64_t count_code_points(std::string_view text);

// str.isspace of one character: U+001C-1F and U+0085 count, U+200B and U+FEFF do not.
bool is_python_space(uint32_t code_point);

// re.sub(r"\s+", " ", text).
std::string collapse_white_space(std::string_view text);

// str.strip(), a view into `text`.
std::string_view python_strip(std::string_view text);

// str.lower(): simple mappings, U+0130, and the final sigma by its context. Unicode 14.
std::string python_lower(std::string_view text);

// A letter with case that is its own lower case.
bool is_lower_case(uint32_t code_point);

}  // namespace qkr
