// The gradient of a table of embeddings: grad_weight[v, :] = sum over n with tokens[n] = v of dy[n, :], in fp32,
// rounded once.
//
// Note [Sorted segments]
// The tokens come sorted, so a vocabulary row's terms are one run of positions, and a stable
// sort keeps their order. The positions are cut into pieces of equal length, whatever the runs. A piece writes the
// runs that lie within it; of a run that goes on beyond either end it keeps the partial sum. Where a run covers a whole
// group of pieces, the group's sums are added up first, one group beside the other; then the piece in which a run begins
// adds up what there is of it, in order: pieces, groups, pieces. So the work is even when one token is all of the text,
// and the order of additions depends on the sorted tokens alone.
#pragma once

#include <cstdint>

#include "csrc/core/bits.h"

namespace qkr {

constexpr int kEmbeddingPiece = 32;  // positions
constexpr int kEmbeddingGroup = 16;  // pieces

QKR_HOST_DEVICE inline int64_t embedding_pieces(int64_t count) {
  return (count + kEmbeddingPiece - 1) / kEmbeddingPiece;
}
// Whole ones: a run that covers less of the last pieces needs no group.
QKR_HOST_DEVICE inline int64_t embedding_groups(int64_t count) { return embedding_pieces(count) / kEmbeddingGroup; }

// T: Bf16 or float.
template <class T>
struct EmbeddingGradParams {
  const T* dy = nullptr;            // [N, D], rows dy_stride elements apart
  const int32_t* tokens = nullptr;  // [N], ascending
  const int64_t* order = nullptr;   // [N]: tokens[i] stood at position order[i]
  T* grad_weight = nullptr;         // [V, D] dense, written whole
  float* partials = nullptr;        // [embedding_pieces(N), 2, D]
  float* groups = nullptr;          // [embedding_groups(N), D]
  int64_t count = 0, vocabulary = 0, cols = 0, dy_stride = 0;
};

}  // namespace qkr
