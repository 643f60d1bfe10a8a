// What belongs to the process rather than to a run: signals, determinism, the way from an exception to an exit code.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include <c10/core/Device.h>

namespace qkr {

// Set by the first SIGINT, SIGTERM or SIGHUP, or when nobody reads the output any more (SIGPIPE); a second one of the first three ends the
// process at once. SIGHUP and SIGPIPE stay ignored where the process was started so (nohup).
const std::atomic<bool>& stop_asked();
void listen_for_signals();

// Same inputs, same bits: deterministic kernels only, and no TF32 behind fp32's back. Call before the first CUDA call.
void make_deterministic();

// "auto", "cpu" or "cuda" → a device. Error if CUDA is asked for and absent.
c10::Device choose_device(const std::string& name);

// The one line for a command line that makes no sense: "<program>: <what>; see <program> --help".
std::string usage_line(const std::string& program, const std::string& what);

// Runs `body`, prints an exception as one line "<program>: <what>" and returns the exit code it stands for.
int guarded(const char* program, const std::function<int()>& body);

}  // namespace qkr
