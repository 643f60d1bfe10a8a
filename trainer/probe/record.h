// A result as a line of probe.jsonl, and back.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "trainer/probe/runner.h"

namespace qkr {

// Keys in the order of ItemResult; `is_null` is called "null". Seconds are kept to the millisecond.
nlohmann::ordered_json to_json(const ItemResult& result);

// The inverse. `place` ("probe.jsonl:12") begins the error when a key is missing or of another
// type.
ItemResult item_result_from_json(const nlohmann::ordered_json& row, const std::string& place);

}  // namespace qkr
