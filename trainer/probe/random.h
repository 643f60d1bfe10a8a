// The probe's own generator (SplitMix64, Steele et al. 2014): the same items on every platform, a
// function of what seeds it.
#pragma once

#include <cstdint>
#include <initializer_list>

namespace qkr {

class SplitMix64 {
 public:
  // Every part changes the whole stream.
  explicit SplitMix64(std::initializer_list<uint64_t> parts) {
    for (const uint64_t part : parts) state_ = mix(state_ ^ part) + kStep;
  }

  uint64_t next() { return mix(state_ += kStep); }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }  // [0, 1)

  // Uniform in 0 .. bound-1: draws from the incomplete last round are thrown away, so no value is
  // likelier than another.
  uint64_t below(uint64_t bound) {
    const uint64_t rejected = (0 - bound) % bound;
    for (;;) {
      const uint64_t draw = next();
      if (draw >= rejected) return draw % bound;
    }
  }

 private:
  static constexpr uint64_t kStep = 0x9E3779B97F4A7C15ull;
  static uint64_t mix(uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }

  uint64_t state_ = kStep;
};

}  // namespace qkr
