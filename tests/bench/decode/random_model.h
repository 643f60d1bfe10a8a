// A model of a released size with random weights: as large and as fast as a trained one, and good for nothing else.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "trainer/model/decoder.h"

namespace qkr::bench {

// `model`: 2b, 5b or 9b, HypeNet's released sizes; or a config.json. bf16; matrices are N(0, initializer_range), drawn on the device by
// ATen's generator.
Decoder random_model(const std::string& model, at::Device device);

// The same as a model folder that must not exist yet: config.json, shards of at most 5 GB, and what another folder has beside its weights
// (tokenizer, template). The model may have more rows than that tokenizer has tokens.
void save_random_model(const std::string& model, const std::string& tokenizer_folder, const std::string& folder, at::Device device);

}  // namespace qkr::bench
