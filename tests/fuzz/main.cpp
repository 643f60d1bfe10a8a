// Runs the targets on mutated inputs: `fuzz --runs 1000`, `fuzz --runs 200000 config report`, `fuzz --replay FILE
// config`. The inputs are a function of --seed. A finding, a crash, a run of ten seconds or of gigabytes ends the
// program with 1, after its input has been saved.
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>

#include "tests/fuzz/mutate.h"
#include "tests/fuzz/target.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#ifdef QKR_FUZZ_COVERAGE
#include "tests/fuzz/coverage.h"
#endif

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_set_death_callback(void (*callback)());
extern "C" const char* __asan_default_options();
extern "C" const char* __ubsan_default_options();
// Leaks are not looked for: Torch's tables never go.
extern "C" const char* __asan_default_options() {
  return "detect_leaks=0:max_allocation_size_mb=2048:hard_rss_limit_mb=6144:handle_abort=0";
}
extern "C" const char* __ubsan_default_options() { return "print_stacktrace=1:abort_on_error=1"; }
#endif

namespace qkr::fuzz {
namespace {

constexpr int kMostSeconds = 10;                 // of processor time, of one input
constexpr rlim_t kMostMemory = rlim_t{6} << 30;  // of the process
constexpr size_t kMostInputs = 20'000;           // of a corpus that grows

struct Options {
  uint64_t runs = 1000, seed = 1;
  double seconds = 0;  // of one target at most; 0: no limit
  std::vector<std::string> targets;
  std::string replay, save = ".", corpus;
};

// What a signal handler saves: the input at work.
std::string_view input_at_work;
std::string file_for_input;
const char* target_at_work = "";

// Async-signal-safe.
void save_input() {
  if (file_for_input.empty()) return;
  if (FILE* file = std::fopen(file_for_input.c_str(), "wb")) {
    std::fwrite(input_at_work.data(), 1, input_at_work.size(), file);
    std::fclose(file);
    std::fprintf(stderr, "fuzz: %s: the input is in %s\n", target_at_work, file_for_input.c_str());
  }
  file_for_input.clear();
}

void on_signal(int number) {
  std::fprintf(stderr, "fuzz: %s: %s\n", target_at_work,
               number == SIGPROF ? "one input takes more than ten seconds" : strsignal(number));
  save_input();
  std::_Exit(1);
}

void watch_process() {
  static char stack[1 << 16];  // a signal for a stack that is used up needs another
  const stack_t other{stack, 0, sizeof stack};
  sigaltstack(&other, nullptr);
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_ONSTACK;
  for (const int number : {SIGPROF, SIGABRT}) sigaction(number, &action, nullptr);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_set_death_callback(save_input);
#else
  for (const int number : {SIGSEGV, SIGBUS, SIGFPE, SIGILL}) sigaction(number, &action, nullptr);
  const rlimit memory{kMostMemory, kMostMemory};
  setrlimit(RLIMIT_DATA, &memory);
#endif
}

void limit_time() {
  const itimerval limit{{0, 0}, {kMostSeconds, 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
}

// False after a finding, which is told.
bool run_one(const Target& target, const std::string& input) {
  input_at_work = input;
  limit_time();
  try {
    target.run(input);
    return true;
  } catch (const std::exception& error) {
    std::cerr << "fuzz: " << target.name << ": " << error.what() << "\n";
  }
  save_input();
  return false;
}

#ifdef QKR_FUZZ_COVERAGE
// Steps from block to block in classes of how often (1, 2, 3, 4 to 7, 8 to 15, ...), and whether an input made a new
// one.
class Reached {
 public:
  static void begin() { std::memset(coverage_counts, 0, sizeof coverage_counts); }
  bool is_new() {
    bool found = false;
    for (size_t i = 0; i < kCoverageSize; ++i) {
      const uint8_t count = coverage_counts[i];
      if (count == 0) continue;
      const uint8_t bit =
          static_cast<uint8_t>(1u << (count < 4 ? count - 1 : std::min(31 - __builtin_clz(count) + 1, 7)));
      steps_ += seen_[i] == 0 ? 1 : 0;
      found = found || (seen_[i] & bit) == 0;
      seen_[i] |= bit;
    }
    return found;
  }
  size_t steps() const { return steps_; }

 private:
  std::vector<uint8_t> seen_ = std::vector<uint8_t>(kCoverageSize);
  size_t steps_ = 0;
};
#else
class Reached {
 public:
  static void begin() {}
  bool is_new() { return false; }
  size_t steps() const { return 0; }
};
#endif

bool run_target(const Target& target, const Options& options) {
  using Clock = std::chrono::steady_clock;
  file_for_input = concat(options.save, "/fuzz-", target.name, "-", options.seed);
  target_at_work = target.name.c_str();
  Mutator mutator(options.seed, target.seeds, target.words);
  std::vector<std::string> corpus = target.seeds;
  Reached reached;
  const auto start = Clock::now();
  const auto seconds = [&] { return std::chrono::duration<double>(Clock::now() - start).count(); };
  uint64_t run = 0;
  for (; run < options.runs && (options.seconds == 0 || seconds() < options.seconds); ++run) {
    const std::string input = run < target.seeds.size() ? target.seeds[run] : mutator.mutate(corpus);
    Reached::begin();
    if (!run_one(target, input)) return false;
    if (reached.is_new() && run >= target.seeds.size() && corpus.size() < kMostInputs) corpus.push_back(input);
  }
  std::cout << concat("fuzz: ", target.name, ": ", group_digits(static_cast<int64_t>(run)), " inputs in ",
                      human_seconds(seconds()));
  if (reached.steps() > 0)
    std::cout << concat(", ", corpus.size() - target.seeds.size(), " of them new, ", reached.steps(), " steps reached");
  std::cout << std::endl;
  return true;
}

void write_corpus(const Target& target, const std::string& folder) {
  std::filesystem::create_directories(folder);
  for (size_t i = 0; i < target.seeds.size(); ++i)
    std::ofstream(concat(folder, "/", target.name, "-", i), std::ios::binary) << target.seeds[i];
}

int run(const Options& options) {
  std::vector<std::string> names;
  for (const Target& target : all_targets()) names.push_back(target.name);
  for (const std::string& name : options.targets) {
    if (std::find(names.begin(), names.end(), name) == names.end())
      fail("target must be one of ", join(names), ", got ", quoted(name));
  }
  watch_process();
  for (const Target& target : all_targets()) {
    const bool asked = options.targets.empty() ||
                       std::find(options.targets.begin(), options.targets.end(), target.name) != options.targets.end();
    if (!asked) continue;
    if (!options.corpus.empty()) {
      write_corpus(target, options.corpus);
    } else if (!options.replay.empty()) {
      std::ifstream in(options.replay, std::ios::binary);
      target_at_work = target.name.c_str();
      if (!run_one(target, std::string(std::istreambuf_iterator<char>(in), {}))) return 1;
    } else if (!run_target(target, options)) {
      return 1;
    }
  }
  return 0;
}

}  // namespace
}  // namespace qkr::fuzz

int main(int argc, char** argv) {
  qkr::fuzz::Options options;
  CLI::App app{"Mutated inputs for everything that reads a user's bytes."};
  app.add_option("targets", options.targets, "all without one");
  app.add_option("--runs", options.runs, "inputs of each target");
  app.add_option("--seconds", options.seconds, "of each target at most");
  app.add_option("--seed", options.seed, "of the mutations");
  app.add_option("--save", options.save, "folder for the input of a finding")->check(CLI::ExistingDirectory);
  app.add_option("--replay", options.replay, "one input from this file")->check(CLI::ExistingFile);
  app.add_option("--write-corpus", options.corpus,
                 "put the inputs that are mutated into this folder, as libFuzzer wants them");
  CLI11_PARSE(app, argc, argv);
  if (std::filesystem::is_directory("/dev/shm"))
    setenv("TMPDIR", "/dev/shm", 0);  // files of a run, and their fsync, stay in memory
  try {
    return qkr::fuzz::run(options);
  } catch (const std::exception& error) {
    std::cerr << "fuzz: " << error.what() << "\n";
    return 2;
  }
}
