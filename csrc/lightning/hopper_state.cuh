// A warpgroup's slice of the state: value x key, 64 x D in registers (Note [Transposed products] in
// hopper_consumer.cuh).
#pragma once

#include <cstdint>

#include "csrc/lightning/hopper_warpgroup.cuh"

namespace qkr::hopper {

template <int kDim, bool kHiLo>
class State {
  using P = Plan<kDim, kHiLo>;
  using Me = Warpgroup<P>;

 public:
  using Operand = uint32_t[kDim / 16][4];
  using Values = uint32_t[4][4];  // a chunk's, transposed

  // from null: 0.
  __device__ void load(const Me& me, const float* from, float factor) {
    const int key_stride = me.pass.initial_transposed ? 1 : kDim, value_stride = me.pass.initial_transposed ? kDim : 1;
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) {
      state_[i] = from == nullptr ? 0.f : factor * from[key_of(me, i) * key_stride + value_of(me, i) * value_stride];
    }
  }

  __device__ void save(const Me& me, float* to) const {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) to[key_of(me, i) * kDim + value_of(me, i)] = state_[i];
  }

  __device__ void decay(const Me& me) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) state_[i] *= me.state_decay();
  }

  // As the A operand of a product; low only in accurate mode.
  __device__ void convert(Operand& high, Operand& low) const {
#pragma unroll
    for (int i = 0; i < kDim / 16; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float x = state_[8 * i + 2 * j], y = state_[8 * i + 2 * j + 1];
        high[i][j] = pack_bf16(x, y);
        if (kHiLo) low[i][j] = pack_rest(x, y, high[i][j]);
      }
    }
  }

  // Tokens [16 from, 16 to); 0 beyond the chunk's `length`.
  template <int kFrom, int kTo>
  __device__ static void load_values(const Me& me, Values& values, uint32_t tiles, int length) {
    const uint32_t tile = tiles + 2 * P::kTensor + me.group * kTileBytes, lane = me.thread % 32;
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) {
      const uint32_t row = 16 * i + lane % 8 + lane / 16 * 8, column = me.thread / 32 * 16 + lane / 8 % 2 * 8;
      load_transposed(values[i], tile + tile_offset(row, column));
    }
    if (length == kChunk) return;
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int left = length - (16 * i + j / 2 * 8 + me.column);
        values[i][j] = left > 1 ? values[i][j] : left == 1 ? values[i][j] & 0xffff : 0;
      }
    }
  }

  // Starts state += (values decayed to the chunk's end) k for tokens [16 from, 16 to) of a chunk. In high and low parts
  // in either mode: rounding the decayed values once more would cost slow heads, whose outputs come from the state, a
  // third of their accuracy.
  template <int kFrom, int kTo>
  __device__ void add(const Me& me, const Values& values, uint32_t tiles) {
    Values high, low;
    decay_values<true, false, kFrom, kTo>(me, values, high, low, 1.f);
    multiply<true, kFrom, kTo>(high, low, tiles);
  }

  // Starts a chunk of the warm-up: state += factor (values decayed to the chunk's end) k, in high and low parts or
  // rounded.
  template <bool kSplit>
  __device__ void gather(const Me& me, uint32_t tiles, float factor) {
    Values values, high, low;
    load_values<0, 4>(me, values, tiles, kChunk);
    decay_values<kSplit, true, 0, 4>(me, values, high, low, factor);
    multiply<kSplit, 0, 4>(high, low, tiles);
  }

  // After the wait for what was started.
  __device__ void pin() { wgmma_pin(state_); }

 private:
  __device__ static int key_of(const Me& me, int i) { return i / 4 * 8 + me.column + i % 2; }
  __device__ static int value_of(const Me& me, int i) { return me.group * 64 + me.row + i / 2 % 2 * 8; }

  template <bool kSplit, bool kScaled, int kFrom, int kTo>
  __device__ static void decay_values(const Me& me, const Values& values, Values& high, Values& low, float factor) {
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {  // of the 16 tokens
        float2 decay = me.value_decays(16 * i + 8 * half + me.column);
        if (kScaled) decay.x *= factor, decay.y *= factor;
#pragma unroll
        for (int j = 2 * half; j < 2 * half + 2; ++j) {
          const float x = low_of(values[i][j]) * decay.x, y = high_of(values[i][j]) * decay.y;
          high[i][j] = pack_bf16(x, y);
          if (kSplit) low[i][j] = pack_rest(x, y, high[i][j]);
        }
      }
    }
  }

  template <bool kSplit, int kFrom, int kTo>
  __device__ void multiply(const Values& high, const Values& low, uint32_t tiles) {
    const uint64_t keys = tile_by_columns(tiles + P::kTensor);
    wgmma_fence();
#pragma unroll
    for (int i = kFrom; i < kTo; ++i) {
      wgmma<true>(state_, high[i], keys + 128 * i, true);
      if (kSplit) wgmma<true>(state_, low[i], keys + 128 * i, true);
    }
    wgmma_commit();
  }

  float state_[kDim / 2];
};

}  // namespace qkr::hopper
