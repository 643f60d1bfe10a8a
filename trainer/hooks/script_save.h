// A TorchScript module as a .pt file, whole or not at all.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <filesystem>

namespace qkr {

// Error (run failed) if the disk is full. Torch's own writer ends the process then: its destructor throws.
void save_module(const torch::jit::Module& module, const std::filesystem::path& file);

}  // namespace qkr
