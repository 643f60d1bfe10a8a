// The restore and the probe's scoring as TorchScript modules for programs that have none of this: torch::jit::load,
// with libqk_restore_ops.so loaded before. Their sources, which say what they take and give, are
// trainer/hooks/modules/*.ts.
#pragma once

#include <filesystem>
#include <string_view>
#include <vector>

namespace qkr {

extern const std::string_view restore_module, answers_module;  // the sources

// Writes <folder>/restore.pt and <folder>/answers.pt, each whole or not at all, and returns their paths.
std::vector<std::filesystem::path> export_scripts(const std::filesystem::path& folder);

}  // namespace qkr
