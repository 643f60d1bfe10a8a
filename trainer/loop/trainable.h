// Which weights a run trains: all but those that train.freeze and train.freeze_qk keep.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/model/architecture.h"
#include "trainer/model/decoder.h"

namespace qkr {

// What is kept, in the order of the forward pass. Error (bad input) naming a pattern of train.freeze that matches no weight, with
// names that are near it; or if nothing is left to train. Of a tied model lm_head.weight is model.embed_tokens.weight, which is its name.
std::vector<std::string> frozen_weights(const Architecture& architecture, const TrainConfigSection& config);

// Marks every weight as trained or not. Call before AdamW is made: what is not has no gradient, no moments and no weight decay, and
// the backward pass ends at the first layer that is trained.
void mark_trainable(const Decoder& decoder, const TrainConfigSection& config);

struct TrainedCount {
  int64_t weights = 0, tensors = 0;  // trained ones
  int64_t first_layer = 0;           // the backward pass ends there; -1: at the embedding
};
TrainedCount count_trained(const Architecture& architecture, const std::vector<std::string>& frozen);

}  // namespace qkr
