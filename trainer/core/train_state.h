// All that a resume needs.
#pragma once

#include <cstdint>

#include "trainer/core/named_tensors.h"

namespace qkr {

// The tensors are the live ones (model and optimizer share their storage), so loading copies into them and no pointer goes
// stale. There is no generator state: randomness is a function of (seed, step, rank).
struct TrainState {
  NamedTensors weights;  // by checkpoint name
  NamedTensors optim;    // "exp_avg.<weight>", "exp_avg_sq.<weight>", "master_low.<weight>" (bf16 weights only)
  int64_t step = 0;            // optimizer steps done
  int64_t next_sample = 0;     // position in the stream of packed rows: the first row that no step has used
  int64_t tokens_seen = 0;     // all tokens that went through the model
  int64_t tokens_trained = 0;  // those that had a label
};

}  // namespace qkr
