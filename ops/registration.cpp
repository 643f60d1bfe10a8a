#include "ops/registration.h"

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/headeronly/version.h>

namespace qkr {
namespace {

std::string version_text(uint64_t abi_version) {
  const auto byte = [&](int shift) { return std::to_string((abi_version >> shift) & 0xff); };
  return byte(56) + "." + byte(48) + "." + byte(40);
}

bool decide() {
  const uint64_t running = aoti_torch_abi_version();  // a C function: it can be called whatever the C++ ABI
  // The dispatcher is asked only where its ABI is ours.
  std::string refusal = load_refusal("libqk_restore_ops.so", TORCH_ABI_VERSION, running, false);
  if (refusal.empty()) {
    const bool there = c10::Dispatcher::singleton().findSchema({"qk_restore::rms_norm", ""}).has_value();
    refusal = load_refusal("libqk_restore_ops.so", TORCH_ABI_VERSION, running, there);
  }
  if (!refusal.empty()) report_refused_load(refusal);
  return refusal.empty();
}

}  // namespace

std::string load_refusal(const std::string& library, uint64_t built_for, uint64_t running, bool already_there) {
  if (built_for >> 48 != running >> 48) {
    return library + ": must run with the torch that it was built for, " + version_text(built_for) + ", got " + version_text(running) +
           "; nothing was registered. Build it against this torch, or install torch " + version_text(built_for);
  }
  if (already_there) {
    return library + ": must be loaded once, got a second copy of it in one process; the first one's operators stay";
  }
  return "";
}

void report_refused_load(const std::string& message) {
  // Python's C API is asked for by name, so that this library does not depend on Python.
  const auto is_running = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "Py_IsInitialized"));
  const auto lock = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, "PyGILState_Ensure"));
  const auto unlock = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "PyGILState_Release"));
  const auto raise = reinterpret_cast<void (*)(void*, const char*)>(dlsym(RTLD_DEFAULT, "PyErr_SetString"));
  const auto type = static_cast<void**>(dlsym(RTLD_DEFAULT, "PyExc_RuntimeError"));
  if (is_running && lock && unlock && raise && type && is_running() != 0) {
    const int state = lock();
    raise(*type, message.c_str());
    unlock(state);
  } else {
    TORCH_WARN(message);
  }
}

bool ops_may_register() {
  static const bool allowed = decide();
  return allowed;
}

}  // namespace qkr
