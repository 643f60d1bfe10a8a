// Softmax attention, packed and cached, against the masked definition in fp64: causal, grouped, windowed.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/support.h"
#include "tests/support/accuracy.h"
#include "trainer/model/decoder.h"
#include "trainer/model/softmax_attention.h"

namespace qkr {
namespace {

using test::max_abs_difference;

at::Tensor pattern(int64_t tokens, int64_t heads, int64_t dim, double phase) {
  return (at::arange(tokens * heads * dim, at::kDouble) * 0.7310585 + phase).sin().view({tokens, heads, dim}) * 2;
}

// The definition: every pair of positions looked at, one segment.
at::Tensor by_definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int64_t window) {
  const int64_t tokens = q.size(0), heads = q.size(1), dim = q.size(2), group = heads / k.size(1);
  at::Tensor out = at::zeros({tokens, heads, v.size(2)}, at::kDouble);
  for (int64_t h = 0; h < heads; ++h) {
    const at::Tensor keys = k.select(1, h / group), values = v.select(1, h / group);
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t first = window > 0 ? std::max<int64_t>(0, t - window + 1) : 0;
      const at::Tensor seen = keys.narrow(0, first, t + 1 - first);
      const at::Tensor p = at::softmax(at::matmul(seen, q[t][h]) / std::sqrt(static_cast<double>(dim)), 0);
      out[t][h].copy_(at::matmul(p, values.narrow(0, first, t + 1 - first)));
    }
  }
  return out;
}

TEST(Softmax, PackedEqualsTheDefinitionForEveryWindow) {
  const std::vector<int64_t> offsets = {0, 1, 20, 20, 23, 40};
  const at::Tensor q = pattern(40, 4, 6, 0.1), k = pattern(40, 2, 6, 1.2), v = pattern(40, 2, 6, 2.3);
  for (const int64_t window : {0, 1, 2, 5, 17, 19, 20, 100}) {
    const at::Tensor got = attend_packed(q, k, v, Segments::packed(offsets, at::kCPU), window);
    for (size_t s = 0; s + 1 < offsets.size(); ++s) {
      const int64_t begin = offsets[s], count = offsets[s + 1] - begin;
      if (count == 0) continue;
      const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, count); };
      EXPECT_LE(max_abs_difference(part(got), by_definition(part(q), part(k), part(v), window)), 1e-13)
          << window << " segment " << s;
    }
  }
}

TEST(Softmax, CachedEqualsTheDefinitionForEveryWindow) {
  const at::Tensor q = pattern(40, 4, 6, 0.1), k = pattern(40, 2, 6, 1.2), v = pattern(40, 2, 6, 2.3);
  for (const int64_t window : {0, 1, 3, 16, 40, 100}) {
    const at::Tensor want = by_definition(q, k, v, window);
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>{40}, {1, 1, 38}, {16, 16, 8}, {37, 1, 1, 1}, {5, 35}}) {
      for (const int64_t capacity : {0, 7, 40, 64}) {  // too small: it grows
        LayerCache cache;
        int64_t past = 0;
        for (const int64_t count : pieces) {
          const auto part = [&](const at::Tensor& x) { return x.narrow(0, past, count); };
          const at::Tensor got = attend_cached(part(q), part(k), part(v), cache, past, capacity, window);
          EXPECT_LE(max_abs_difference(got, part(want)), 1e-13)
              << window << " at " << past << " of capacity " << capacity;
          past += count;
        }
        EXPECT_GE(cache.k.size(0), 40);
      }
    }
  }
}

TEST(Softmax, NoTokenGivesNothing) {
  const at::Tensor q = pattern(0, 4, 6, 0), k = pattern(0, 2, 6, 0);
  EXPECT_EQ(attend_packed(q, k, k, Segments::packed({0, 0}, at::kCPU), 0).sizes(), q.sizes());
}

// The whole model: a layer that slides does, packed and cached alike, and one that does not is not touched.
TEST(Softmax, AModelWithSlidingLayersSeesItsWindows) {
  test::Json config = {{"model_type", "qwen3"},    {"vocab_size", 50},       {"hidden_size", 16},
                       {"intermediate_size", 8},   {"num_hidden_layers", 2}, {"num_attention_heads", 2},
                       {"num_key_value_heads", 1}, {"head_dim", 8},          {"sliding_window", 4}};
  const auto model = [&](const test::Json& c) {
    const Architecture a = test::parsed(c);
    NamedTensors weights;
    double phase = 0;
    for (const WeightSpec& spec : weight_specs(a)) {
      const at::Tensor flat = at::arange(at::zeros(spec.shape).numel(), at::kDouble);
      weights.set(spec.name, ((flat * 1.618 + phase).sin() + (spec.shape.size() == 1 ? 1.0 : 0.0)).view(spec.shape));
      phase += 0.77;
    }
    return Decoder(a, weights);
  };
  const at::NoGradGuard no_grad;
  const at::Tensor ids = (at::arange(12, at::kLong) * 7).remainder(50);
  const at::Tensor full = model(config).forward(ids, Segments::packed({0, 12}, at::kCPU));
  config["layer_types"] = {"sliding_attention", "full_attention"};
  const Decoder sliding = model(config);
  const at::Tensor windowed = sliding.forward(ids, Segments::packed({0, 12}, at::kCPU));
  // Within the window nothing differs; behind it everything does.
  EXPECT_LE(max_abs_difference(windowed.narrow(0, 0, 4), full.narrow(0, 0, 4)), 1e-12);
  for (int64_t t = 4; t < 12; ++t) EXPECT_GT(max_abs_difference(windowed[t], full[t]), 1e-4) << t;
  DecoderCache cache;
  std::vector<at::Tensor> parts;
  for (const int64_t count : {3, 1, 5, 3})
    parts.push_back(sliding.forward(ids.narrow(0, cache.length, count),
                                    Segments::continued(cache.length, count, at::kCPU), &cache));
  EXPECT_LE(max_abs_difference(at::cat(parts), windowed), 1e-12);
}

TEST(Segments, CountPositionsAndRefuseDisorder) {
  const Segments s = Segments::packed({0, 3, 3, 5}, at::kCPU);
  EXPECT_EQ(s.count(), 3);
  EXPECT_EQ(s.tokens(), 5);
  EXPECT_EQ(s.longest, 3);
  EXPECT_TRUE(at::equal(s.positions, at::tensor({0, 1, 2, 0, 1}, at::kLong)));
  EXPECT_TRUE(at::equal(s.cu_seqlens_device, at::tensor({0, 3, 3, 5}, at::kInt)));
  EXPECT_TRUE(at::equal(Segments::continued(7, 3, at::kCPU).positions, at::tensor({7, 8, 9}, at::kLong)));
  for (const std::vector<int64_t>& bad : {std::vector<int64_t>{}, {1, 2}, {0, 3, 2}}) {
    EXPECT_NE(QKR_MESSAGE_OF(Segments::packed(bad, at::kCPU)), "");
  }
}

}  // namespace
}  // namespace qkr
