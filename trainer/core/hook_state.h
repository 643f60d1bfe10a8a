// What a hook keeps from step to step, as a checkpoint holds it.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "trainer/core/named_tensors.h"

namespace qkr {

// A file in a format of the hook's own.
struct HookFile {
  std::function<void(const std::filesystem::path&)> write;  // while the state is saved: puts it at that path
  std::filesystem::path path;                               // while it is loaded: where it lies
};

struct HookState {
  // Saved as they are at that moment, from any device and with any strides, in every dtype of safetensors; a number is
  // a tensor without dimensions. Loaded as dense tensors of their own, on the CPU.
  NamedTensors tensors;
  std::map<std::string, std::string> texts;  // UTF-8
  std::map<std::string, HookFile> files;     // by what follows the hook's name in theirs
};

}  // namespace qkr
