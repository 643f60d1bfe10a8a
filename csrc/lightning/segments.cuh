// Which tokens a block of a Lightning kernel works on, found on the device: neither slopes nor cu_seqlens is read by
// the host. Positions u count along the direction of the pass: u = token, or tokens - 1 - token where time runs
// backwards.
#pragma once

#include <cstdint>

namespace qkr {

// One head's tokens [begin, end) of the row, preceded by up to `window` tokens that only build the state.
struct Segment {
  int head, begin, end, window;
  bool valid;
};

// Tokens further back add less than 2^-24 of their value: ln(2^24) / slope, in whole chunks.
__device__ inline int decay_window(float slope, int tokens) {
  constexpr float kLn2To24 = 16.635532f;
  constexpr int kRound = 64;
  const float window = kLn2To24 / slope;  // a slope of 0 gives infinity
  if (!(window >= 0.f && window < static_cast<float>(tokens))) return tokens;
  return min(tokens, (static_cast<int>(window) + kRound) / kRound * kRound);
}

// Pieces that a head is cut into so that each costs about `budget` units of 64 tokens; a token of the window costs
// 7/16.
__device__ inline int segments_of_head(int window, int budget, int tokens) {
  const int units = (tokens + 63) / 64;
  if (window >= tokens || budget >= units) return 1;
  const int length = max(1, budget - (window / 64 * 7 + 15) / 16);
  return (units + length - 1) / length;
}

__device__ inline int warp_sum(int x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Cuts all heads so that at most `blocks` pieces come out and the costliest is as cheap as that allows; piece number
// `block` is returned to every lane. One whole warp calls it. With more heads than blocks every head is one piece.
__device__ inline Segment pick_segment(const float* slopes, int heads, int tokens, int block, int blocks) {
  const int lane = static_cast<int>(threadIdx.x) % 32, units = (tokens + 63) / 64;
  int low = 1, high = max(units, 1);
  while (low < high) {
    const int budget = (low + high) / 2;
    int pieces = 0;
    for (int h = lane; h < heads; h += 32) pieces += segments_of_head(decay_window(slopes[h], tokens), budget, tokens);
    if (warp_sum(pieces) <= blocks) {
      high = budget;
    } else {
      low = budget + 1;
    }
  }
  Segment out{};
  int before = 0;  // pieces of the heads already passed
  for (int first = 0; first < heads && !out.valid; first += 32) {
    const int h = first + lane;
    const int window = h < heads ? decay_window(slopes[h], tokens) : 0;
    const int mine = h < heads ? segments_of_head(window, low, tokens) : 0;
    int upto = mine;
    for (int step = 1; step < 32; step *= 2) {
      const int left = __shfl_up_sync(~0u, upto, step);
      if (lane >= step) upto += left;
    }
    const int index = block - before - (upto - mine);
    const unsigned owner = __ballot_sync(~0u, index >= 0 && index < mine);
    before += __shfl_sync(~0u, upto, 31);
    if (owner == 0) continue;
    const int length = (units + max(mine, 1) - 1) / max(mine, 1) * 64;
    const int source = __ffs(static_cast<int>(owner)) - 1;
    out.head = first + source;
    out.begin = __shfl_sync(~0u, min(index * length, tokens), source);
    out.end = __shfl_sync(~0u, min(index * length + length, tokens), source);
    out.window = __shfl_sync(~0u, window, source);
    out.valid = __shfl_sync(~0u, index == 0 || index * length < tokens, source);
    return out;
  }
  return out;
}

// Up to kChunk tokens of one document.
struct Chunk {
  int begin, length;  // positions; 0 tokens: an empty document, whose final state is its initial one
  int document;
  bool valid;
  bool starts;  // the document's first token is here: the state becomes the initial one
  bool ends;    // the document's last token is here
  bool emits;   // false in the window
};

// Walks a segment chunk by chunk: documents in order, none shared by two chunks.
template <int kChunk>
class ChunkWalker {
 public:
  // To be called first; there is no constructor, so that a walker may lie in shared memory, out of the registers' way.
  // visit_empty: documents without tokens are chunks of length 0, each in exactly one segment.
  __device__ void start(const int32_t* cu_seqlens, int sequences, int tokens, bool reverse, bool visit_empty,
                        const Segment& segment) {
    cu_ = cu_seqlens, sequences_ = sequences, tokens_ = tokens, reverse_ = reverse, visit_empty_ = visit_empty;
    begin_ = segment.begin, end_ = segment.end;
    int low = 0, high = sequences;  // the first document that ends at or after begin_
    while (low < high) {
      const int middle = (low + high) / 2;
      if (edge(middle + 1) >= begin_) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    document_ = low - 1;
    window_begin_ = begin_ - min(begin_, segment.window);
    enter_next();
  }

  __device__ Chunk next() {
    Chunk chunk{};
    if (document_ >= sequences_) return chunk;
    const bool warm = at_ < begin_;
    chunk.begin = at_;
    chunk.length = min(kChunk, min(document_end_, warm ? begin_ : end_) - at_);
    chunk.document = reverse_ ? sequences_ - 1 - document_ : document_;
    chunk.valid = true;
    chunk.starts = at_ == document_begin_;
    chunk.emits = !warm && chunk.length > 0;
    at_ += chunk.length;
    chunk.ends = at_ == document_end_;
    if (chunk.ends || at_ == end_) enter_next();
    return chunk;
  }

 private:
  // Where document i begins in positions; i = sequences: where the last one ends. Kept within the row whatever the
  // tensor holds.
  __device__ int edge(int i) const {
    const int at = reverse_ ? tokens_ - cu_[sequences_ - i] : cu_[i];
    return max(0, min(at, tokens_));
  }

  // Moves to the next document with something to do in this segment; none: document_ = sequences_.
  __device__ void enter_next() {
    for (++document_; document_ < sequences_; ++document_) {
      document_begin_ = edge(document_);
      document_end_ = max(document_begin_, edge(document_ + 1));
      if (document_begin_ >= end_ && end_ < tokens_) break;
      if (document_end_ == document_begin_) {
        if (visit_empty_ && document_begin_ >= begin_) {
          at_ = document_begin_;
          return;
        }
      } else if (document_end_ > begin_ && document_begin_ < end_) {
        at_ = document_begin_ >= begin_ ? document_begin_ : max(document_begin_, window_begin_);
        return;
      }
    }
    document_ = sequences_;
  }

  const int32_t* cu_;
  int sequences_, tokens_;
  bool reverse_, visit_empty_;
  int begin_, end_, window_begin_;
  int document_, document_begin_, document_end_, at_;
};

}  // namespace qkr
