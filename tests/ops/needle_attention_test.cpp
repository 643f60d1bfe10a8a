#include "ops/needle_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/ops/opcheck.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;

struct Sizes {
  int64_t queries, heads, kv_heads, keys, dim;
};

struct Case {
  Tensor q, k, positions, ranges;
  double scale = 0;

  Tensor run() const { return needle_attention(q, k, positions, ranges, scale); }
};

// Queries as attention meets them: a few keys stand out, so that the softmax is neither flat nor one key.
Case make_case(const Sizes& s, at::ScalarType type, at::Device device) {
  at::manual_seed(s.queries + 7 * s.keys + s.dim);
  Case c;
  c.q = (3 * at::randn({s.queries, s.heads, s.dim})).to(type).to(device);
  c.k = at::randn({s.keys, s.kv_heads, s.dim}).to(type).to(device);
  c.positions = at::randint(s.keys, {s.queries}, at::kLong).to(device);
  const Tensor a = at::randint(s.keys + 1, {s.queries}, at::kLong), b = at::randint(s.keys + 1, {s.queries}, at::kLong);
  c.ranges = at::stack({at::minimum(a, b), at::maximum(a, b)}, 1).to(device);
  c.scale = 1 / std::sqrt(static_cast<double>(s.dim));
  return c;
}

// The definition, [H, M, N] and all.
Tensor plain(const Case& c, at::ScalarType type) {
  const int64_t group = c.q.size(1) / c.k.size(1), keys = c.k.size(0);
  const Tensor k = c.k.to(type).repeat_interleave(group, 1);                                        // [N, H, D]
  Tensor logits = at::matmul(c.q.to(type).transpose(0, 1), k.permute({1, 2, 0})) * c.scale;         // [H, M, N]
  const Tensor j = at::arange(keys, c.positions.options());
  const Tensor seen = j.le(c.positions.unsqueeze(1));
  const Tensor counted = j.ge(c.ranges.select(1, 0).unsqueeze(1)).logical_and(j.lt(c.ranges.select(1, 1).unsqueeze(1))).logical_and(seen);
  const Tensor p = at::softmax(logits.masked_fill(seen.logical_not(), -INFINITY), 2);
  return p.masked_fill(counted.logical_not(), 0).sum(2).nan_to_num(0);  // no key seen: 0 of 0
}

void expect_right(const Case& c) {
  // bf16 products are exact in fp32, so the composite that the result is held against computes in fp32 for both dtypes.
  test::expect_as_accurate(c.run(), plain(c, at::kFloat), plain(c, at::kDouble));
}

using NeedleAttention = test::DeviceTest;
QKR_ON_EVERY_DEVICE(NeedleAttention);

TEST_P(NeedleAttention, AsAccurateAsTheWholeSoftmax) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const Sizes& s : {Sizes{1, 1, 1, 31, 64}, Sizes{9, 8, 2, 300, 128}, Sizes{3, 4, 4, 4099, 64}, Sizes{17, 8, 2, 1025, 128},
                           Sizes{33, 6, 2, 700, 64}, Sizes{2, 3, 1, 129, 1}, Sizes{4, 4, 2, 257, 31}, Sizes{2, 2, 1, 65, 96},
                           Sizes{1, 2, 2, 40, 1024}, Sizes{9, 32, 8, 20000, 128}}) {
      SCOPED_TRACE(c10::str(type, " ", s.queries, " queries, ", s.heads, "/", s.kv_heads, " heads, ", s.keys, " keys, ", s.dim));
      expect_right(make_case(s, type, device()));
    }
  }
}

// More keys than one thread, warp or block takes: each of the sums and the combination of their shares.
TEST_P(NeedleAttention, LongSequences) {
  const int64_t keys = on_cuda() ? 262144 : 70001;
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    Case c = make_case({2, 2, 1, keys, 64}, type, device());
    c.positions.copy_(at::tensor({keys - 1, keys / 2 + 3}, at::kLong));
    c.ranges.copy_(at::tensor({keys / 3, keys / 3 + 20, int64_t{5}, keys - 7}, at::kLong).view({2, 2}));
    expect_right(c);
  }
}

