// Which blocks of the rooms' code ran since the counts were last cleared.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qkr::fuzz {

inline constexpr size_t kCoverageSize = size_t{1} << 16;
extern uint8_t
    coverage_counts[kCoverageSize];  // steps from one block to the next, by a hash of both; 255: as many or more

}  // namespace qkr::fuzz

extern "C" void __sanitizer_cov_trace_pc();
