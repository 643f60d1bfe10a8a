// Tensors as the parameters of csrc/needle_attention, for both devices.
#pragma once

#include <ATen/ATen.h>

#include "csrc/needle_attention/params.h"
#include "ops/pointwise.h"

namespace qkr {

// What the parameters point into: rows and heads where they lie, as long as a head's elements are neighbours.
struct NeedleAttentionTensors {
  at::Tensor q, k, positions, ranges, mass;

  NeedleAttentionTensors(const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& query_positions, const at::Tensor& key_ranges,
                         const at::Tensor& result)
      : q(with_dense_heads(q_in)), k(with_dense_heads(k_in)), positions(query_positions.contiguous()), ranges(key_ranges.contiguous()),
        mass(result) {}

  template <class T>
  NeedleAttentionParams<T> params(double scale) const {
    NeedleAttentionParams<T> p;
    p.q = static_cast<const T*>(q.const_data_ptr());
    p.k = static_cast<const T*>(k.const_data_ptr());
    p.positions = positions.const_data_ptr<int64_t>();
    p.ranges = ranges.const_data_ptr<int64_t>();
    p.mass = mutable_data<float>(mass);
    p.queries = q.size(0), p.heads = q.size(1), p.kv_heads = k.size(1), p.keys = k.size(0), p.head_dim = q.size(2);
    p.q_row = q.stride(0), p.q_head = q.stride(1), p.k_row = k.stride(0), p.k_head = k.stride(1);
    p.scale = static_cast<float>(scale);
    return p;
  }

 private:
  static at::Tensor with_dense_heads(const at::Tensor& x) { return x.stride(2) == 1 || x.size(2) == 1 ? x : x.contiguous(); }
};

}  // namespace qkr
