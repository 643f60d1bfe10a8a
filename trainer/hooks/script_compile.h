// From a file to a checked TorchScript module. Heavy: for script.cpp alone.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <string>

#include "trainer/config/run_config.h"
#include "trainer/hooks/script_error.h"

namespace qkr {

// A .pt as it was saved, its tensors on `device`; a .ts compiled from `text`, with an empty self.state. Error (bad
// input) with file and line.
torch::jit::Module load_script(const std::string& file, const std::string& text, c10::Device device);

// A class of that name with the methods of `text` and no state. Error (bad input) with `file` and line.
torch::jit::Module compile_source(const std::string& file, const std::string& text, const std::string& class_name);

// Error (bad input) unless there is a method of trainer/hooks/script.h's four, and each takes and returns what it may.
void check_methods(const torch::jit::Module& module, const std::string& file);

// Where a method's code begins; line 0 if the module does not say.
ScriptPlace method_place(const torch::jit::Module& module, const std::string& method, const std::string& file);
std::string place_text(const ScriptPlace& place);  // "ema.ts:14"

// The line that names a call which took too long: where it was stopped, or where it was seen last.
std::string late_call_line(const torch::jit::Module& module, const std::string& method, const HookConfigSection& config,
                           bool stopped, ScriptPlace last);

}  // namespace qkr
