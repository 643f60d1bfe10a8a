// A run's folder as one self-contained HTML page: loss, recall before → after → restored with intervals, the depth map, what was
// restored, the configuration. Nothing in it asks a network.
#pragma once

#include <filesystem>
#include <string>

namespace qkr {

// Reads config.yaml (needed) and log.jsonl, probe.jsonl, heads.jsonl, restore.json, summary.json (each may be absent, or end in a torn line:
// the page then says so) and returns the page. It is a function of the folder's name and files alone: no clock, no locale.
// Error (bad input) if the folder or its config.yaml cannot be read.
std::string render_report(const std::filesystem::path& run_folder);

// The same, written to <run_folder>/report.html under a temporary name and renamed. Error (run failed) if that cannot be done.
std::filesystem::path write_report(const std::filesystem::path& run_folder);

}  // namespace qkr
