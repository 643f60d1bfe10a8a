// A Hugging Face model folder ↔ a Decoder: config.json, safetensors, and the files that travel along.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>

#include "trainer/model/decoder.h"

namespace qkr {

// config.json as it will be run and written back: unknown-but-harmless keys kept, attn_logits_scaling replaced where asked.
struct ModelSource {
  std::string folder;
  std::string config_json;  // what the output's config.json will say, but for the dtype
  Architecture architecture;

  // `logits_scaling`: "checkpoint" keeps the folder's value; "null", "hype A" or a float replace it (HypeNet only).
  // Error if there is no config.json, or it holds what this program does not run (parse_architecture).
  static ModelSource read(const std::string& folder, const std::string& logits_scaling);
};

// Checks every name, shape and dtype of the folder's tensors against the architecture without reading their data; Error naming
// the first that is missing, unexpected or misshapen. A tied model's lm_head.weight is accepted (and its bytes compared on
// load). HypeNet's older names (student_model., .mixer., .attn., ...) are understood.
void check_weights(const ModelSource& source);

// Reads the weights (by memory map) into new tensors of `dtype` on `device`. Error naming the first that is not finite there.
Decoder load_decoder(const ModelSource& source, at::ScalarType dtype, at::Device device);

// The same from nothing: N(0, initializer_range) for matrices, ones for norms, zeros for biases; a function of the seed alone.
Decoder random_decoder(const ModelSource& source, at::ScalarType dtype, at::Device device, int64_t seed);

// What save_model writes beside the weights, at most.
int64_t companion_bytes(const ModelSource& source);

// Writes `folder` (absent or empty; atomically): weights in their own dtype, sharded above 5 GB, config.json with that dtype
// under the key that was there, and the source's tokenizer, template, generation and code files byte for byte.
void save_model(const std::filesystem::path& folder, const ModelSource& source, const NamedTensors& weights);

}  // namespace qkr
