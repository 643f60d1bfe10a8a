// The model's calls of Lightning attention, for packed rows and with a cache, and the slopes of the heads.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/accuracy.h"
#include "trainer/model/lightning_attention.h"

namespace qkr {
namespace {

using test::max_abs_difference;

struct Inputs {
  at::Tensor q, k, v, slopes;
};

// A smooth pattern instead of chance: the same on every machine.
at::Tensor pattern(int64_t tokens, int64_t heads, int64_t dim, double phase) {
  return (at::arange(tokens * heads * dim, at::kDouble) * 0.7310585 + phase).sin().view({tokens, heads, dim});
}

Inputs inputs(int64_t tokens, int64_t heads, int64_t dim) {
  return {pattern(tokens, heads, dim, 0.1), pattern(tokens, heads, dim, 1.3), pattern(tokens, heads, dim, 2.7),
          lightning_slopes(heads)};
}

// S_t = exp(-s) S_{t-1} + k_t^T v_t, o_t = scale q_t S_t, built from differentiable pieces. *state: the last S of the
// last segment.
at::Tensor by_recurrence(const Inputs& in, double scale, const std::vector<int64_t>& cu_seqlens,
                         at::Tensor* state = nullptr) {
  const int64_t heads = in.q.size(1), dim = in.q.size(2);
  const at::Tensor fade = (-in.slopes).exp().view({heads, 1, 1});
  std::vector<at::Tensor> outputs;
  at::Tensor s;
  for (size_t segment = 0; segment + 1 < cu_seqlens.size(); ++segment) {
    s = at::zeros({heads, dim, in.v.size(2)}, in.q.options());
    for (int64_t t = cu_seqlens[segment]; t < cu_seqlens[segment + 1]; ++t) {
      s = fade * s + in.k[t].unsqueeze(2) * in.v[t].unsqueeze(1);                 // [H, D, D]
      outputs.push_back(scale * at::matmul(in.q[t].unsqueeze(1), s).squeeze(1));  // [H, D]
    }
  }
  if (state != nullptr) *state = s;
  return outputs.empty() ? at::zeros_like(in.v) : at::stack(outputs);
}

std::string text_of(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) text += " " + std::to_string(number);
  return text;
}

// The operator itself is tested in tests/ops; here: that it is given the segments, the scale and the heads.
TEST(Lightning, PackedSegmentsStartAfresh) {
  for (const auto& cu_seqlens : {std::vector<int64_t>{0, 1}, {0, 63, 127, 192}, {0, 130, 200, 200, 205, 300}, {0, 0}}) {
    const Inputs in = inputs(cu_seqlens.back(), 5, 8);
    const at::Tensor got = lightning_packed(in.q, in.k, in.v, in.slopes, 0.35, Segments::packed(cu_seqlens, at::kCPU));
    ASSERT_EQ(got.sizes(), in.v.sizes());
    if (got.numel() == 0) continue;
    EXPECT_LE(max_abs_difference(got, by_recurrence(in, 0.35, cu_seqlens)), 1e-11) << text_of(cu_seqlens);
  }
}

// bf16 goes in and comes out; in between it is fp32.
TEST(Lightning, Bf16IsRoundedOnce) {
  const Inputs in = inputs(200, 4, 16);
  const auto bf16 = [](const at::Tensor& x) { return x.to(at::kBFloat16); };
  const Segments segments = Segments::packed({0, 120, 200}, at::kCPU);
  const at::Tensor slopes = in.slopes.to(at::kFloat);
  const at::Tensor got = lightning_packed(bf16(in.q), bf16(in.k), bf16(in.v), slopes, 0.25, segments);
  const auto wide = [&](const at::Tensor& x) { return bf16(x).to(at::kFloat); };
  const at::Tensor want = lightning_packed(wide(in.q), wide(in.k), wide(in.v), slopes, 0.25, segments);
  EXPECT_TRUE(at::equal(got, want.to(at::kBFloat16)));
}

TEST(Lightning, CachedPiecesEqualOneShot) {
  const Inputs in = inputs(200, 3, 5);
  at::Tensor want_state;
  const at::Tensor want = by_recurrence(in, 0.5, {0, 200}, &want_state);
  for (const std::vector<int64_t>& pieces :
       {std::vector<int64_t>{200}, {1, 199}, {63, 1, 64, 65, 7}, {64, 64, 72}, {130, 1, 1, 1, 67}, {2, 3, 195}}) {
    at::Tensor state;
    std::vector<at::Tensor> parts;
    int64_t begin = 0;
    for (const int64_t count : pieces) {
      const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, count); };
      parts.push_back(lightning_cached(part(in.q), part(in.k), part(in.v), in.slopes, 0.5, state));
      begin += count;
    }
    ASSERT_EQ(begin, 200);
    EXPECT_LE(max_abs_difference(at::cat(parts), want), 1e-11) << text_of(pieces);
    EXPECT_LE(max_abs_difference(state, want_state), 1e-11) << text_of(pieces);
  }
}

TEST(Lightning, TokenByTokenEqualsOneShot) {
  const Inputs in = inputs(70, 2, 4);
  const at::Tensor want = by_recurrence(in, 1.0, {0, 70});
  at::Tensor state;
  for (int64_t t = 0; t < 70; ++t) {
    const auto one = [&](const at::Tensor& x) { return x.narrow(0, t, 1); };
    EXPECT_LE(max_abs_difference(lightning_cached(one(in.q), one(in.k), one(in.v), in.slopes, 1.0, state), one(want)),
              1e-12)
        << t;
  }
}

void expect_slopes(int64_t heads, const std::vector<double>& exponents) {
  const at::Tensor slopes = lightning_slopes(heads);
  EXPECT_EQ(slopes.scalar_type(), at::kDouble);
  ASSERT_EQ(slopes.size(0), heads);
  for (int64_t h = 0; h < heads; ++h)
    EXPECT_DOUBLE_EQ(slopes[h].item<double>(), std::exp2(-exponents[h])) << heads << " " << h;
}

// The table of ALiBi (arXiv 2108.12409): halves of halves for powers of two, interleaved from the next power elsewhere.
TEST(Slopes, OfPowersOfTwoAndOfOtherCounts) {
  std::vector<double> sixteen, thirty_two;
  for (int64_t h = 1; h <= 16; ++h) sixteen.push_back(0.5 * static_cast<double>(h));
  for (int64_t h = 1; h <= 32; ++h) thirty_two.push_back(0.25 * static_cast<double>(h));
  expect_slopes(16, sixteen);
  expect_slopes(32, thirty_two);
  expect_slopes(8, {1, 2, 3, 4, 5, 6, 7, 8});
  expect_slopes(1, {8});
  expect_slopes(6, {2, 4, 6, 8, 1, 3});
  expect_slopes(12, {1, 2, 3, 4, 5, 6, 7, 8, 0.5, 1.5, 2.5, 3.5});
}

}  // namespace
}  // namespace qkr
