#include "trainer/apps/process.h"

#include <ATen/Context.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <new>

#include "trainer/core/error.h"

namespace qkr {
namespace {

std::atomic<bool> g_stop{false};  // a signal handler can reach nothing else

void on_signal(int number) {
  if (g_stop.exchange(true)) std::_Exit(128 + number);
}

// Each line that nobody reads brings one more of these.
void on_broken_pipe(int) { g_stop = true; }

// nohup has the process ignore SIGHUP, and so it stays.
void listen_unless_ignored(int number, void (*handler)(int)) {
  if (std::signal(number, handler) == SIG_IGN) std::signal(number, SIG_IGN);
}

// c10::Error carries a stack trace after its first line.
std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

}  // namespace

const std::atomic<bool>& stop_asked() { return g_stop; }

void listen_for_signals() {
  std::signal(SIGINT, on_signal);
  std::signal(SIGTERM, on_signal);
  listen_unless_ignored(SIGHUP, on_signal);
  listen_unless_ignored(SIGPIPE, on_broken_pipe);
}

void make_deterministic() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", 0);  // cuBLAS is only deterministic with a fixed workspace
  at::globalContext().setDeterministicAlgorithms(true, false);
  at::globalContext().setDeterministicFillUninitializedMemory(false);  // a debugging aid that fills every new tensor
  at::globalContext().setAllowTF32CuBLAS(false);
}

c10::Device choose_device(const std::string& name) {
  if (name == "cuda" && !at::hasCUDA()) fail("model.device: must be cpu or auto on this machine, got cuda (no GPU is visible)");
  return name == "cuda" || (name == "auto" && at::hasCUDA()) ? c10::Device(c10::kCUDA, 0) : c10::Device(c10::kCPU);
}

std::string usage_line(const std::string& program, const std::string& what) {
  return program + ": " + first_line(what) + "; see " + program + " --help\n";
}

int guarded(const char* program, const std::function<int()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    std::cerr << program << ": " << error.what() << "\n";
    return static_cast<int>(error.code());
  } catch (const c10::Error& error) {
    std::cerr << program << ": " << first_line(error.what_without_backtrace()) << "\n";
  } catch (const std::filesystem::filesystem_error& error) {
    std::cerr << program << ": " << error.path1().string() << ": must be reachable, got " << error.code().message() << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << program << ": must have memory enough, got less than it asked for\n";
  } catch (const std::exception& error) {
    std::cerr << program << ": " << first_line(error.what()) << "\n";
  }
  return static_cast<int>(ExitCode::kRunFailed);
}

}  // namespace qkr
