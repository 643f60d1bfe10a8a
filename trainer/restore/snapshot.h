// What is kept of a model before its first step, so that it can be put back: the weights that a restore may need, in the stored
// dtype, on the CPU; not a second checkpoint.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "trainer/core/mixer_layer.h"
#include "trainer/core/named_tensors.h"

namespace qkr {

class Snapshot {
 public:
  // Takes over `tensors` (on the CPU, dense), which must be exactly those that `layers` names: what a caller read back from
  // disk. Throws Error naming a tensor that is missing, not listed, listed twice, or of the wrong shape.
  Snapshot(NamedTensors tensors, std::vector<MixerLayer> layers, std::map<std::string, std::string> metadata = {});

  const NamedTensors& tensors() const { return tensors_; }
  const std::vector<MixerLayer>& layers() const { return layers_; }
  // The caller's words (source digest, configuration hash), kept with the tensors.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // tensors_digest(tensors()), so that a snapshot read back from disk can be told from another model's.
  std::string digest() const;

 private:
  NamedTensors tensors_;
  std::vector<MixerLayer> layers_;
  std::map<std::string, std::string> metadata_;
};

// Copies what `layers` names out of `weights` (any device). Throws Error naming the tensor if one is missing.
Snapshot take_snapshot(const NamedTensors& weights, const std::vector<MixerLayer>& layers,
                       std::map<std::string, std::string> metadata = {});

// SHA-256 over names, dtypes, shapes and bytes, in the order of the names: a file format may sort differently. 64 hex digits.
std::string tensors_digest(const NamedTensors& tensors);

}  // namespace qkr
