#include "trainer/hooks/hook_states.h"

#include <c10/util/Exception.h>

#include <set>

#include "trainer/checkpoint/hook_state.h"
#include "trainer/core/text.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr const char* kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

[[noreturn]] void refuse(const fs::path& checkpoint, const std::string& hook, const std::string& reason) {
  fail(hook_state_file(checkpoint, hook).string(), ": must be a state that hook ", quoted(hook),
       " takes, got: ", reason.substr(0, reason.find('\n')));
}

}  // namespace

void check_hook_names(const Hooks& hooks) {
  std::set<std::string> names;
  for (const auto& hook : hooks) {
    const std::string name = hook->name();
    if (name.empty()) continue;
    if (name.size() > 100 || name.find_first_not_of(kLetters) != std::string::npos) {
      fail("hook ", quoted(name), ": a hook's name must be at most 100 letters, digits, - and _, as it names a file");
    }
    if (name == kScriptsName)
      fail("hook ", quoted(name), ": must have a name of its own, got that of the configuration's scripts");
    if (!names.insert(name).second)
      fail("hook ", quoted(name), ": must have a name of its own, got two hooks of that name");
  }
}

std::string hook_names(const Hooks& hooks) {
  std::vector<std::string> names;
  for (const auto& hook : hooks) {
    if (const std::string name = hook->name(); !name.empty()) names.push_back(name);
  }
  return join(names);
}

void save_hook_states(const fs::path& checkpoint, const Hooks& hooks) {
  for (const auto& hook : hooks) {
    if (const std::string name = hook->name(); !name.empty()) write_hook_state(checkpoint, name, hook->state());
  }
}

void load_hook_states(const fs::path& checkpoint, const Hooks& hooks) {
  for (const auto& hook : hooks) {
    const std::string name = hook->name();
    if (name.empty()) continue;
    const HookState state = read_hook_state(checkpoint, name);
    try {
      hook->set_state(state);
    } catch (const c10::Error& error) {
      refuse(checkpoint, name, error.what_without_backtrace());
    } catch (const std::exception& error) {
      refuse(checkpoint, name, error.what());
    }
  }
}

}  // namespace qkr
