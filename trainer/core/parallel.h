// Independent pieces of work on all cores.
#pragma once

#include <cstddef>
#include <functional>

namespace qkr {

// work(0) ... work(count - 1), as many at a time as there are cores. Rethrows the error of the lowest index, so that the same input
// always gives the same message: every index below a failed one was taken before it, and is finished.
void for_all(size_t count, const std::function<void(size_t)>& work);

}  // namespace qkr
