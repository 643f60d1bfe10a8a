#include "trainer/model/segments.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "trainer/core/error.h"

namespace qkr {

Segments Segments::packed(std::vector<int64_t> cu_seqlens, at::Device device) {
  if (cu_seqlens.empty() || cu_seqlens.front() != 0 || !std::is_sorted(cu_seqlens.begin(), cu_seqlens.end())) {
    fail("segments: cu_seqlens must begin with 0 and not decrease");
  }
  Segments s;
  s.cu_seqlens = std::move(cu_seqlens);
  at::Tensor positions = at::empty({s.tokens()}, at::kLong);
  at::Tensor offsets = at::empty({s.count() + 1}, at::kInt);
  int64_t* position = positions.data_ptr<int64_t>();
  for (int64_t i = 0; i <= s.count(); ++i) offsets.data_ptr<int32_t>()[i] = static_cast<int32_t>(s.cu_seqlens[i]);
  for (int64_t i = 0; i < s.count(); ++i) {
    const int64_t length = s.cu_seqlens[i + 1] - s.cu_seqlens[i];
    s.longest = std::max(s.longest, length);
    for (int64_t t = 0; t < length; ++t) *position++ = t;
  }
  s.positions = positions.to(device);
  s.cu_seqlens_device = offsets.to(device);
  return s;
}

Segments Segments::continued(int64_t past, int64_t count, at::Device device) {
  Segments s;
  s.cu_seqlens = {0, count};
  s.longest = count;
  s.past = past;
  s.positions = at::arange(past, past + count, at::TensorOptions(device).dtype(at::kLong));
  return s;  // cu_seqlens_device stays undefined: cached attention is dense
}

Segments Segments::stepped(at::Tensor positions) {
  Segments s;
  s.cu_seqlens = {0, positions.size(0)};
  s.longest = 1;
  s.positions = std::move(positions);
  return s;
}

}  // namespace qkr