TEST_P(NeedleAttention, ScaleOfEitherSign) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const double scale : {-0.2, 0.0}) {
      Case c = make_case({5, 4, 2, 500, 64}, type, device());
      c.scale = scale;
      expect_right(c);
    }
  }
}

TEST_P(NeedleAttention, EdgesOfRangesAndPositions) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const int64_t dim : {64, 24}) {
      Case c = make_case({8, 2, 1, 100, dim}, type, device());
      c.positions.copy_(at::tensor({99, 50, 50, 0, 1000, -1, 99, 40}, at::kLong));
      c.ranges.copy_(at::tensor({0, 100, 40, 90, 51, 90, 0, 1, -5, 1000, 0, 100, 30, 30, 35, 20}, at::kLong).view({8, 2}));
      expect_right(c);
      const Tensor mass = c.run().cpu();
      for (int h = 0; h < 2; ++h) {
        const auto at = [&](int m) { return mass[h][m].item<float>(); };
        EXPECT_FLOAT_EQ(at(0), 1);  // all of it
        EXPECT_GT(at(1), 0);        // cut at the query
        EXPECT_LT(at(1), 1);
        EXPECT_EQ(at(2), 0);  // behind the query
        EXPECT_EQ(at(3), 1);  // the one key that there is
        EXPECT_FLOAT_EQ(at(4), 1);  // beyond the keys at both ends
        EXPECT_EQ(at(5), 0);        // sees nothing
        EXPECT_EQ(at(6), 0);        // empty
        EXPECT_EQ(at(7), 0);        // upside down
      }
    }
  }
}

TEST_P(NeedleAttention, OneKeyNoKeyNoQuery) {
  Case c = make_case({1, 4, 2, 1, 64}, at::kBFloat16, device());
  c.ranges.copy_(at::tensor({0, 1}, at::kLong).view({1, 2}));
  EXPECT_TRUE(at::equal(c.run(), at::ones({4, 1}, c.run().options())));
  c.k = c.k.narrow(0, 0, 0);
  EXPECT_TRUE(at::equal(c.run(), at::zeros({4, 1}, c.run().options())));
  c = make_case({0, 4, 2, 9, 64}, at::kFloat, device());
  EXPECT_EQ(c.run().sizes(), at::IntArrayRef({4, 0}));
}

// Rows of a cache with room, heads of a fused projection, elements that are no neighbours, rows that no 16-byte load may read.
TEST_P(NeedleAttention, StridedInput) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const Case dense = make_case({5, 4, 2, 333, 64}, type, device());
    const Tensor want = dense.run();
    const auto expect_same = [&](const Tensor& q, const Tensor& k, const char* what) {
      SCOPED_TRACE(what);
      Case c = dense;
      c.q = q, c.k = k;
      EXPECT_TRUE(at::equal(q, dense.q) && at::equal(k, dense.k));
      EXPECT_LE(test::max_abs_difference(c.run(), want), 1e-6);
    };
    const Tensor fused = at::cat({dense.k, dense.k + 1}, 1), roomy = at::cat({dense.k, dense.k}, 0);
    expect_same(dense.q, fused.narrow(1, 0, 2), "heads of a wider projection");
    expect_same(dense.q, roomy.narrow(0, 0, 333), "rows of a cache with room");
    expect_same(dense.q.transpose(0, 1).contiguous().transpose(0, 1), dense.k.transpose(0, 1).contiguous().transpose(0, 1), "heads first");
    expect_same(dense.q.transpose(1, 2).contiguous().transpose(1, 2), dense.k.transpose(1, 2).contiguous().transpose(1, 2), "elements apart");
    const Tensor odd = at::constant_pad_nd(dense.k, {1, 0}), odd_q = at::constant_pad_nd(dense.q, {3, 0});
    expect_same(odd_q.narrow(2, 3, 64), odd.narrow(2, 1, 64), "rows at odd addresses");
  }
}

TEST_P(NeedleAttention, TwoRunsAreTheSameBits) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    const Case c = make_case({9, 8, 2, 5000, 128}, type, device());
    EXPECT_TRUE(test::same_bytes(c.run(), c.run()));
  }
}

