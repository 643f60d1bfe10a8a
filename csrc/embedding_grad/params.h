// The gradient of a table of embeddings: grad_weight[v, :] = sum over n with tokens[n] = v of dy[n, :], in fp32,
// rounded once.
//
// Note [Sorted segments]
// The tokens come sorted, so a vocabulary row's terms are one run of positions, and a stable
// sort keeps their order. The positions are cut into pieces of equal length, whatever the runs. A piece writes the
// runs that lie within it; of a run that goes on beyond either end it keeps the partial sum. A run over several
// pieces is then added up, piece by piece, by the piece in which it begins. So the work is even when one token is
// half of the text, and the order of additions never changes.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

constexpr int kEmbeddingPiece = 32;  // positions

// T: Bf16 or float.
template <class T>
struct EmbeddingGradParams {
  const T* dy = nullptr;            // [N, D], rows dy_stride elements apart
  const int32_t* tokens = nullptr;  // [N], ascending
  const int64_t* order = nullptr;   // [N]: tokens[i] stood at position order[i]
  T* grad_weight = nullptr;         // [V, D] dense, written whole
  float* partials = nullptr;        // [ceil(N / kEmbeddingPiece), 2, D]
  int64_t count = 0, vocabulary = 0, cols = 0, dy_stride = 0;
};

}  // namespace qkr
