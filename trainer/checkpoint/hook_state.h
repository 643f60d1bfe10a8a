// A hook's state ↔ the files that it has in a checkpoint: hook-NAME.safetensors, with the texts as the file's metadata,
// and a hook-NAME.FILE for each file of its own.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/core/hook_state.h"

namespace qkr {

// Error (run failed) naming the file: a dtype that safetensors lacks, a text that is not UTF-8, a full disk.
void write_hook_state(const std::filesystem::path& checkpoint, const std::string& hook, const HookState& state);

// <checkpoint>/hook-NAME.safetensors
std::filesystem::path hook_state_file(const std::filesystem::path& checkpoint, const std::string& hook);

// Error naming the file if the checkpoint has no state of that hook.
HookState read_hook_state(const std::filesystem::path& checkpoint, const std::string& hook);

}  // namespace qkr
