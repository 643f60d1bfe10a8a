// A scope in which PyTorch's deterministic flag is off, for calls that are deterministic but are slowed or refused by it.
#pragma once

#include <ATen/Context.h>

namespace qkr {

class AnyAlgorithm {
 public:
  AnyAlgorithm()
      : deterministic_(at::globalContext().deterministicAlgorithms()), warn_only_(at::globalContext().deterministicAlgorithmsWarnOnly()) {
    at::globalContext().setDeterministicAlgorithms(false, false);
  }
  ~AnyAlgorithm() { at::globalContext().setDeterministicAlgorithms(deterministic_, warn_only_); }
  AnyAlgorithm(const AnyAlgorithm&) = delete;
  AnyAlgorithm& operator=(const AnyAlgorithm&) = delete;

 private:
  bool deterministic_, warn_only_;
};

}  // namespace qkr
