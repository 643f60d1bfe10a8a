// One YAML value → one field. Only here does a YAML type meet a C++ type.
#pragma once

#include <yaml-cpp/yaml.h>

#include <functional>
#include <string>

#include "trainer/config/fields.h"

namespace qkr {

// Called with the node at fault and "must be ..., got ...".
using OnProblem = std::function<void(const YAML::Node&, const std::string&)>;

// Sets the field from `node`, or calls `problem` (once for each wrong item of a list) and leaves it as it was.
//
// Stricter than YAML 1.1, so that nothing is read as something else than it looks: numbers are decimal (no 010, 0x10,
// 1_000, .inf), integers are written without point or exponent, true and false are the only truth values, and a quoted
// value is a string. A string field takes any plain word as it is written (`on`, `1e5`); null is the empty string there,
// the empty list for a list, and an error elsewhere.
void read_value(const Field& field, const YAML::Node& node, const OnProblem& problem);

// What stands in `node`, for messages: "'abc'", "null", "a list", "a map".
std::string node_text(const YAML::Node& node);

}  // namespace qkr
