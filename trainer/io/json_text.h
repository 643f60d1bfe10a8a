// Strict JSON: well-formed UTF-8, no key twice in one object, no NUL, nesting bounded (the value is walked recursively later).
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace qkr {

inline constexpr int kMaxJsonDepth = 200;

// Errors are "<file>:<line>:<byte in that line, from 1>: must be JSON, got <what>". `first_line` is the number of the line
// that `text` begins with. Json is nlohmann::json or nlohmann::ordered_json (keeps the order of keys).
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& file, int64_t first_line = 1);

template <class Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& path);

// A parser exception's words alone ("unexpected '}'; expected ':'"): without its id, its position and the text it was reading.
std::string json_complaint(const std::string& message);

}  // namespace qkr
