// Called by the compiler at every block of the rooms in a tree with QKR_FUZZ_COVERAGE (-fsanitize-coverage=trace-pc):
// counts the steps from block to block, by which a fuzz run sees that an input did something new.
#include "tests/fuzz/coverage.h"

namespace {

thread_local uintptr_t previous = 0;

}  // namespace

namespace qkr::fuzz {

uint8_t coverage_counts[kCoverageSize];

}  // namespace qkr::fuzz

extern "C" void __sanitizer_cov_trace_pc() {
  // Relative to this function, so that a run does not depend on where the program was loaded.
  const uintptr_t block =
      reinterpret_cast<uintptr_t>(__builtin_return_address(0)) - reinterpret_cast<uintptr_t>(&__sanitizer_cov_trace_pc);
  uint8_t& count = qkr::fuzz::coverage_counts[(block ^ previous) % qkr::fuzz::kCoverageSize];
  if (count < 255) ++count;
  previous = block >> 1;
}
