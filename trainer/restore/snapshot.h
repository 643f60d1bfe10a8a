// What is kept of a model before its first step, so that it can be put back: W_Q and W_K of the softmax layers, their biases,
// the q/k norm gains. In the stored dtype, on the CPU; not a second checkpoint.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "trainer/core/named_tensors.h"

namespace qkr {

// The names of one softmax layer's tensors; "" where the architecture has none. Who lists the layers reads them from
// config.json: a linear layer may use the same names and shapes.
struct SoftmaxLayer {
  int64_t layer = 0;               // 0-based
  std::string q_weight, k_weight;  // [H * D, d], [KV * D, d]
  std::string q_bias, k_bias;      // [H * D], [KV * D]
  std::string q_norm, k_norm;      // [D]
};

class Snapshot {
 public:
  // Takes over `tensors` (on the CPU, dense), which must be exactly those that `layers` names: what a caller read back from
  // disk. Throws Error naming a tensor that is missing, not listed, listed twice, or of the wrong shape.
  Snapshot(NamedTensors tensors, std::vector<SoftmaxLayer> layers, std::map<std::string, std::string> metadata = {});

  const NamedTensors& tensors() const { return tensors_; }
  const std::vector<SoftmaxLayer>& layers() const { return layers_; }
  // The caller's words (source digest, configuration hash), kept with the tensors.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // tensors_digest(tensors()), so that a snapshot read back from disk can be told from another model's.
  std::string digest() const;

 private:
  NamedTensors tensors_;
  std::vector<SoftmaxLayer> layers_;
  std::map<std::string, std::string> metadata_;
};

// Copies what `layers` names out of `weights` (any device). Throws Error naming the tensor if one is missing.
Snapshot take_snapshot(const NamedTensors& weights, const std::vector<SoftmaxLayer>& layers,
                       std::map<std::string, std::string> metadata = {});

// SHA-256 over names, dtypes, shapes and bytes, in the order of the names: a file format may sort differently. 64 hex digits.
std::string tensors_digest(const NamedTensors& tensors);

}  // namespace qkr
