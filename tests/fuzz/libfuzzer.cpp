// The entry that clang's libFuzzer calls; QKR_FUZZ_TARGET names the target's function.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/target.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const qkr::fuzz::Target target = qkr::fuzz::QKR_FUZZ_TARGET();
  target.run({reinterpret_cast<const char*>(data), size});
  return 0;
}
