// How an operator is measured against its peers. To add one, add a file tests/bench/<op>_bench.cpp and nothing else:
//
//   QKR_BENCH(relu) {
//     add_case("relu", "[16384, 4096] bf16", [] {
//       const at::Tensor x = at::randn({16384, 4096}, on_device(at::kBFloat16));
//       return Case{{Limit::kCopy, 2.0 * x.nbytes()}, {{"ours", [x] { relu(x); }, [x] { return Accuracy{...}; }},
//                                                      {"torch", [x] { at::relu(x); }}}};
//     });
//   }
//
// bench_ops then times all contenders of a case in turns, in one run, and prints a row of the table with the ratio, the rate and
// the share of what the device was measured to do in the same run. Wrong results are an error, not a row.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

namespace qkr::bench {

// The CPU, or the first GPU; main() sets it before the cases are made.
at::Device device();
void set_device(at::Device device);
inline bool on_gpu() { return device().is_cuda(); }
inline at::TensorOptions on_device(at::ScalarType type) { return at::TensorOptions(device()).dtype(type); }

// What bounds an operator: bytes of a copy, read and written, or operations of a square matrix product of that dtype.
enum class Limit { kCopy, kFp64, kFp32, kBf16 };

// What one call cannot do without: bytes for kCopy, else floating-point operations.
struct Work {
  Limit limit;
  double amount;
};

struct Accuracy {
  std::string text;  // numbers in a few words, for the table
  bool good = true;  // false: the case is reported as an error
};

struct Contender {
  std::string name;
  std::function<void()> run;                // one call; it may leave work queued on the current stream
  std::function<Accuracy()> accuracy = {};  // of a call of its own; asked once, before anything is timed
};

struct Case {
  Work work;                          // of the first contender
  std::vector<Contender> contenders;  // ours, then the peers
};

// `make` is called when the case's turn comes, and what it holds is freed before the next.
void add_case(const std::string& op, const std::string& shape, std::function<Case()> make);

// A group of cases, in the order of their names. Sizes may depend on on_gpu(): small ones on the CPU.
bool add_group(const std::string& name, void (*add_cases)());
void add_all_groups();

#define QKR_BENCH(name)                                                                      \
  static void add_##name##_cases();                                                          \
  static const bool name##_added = qkr::bench::add_group(#name, add_##name##_cases);         \
  static void add_##name##_cases()

// Milliseconds that one call takes on the device: CUDA events around it, after the L2 cache is flushed by a write that is long
// enough to hide the launch; on the CPU, wall time with warm caches.
double time_ms(const std::function<void()>& run);
double median(std::vector<double> values);  // of at least one
void wait_for_device();

}  // namespace qkr::bench
