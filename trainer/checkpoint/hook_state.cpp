#include "trainer/checkpoint/hook_state.h"

#include "trainer/core/text.h"
#include "trainer/io/safetensors.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr const char* kTensors = "safetensors";

// "hook-NAME.": hooks' names have no dot, so no state's files begin as another's do.
std::string prefix_of(const std::string& hook) { return "hook-" + hook + "."; }

}  // namespace

fs::path hook_state_file(const fs::path& checkpoint, const std::string& hook) {
  return checkpoint / (prefix_of(hook) + kTensors);
}

void write_hook_state(const fs::path& checkpoint, const std::string& hook, const HookState& state) {
  const fs::path file = hook_state_file(checkpoint, hook);
  for (const auto& [key, text] : state.texts) {
    if (is_utf8(key) && is_utf8(text)) continue;
    fail_run(file.string(), ": text ", quoted(key), " must be UTF-8 (bytes of another kind go into a tensor), got ",
             quoted(text));
  }
  write_safetensors(file, state.tensors, state.texts);
  for (const auto& [name, own] : state.files) own.write(checkpoint / (prefix_of(hook) + name));
}

HookState read_hook_state(const fs::path& checkpoint, const std::string& hook) {
  const fs::path file = hook_state_file(checkpoint, hook);
  if (!fs::exists(file)) fail(file.string(), ": the state of hook ", quoted(hook), " is needed to resume, got no file");
  const SafetensorsFile saved(file);
  HookState state;
  for (const std::string& name : saved.names()) state.tensors.set(name, saved.read(name));
  state.texts = saved.metadata();
  const std::string prefix = prefix_of(hook);
  for (const auto& entry : fs::directory_iterator(checkpoint)) {
    const std::string name = entry.path().filename().string();
    if (starts_with(name, prefix) && name != prefix + kTensors)
      state.files[name.substr(prefix.size())].path = entry.path();
  }
  return state;
}

}  // namespace qkr
