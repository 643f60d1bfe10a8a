#include "trainer/model/lightning_attention.h"

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "ops/lightning_attention.h"

namespace qkr {

at::Tensor lightning_slopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  const auto table = [](int64_t count) {
    std::vector<double> slopes;
    for (int64_t h = 0; h < count; ++h)
      slopes.push_back(std::exp2(-8.0 * static_cast<double>(h + 1) / static_cast<double>(count)));
    return slopes;
  };
  std::vector<double> slopes = table(power);
  const std::vector<double> finer = table(2 * power);
  for (int64_t h = 0; static_cast<int64_t>(slopes.size()) < heads; h += 2) slopes.push_back(finer[h]);
  return at::tensor(slopes, at::kDouble);
}

at::Tensor lightning_packed(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                            double scale, const Segments& segments) {
  return std::get<0>(lightning_attention(q, k, v, slopes, segments.cu_seqlens_device, {}, {.scale = scale}));
}

at::Tensor lightning_cached(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& slopes,
                            double scale, at::Tensor& state) {
  const at::NoGradGuard no_grad;
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2);
  if (tokens == 1) {
    if (!state.defined()) state = at::zeros({heads, dim, dim}, slopes.options());
    return lightning_attention_step_(q, k, v, slopes, state.unsqueeze(0), scale);
  }
  const at::Tensor cu_seqlens = at::arange(2, slopes.options().dtype(at::kInt)) * tokens;  // no copy from the host
  std::optional<at::Tensor> before;
  if (state.defined()) before = state.unsqueeze(0);
  const auto [o, after] =
      lightning_attention(q, k, v, slopes, cu_seqlens, before, {.scale = scale, .with_state = true});
  state = after.squeeze(0);
  return o;
}

}  // namespace qkr
