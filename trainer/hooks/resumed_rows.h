// What a resumed run keeps of the JSON lines that hooks have written: rows that the checkpoint's steps had made.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "trainer/io/json_lines.h"

namespace qkr {

// Compared as a double, since a file may hold any number there; a row without a step counts as one of the start.
inline bool is_up_to_step(const nlohmann::json& row, int64_t step) { return row.value("step", 0.0) <= static_cast<double>(step); }

// keep_lines_while (json_lines.h) of the rows up to a step.
inline void keep_rows_up_to(const std::filesystem::path& file, int64_t step) {
  keep_lines_while(file, [&](const nlohmann::json& row) { return is_up_to_step(row, step); });
}

}  // namespace qkr
