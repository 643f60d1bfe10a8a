// How far two copies of a tensor are from each other, in one pass over the files.
#pragma once

#include <string>

#include "trainer/apps/offline.h"

namespace qkr {

// Sums of squares in fp64 over all elements: ||tuned - base||^2, ||base||^2, ||tuned||^2. Sums of several tensors add up.
struct SquareSums {
  double moved = 0, base = 0, tuned = 0;
  SquareSums& operator+=(const SquareSums& other);
  double relative_to_base() const;  // ||tuned - base|| / ||base||; 0 if nothing moved, even from zero
  double relative_to_tuned() const;
};

struct TensorComparison {
  SquareSums sums;
  std::string base_sha256, tuned_sha256;  // of the tensor's bytes; empty unless asked for
};

// What it reads does not stay resident. Safe from several threads at a time.
TensorComparison compare_tensor(const ModelPair& pair, const std::string& name, bool digests);

// Fills row.moved.
void measure_moves(const ModelPair& pair, OfflineLayer& row);

// What plain, q, k and qkv do to a layer: copies of the base's bytes, so that restore() is not needed to know them.
struct PlainLayer {
  LayerReport report;                               // as restore() makes it
  std::map<std::string, TensorComparison> written;  // the tensors that go back
};
PlainLayer plain_layer(const ModelPair& pair, const MixerLayer& layer, const RestoreConfigSection& section);

bool is_plain(const std::string& method);

}  // namespace qkr
