// The members of a JSON object as they are written. A template must see its messages byte for byte (1e-07, 2^70, the order of
// keys), which no parsed and printed again value keeps.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qkr {

// (key, text of the value) of every member of the object that `line` holds. `line` must be valid JSON whose value is an object
// (parse_json has seen it); keys with escapes in them are left out, since no field of ours has one.
std::vector<std::pair<std::string, std::string_view>> json_members(std::string_view line);

// The text of member `key`, or `otherwise`.
std::string_view json_member(std::string_view line, std::string_view key, std::string_view otherwise);

}  // namespace qkr
