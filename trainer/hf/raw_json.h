// The text of one member of a JSON object, untouched. Messages and tools go to the template as they stand in the file:
// parsed and printed again, integers beyond 64 bits would come back as floats.
#pragma once

#include <string_view>

namespace qkr {

// The text of the value under `key` (the last one, as in Python), without outer white space; "" if there is none. `object`
// must be a well-formed JSON object (checked elsewhere); keys are compared as they are spelled, escapes not resolved. The
// result points into `object`.
std::string_view raw_member(std::string_view object, std::string_view key);

}  // namespace qkr
