// YAML text and --set pairs → RunConfig, and back. Every error of a file is collected and thrown as one Error with a line each:
// "<file>:<line>:<column>: <section>.<key>: must <rule>, got <value>" or "...: unknown key; did you mean <nearest>?".
// What a value may look like (no octal, no yes/no, 2000 rather than 2e3 for an integer): convert.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

// `overrides` are "section.key=value" with a YAML value; they win over the file and are reported as "--set <text>: ...".
// Relative paths in the file (model.path, data.train, probe.haystack, model.chat_template) are taken from the working
// directory. A null section keeps its defaults. Required keys and contradictions are checked after the overrides.
RunConfig parse_config(std::string_view yaml, const std::string& file_name, const std::vector<std::string>& overrides);

// Keys that contradict each other: Error with a line each. parse_config has called it on what it returns.
void check_config(const RunConfig& config);

// Reads the file first; Error if it is absent, a folder, or not text.
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides);

// The resolved configuration as YAML, defaults too; parse_config of it gives the same RunConfig.
std::string dump_config(const RunConfig& config);

// One line a key: name, type, default, allowed values, help. For --help-config and the README.
std::string describe_config();

// The same as a JSON Schema (draft 2020-12) text, for editors.
std::string config_json_schema();

}  // namespace qkr
