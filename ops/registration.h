// How this library enters the dispatcher: not at all where it cannot serve, so that a wrong load is an error and never a crash.
#pragma once

#include <torch/library.h>

#include <cstdint>
#include <optional>
#include <string>

namespace qkr {

// Why a library that was built for torch `built_for` must not register in a process that runs `running` (both as TORCH_ABI_VERSION
// of torch/headeronly/version.h) and has, or has not, these registrations already; "" if it may. Torch's C++ ABI holds
// within a minor version.
std::string load_refusal(const std::string& library, uint64_t built_for, uint64_t running, bool already_there);

// Raises RuntimeError(message) where the library is being loaded by Python, which then reports the load as failed; else a c10 warning.
// An exception cannot be thrown out of dlopen: nobody would catch it, and the process would end.
void report_refused_load(const std::string& message);

// Whether libqk_restore_ops.so may register; decided, and said, once.
bool ops_may_register();

// What TORCH_LIBRARY and its kin make, but nothing of it where `allowed` is false: even torch::Library's layout may be another version's.
class Registration {
 public:
  Registration(bool allowed, torch::Library::Kind kind, std::optional<c10::DispatchKey> key, void (*fill)(torch::Library&), const char* file,
               uint32_t line) {
    if (!allowed) return;
    library_.emplace(kind, "qk_restore", key, file, line);
    fill(*library_);
  }

 private:
  std::optional<torch::Library> library_;
};

}  // namespace qkr

// QKR_LIBRARY(m) { m.def(...); } for the schemas, QKR_LIBRARY_IMPL(CPU, m) { m.impl(...); } for the kernels of a dispatch key.
#define QKR_REGISTER(allowed, kind, key, m, uid)                                                                          \
  static void C10_CONCATENATE(qkr_fill_, uid)(torch::Library&);                                                          \
  static const qkr::Registration C10_CONCATENATE(qkr_registration_, uid)(allowed, torch::Library::kind, key,              \
                                                                         &C10_CONCATENATE(qkr_fill_, uid), __FILE__, __LINE__); \
  void C10_CONCATENATE(qkr_fill_, uid)([[maybe_unused]] torch::Library& m)
#define QKR_LIBRARY(m) QKR_REGISTER(qkr::ops_may_register(), DEF, std::nullopt, m, C10_UID)
#define QKR_LIBRARY_IMPL(key, m) QKR_REGISTER(qkr::ops_may_register(), IMPL, std::make_optional(c10::DispatchKey::key), m, C10_UID)
