// The states of a run's hooks (Hook::name) into a checkpoint and back.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "trainer/loop/hook.h"

namespace qkr {

// Of the hook that has the configuration's scripts.
inline constexpr const char* kScriptsName = "scripts";

using Hooks = std::vector<std::unique_ptr<Hook>>;

// Of hooks that a program brings. Error (bad input) unless each name is of letters, digits, - and _ alone, and no other
// hook's.
void check_hook_names(const Hooks& hooks);

// The names of those that keep a state, "loss-mean, ema": in their order, as that decides what a run computes.
std::string hook_names(const Hooks& hooks);

// Of each hook with a name. Loading: Error naming the file if a state is missing or its hook does not take it.
void save_hook_states(const std::filesystem::path& checkpoint, const Hooks& hooks);
void load_hook_states(const std::filesystem::path& checkpoint, const Hooks& hooks);

}  // namespace qkr
