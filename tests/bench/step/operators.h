// The operators of a training step, as often as a model's layers call them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "trainer/model/architecture.h"
#include "trainer/model/segments.h"

namespace qkr::bench {

struct StepOperator {
  std::string name, shape;
  int64_t calls = 0;                        // layers that have it
  int64_t forwards = 0;                     // of each call in a step: twice where the backward computes the block again
  std::function<void()> forward, backward;  // through the dispatcher, on tensors of their own; either may be empty
};

// HypeNet-2B as published: 28 layers, 7 of them softmax attention. On the CPU a small one of the same kind.
Architecture hypenet(bool small);

// What one step of that model calls on those packed tokens with activations recomputed by block.
std::vector<StepOperator> step_operators(const Architecture& architecture, const Segments& segments, at::Device device);

}  // namespace qkr::bench