TEST_P(NeedleAttention, HugeProductsStayFinite) {
  Case c = make_case({1, 1, 1, 200, 64}, at::kFloat, device());
  c.q.fill_(1e4);
  c.k.fill_(-1e4);
  c.k[77].fill_(1e4);
  c.positions.fill_(199);
  c.ranges.copy_(at::tensor({77, 78}, at::kLong).view({1, 2}));
  EXPECT_EQ(c.run().item<float>(), 1);
  c.k.fill_(-1e4);  // all the same, far below zero
  EXPECT_NEAR(c.run().item<float>(), 1. / 200, 1e-8);
}

TEST(NeedleAttentionShapes, Meta) {
  const Case c = make_case({3, 4, 2, 9, 8}, at::kBFloat16, at::kCPU);
  const Tensor mass = needle_attention(c.q.to(at::kMeta), c.k.to(at::kMeta), c.positions.to(at::kMeta), c.ranges.to(at::kMeta), c.scale);
  EXPECT_TRUE(mass.is_meta());
  EXPECT_EQ(mass.scalar_type(), at::kFloat);
  EXPECT_EQ(mass.sizes(), at::IntArrayRef({4, 3}));
}

TEST(NeedleAttentionThreads, DoNotChangeABit) {
  const int threads = at::get_num_threads();
  const Case c = make_case({5, 6, 2, 700, 24}, at::kFloat, at::kCPU);
  at::set_num_threads(1);
  const Tensor one = c.run();
  at::set_num_threads(3);
  EXPECT_TRUE(test::same_bytes(c.run(), one));
  at::set_num_threads(threads);
}

TEST(NeedleAttentionChecks, SayWhatIsWrong) {
  const Case good = make_case({3, 4, 2, 9, 8}, at::kFloat, at::kCPU);
  const auto message = [&](auto&& change) {
    Case c = good;
    change(c);
    const std::string text = QKR_MESSAGE_OF(c.run());
    return text.substr(0, text.find('\n'));
  };
  EXPECT_EQ(message([](Case& c) { c.q = c.q[0]; }), "needle_attention: q must be [M, H, D], D 1 .. 1024, got [4, 8]");
  EXPECT_EQ(message([](Case& c) { c.q = c.q.to(at::kDouble); }), "needle_attention: q must be BFloat16 or Float, got Double");
  EXPECT_EQ(message([](Case& c) { c.k = c.k.to(at::kBFloat16); }), "needle_attention: k must be Float, got BFloat16");
  EXPECT_EQ(message([](Case& c) { c.k = c.k.narrow(2, 0, 7); }), "needle_attention: k must have the D of q, got 7");
  EXPECT_EQ(message([](Case& c) { c.k = c.k.narrow(1, 0, 0); }),
            "needle_attention: k must be [N, KV, D], KV at least 1, N below 2^31 - 256, got [9, 0, 8]");
  EXPECT_EQ(message([](Case& c) { c.q = c.q.narrow(1, 0, 3); }), "needle_attention: k must have a number of heads that divides q's, got 2");
  EXPECT_EQ(message([](Case& c) { c.positions = c.positions.narrow(0, 0, 2); }), "needle_attention: query_positions must have shape [3], got [2]");
  EXPECT_EQ(message([](Case& c) { c.positions = c.positions.to(at::kInt); }), "needle_attention: query_positions must be Long, got Int");
  EXPECT_EQ(message([](Case& c) { c.ranges = c.ranges.select(1, 0); }), "needle_attention: key_ranges must have shape [3, 2], got [3]");
  EXPECT_EQ(message([](Case& c) { c.q = c.q.clone().requires_grad_(); }).substr(0, 49), "needle_attention: q must not require grad, got on");
}

// PyTorch's own checks of a custom operator, on the library as Python loads it; with a GPU also capture in a CUDA graph.
TEST(NeedleAttentionPython, OpcheckPasses) { test::expect_opcheck_passes("needle_attention_opcheck.py"); }

}  // namespace
}  // namespace qkr
