// Lightning attention against its definition, token by token in fp64.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "tests/support/accuracy.h"
#include "trainer/model/lightning_attention.h"

namespace qkr {
namespace {

using test::max_abs_difference;
using test::relative_rms;

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

// Lengths around the chunk of 64, alone and end to end, empty ones among them.
const std::vector<std::vector<int64_t>> kSegments = {{0, 1},
                                                     {0, 2},
                                                     {0, 3},
                                                     {0, 31},
                                                     {0, 63},
                                                     {0, 64},
                                                     {0, 65},
                                                     {0, 130},
                                                     {0, 300},
                                                     {0, 0, 1, 1, 3},
                                                     {0, 63, 127, 192},
                                                     {0, 64, 64, 65, 195, 196},
                                                     {0, 0},
                                                     {0, 130, 200, 200, 205, 300},
                                                     {0, 1, 2, 3, 4, 5}};

std::string text_of(const std::vector<int64_t>& numbers) {
  std::string text;
  for (const int64_t number : numbers) text += " " + std::to_string(number);
  return text;
}

TEST(Lightning, EqualsTheRecurrenceAtEveryLength) {
  for (const auto& cu_seqlens : kSegments) {
    const Inputs in = inputs(cu_seqlens.back(), 5, 8);
    const at::Tensor got =
        lightning_attention(in.q, in.k, in.v, in.slopes, 0.35, Segments::packed(cu_seqlens, at::kCPU));
    const at::Tensor want = by_recurrence(in, 0.35, cu_seqlens);
    ASSERT_EQ(got.sizes(), in.v.sizes());
    if (got.numel() == 0) continue;
    EXPECT_LE(max_abs_difference(got, want), 1e-11) << text_of(cu_seqlens);
  }
}

TEST(Lightning, GradientsEqualThoseOfTheRecurrence) {
  for (const auto& cu_seqlens : kSegments) {
    if (cu_seqlens.back() == 0) continue;
    Inputs ours = inputs(cu_seqlens.back(), 3, 4), theirs = inputs(cu_seqlens.back(), 3, 4);
    const at::Tensor weight = pattern(cu_seqlens.back(), 3, 4, 0.9);
    for (Inputs* in : {&ours, &theirs}) {
      for (at::Tensor* x : {&in->q, &in->k, &in->v}) x->set_requires_grad(true);
    }
    (lightning_attention(ours.q, ours.k, ours.v, ours.slopes, 0.35, Segments::packed(cu_seqlens, at::kCPU)) * weight)
        .sum()
        .backward();
    (by_recurrence(theirs, 0.35, cu_seqlens) * weight).sum().backward();
    EXPECT_LE(max_abs_difference(ours.q.grad(), theirs.q.grad()), 1e-11) << "q," << text_of(cu_seqlens);
    EXPECT_LE(max_abs_difference(ours.k.grad(), theirs.k.grad()), 1e-11) << "k," << text_of(cu_seqlens);
    EXPECT_LE(max_abs_difference(ours.v.grad(), theirs.v.grad()), 1e-11) << "v," << text_of(cu_seqlens);
    EXPECT_FALSE(ours.slopes.grad().defined());
  }
}

TEST(Lightning, GradientsEqualFiniteDifferences) {
  const std::vector<int64_t> cu_seqlens = {0, 66, 70};
  const Inputs in = inputs(70, 2, 3);
  const at::Tensor weight = pattern(70, 2, 3, 0.4);
  const auto value = [&](const Inputs& at_point) {
    const at::NoGradGuard no_grad;
    return (lightning_attention(at_point.q, at_point.k, at_point.v, at_point.slopes, 1.5,
                                Segments::packed(cu_seqlens, at::kCPU)) *
            weight)
        .sum()
        .item<double>();
  };
  for (int which = 0; which < 3; ++which) {
    Inputs point = inputs(70, 2, 3);
    at::Tensor& x = which == 0 ? point.q : which == 1 ? point.k : point.v;
    x.set_requires_grad(true);
    (lightning_attention(point.q, point.k, point.v, point.slopes, 1.5, Segments::packed(cu_seqlens, at::kCPU)) * weight)
        .sum()
        .backward();
    for (const int64_t place : {0, 5, 190, 383, 395, 396, 419}) {  // both sides of a chunk's and of a segment's end
      const auto moved = [&](double by) {
        Inputs there = inputs(70, 2, 3);
        (which == 0 ? there.q : which == 1 ? there.k : there.v).flatten()[place] += by;
        return value(there);
      };
      const double slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
      EXPECT_NEAR(x.grad().flatten()[place].item<double>(), slope, 1e-6 * std::max(1.0, std::abs(slope)))
          << which << " " << place;
    }
  }
  EXPECT_GT(std::abs(value(in)), 1e-6);
}

TEST(Lightning, Fp32IsCloseToTheTruth) {
  const std::vector<int64_t> cu_seqlens = {0, 300, 301, 512};
  const Inputs in = inputs(512, 16, 16);
  const at::Tensor truth = by_recurrence(in, 0.25, cu_seqlens);
  const at::Tensor got = lightning_attention(in.q.to(at::kFloat), in.k.to(at::kFloat), in.v.to(at::kFloat),
                                             in.slopes.to(at::kFloat), 0.25, Segments::packed(cu_seqlens, at::kCPU));
  EXPECT_EQ(got.scalar_type(), at::kFloat);
  EXPECT_LE(relative_rms(got, truth), 1e-6);
}

// Key and value heads are repeated outside the operator: consecutive query heads share one.
TEST(Lightning, RepeatedHeadsShareTheirKeysAndKeepTheirOwnSlopes) {
  const Inputs in = inputs(90, 6, 4);
  const at::Tensor k = pattern(90, 3, 4, 5.0), v = pattern(90, 3, 4, 6.0);
  const at::Tensor got = lightning_attention(in.q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), in.slopes, 1.0,
                                             Segments::packed({0, 90}, at::kCPU));
  for (int64_t head = 0; head < 6; ++head) {
    const auto one = [&](const at::Tensor& x, int64_t h) { return x.narrow(1, h, 1); };
    const Inputs alone = {one(in.q, head), one(k, head / 2), one(v, head / 2), in.slopes.narrow(0, head, 1)};
    EXPECT_LE(max_abs_difference(one(got, head), by_recurrence(alone, 1.0, {0, 90})), 1e-11) << head;
  }
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
      parts.push_back(lightning_attention_cached(part(in.q), part(in.k), part(in.v), in.slopes, 0.5, state));
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
    EXPECT_LE(max_abs_difference(lightning_attention_cached(one(in.q), one(in.k), one(in.v), in.slopes, 1.0, state),
                                 one(want)),
              1e-12)
        << t;
  }
}

// The steepest slope of many heads is near 1: e^(s * distance) of the masked half must not reach the result as Inf * 0.
TEST(Lightning, LongRowsStayFinite) {
  const int64_t tokens = 5000;
  const at::Tensor x = at::ones({tokens, 1, 2}, at::kFloat);
  for (const double slope : {0.84, 8.0, 200.0, 0.0}) {
    const at::Tensor slopes = at::full({1}, slope, at::kFloat);
    const at::Tensor o = lightning_attention(x, x, x, slopes, 1.0, Segments::packed({0, tokens}, at::kCPU));
    ASSERT_TRUE(o.isfinite().all().item<bool>()) << slope;
    const double limit = slope > 0 ? 2 / (1 - std::exp(-slope)) : 2.0 * static_cast<double>(tokens);
    EXPECT_NEAR(o[tokens - 1][0][1].item<double>(), limit, 1e-3 * limit) << slope;
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
