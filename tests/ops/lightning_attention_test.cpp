// Lightning attention against its definition, token by token in float64.
#include "ops/lightning_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/ops/lightning_truth.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"

namespace qkr {
namespace {

using at::Tensor;
using test::LightningCase;
using test::random_case;
using test::relative_rms;
using test::same_bytes;
using test::text_of;
using Shape = test::LightningShape;

std::tuple<Tensor, Tensor> run(const LightningCase& c, bool accurate = true) {
  return lightning_attention(c.q, c.k, c.v, c.slopes, c.cu_seqlens(), c.initial_or_none(), c.options(accurate));
}

struct Grads {
  Tensor q, k, v, initial;
};

// grad_state undefined: only o is used.
Grads grads_of(LightningCase c, const Tensor& grad_o, const Tensor& grad_state, bool accurate = true) {
  for (Tensor* t : {&c.q, &c.k, &c.v, &c.initial}) {
    if (t->defined()) *t = t->detach().clone().requires_grad_(true);
  }
  const auto [o, state] = run(c, accurate);
  Tensor loss = (o.to(at::kDouble) * grad_o.to(o.device(), at::kDouble)).sum();
  if (grad_state.defined()) loss = loss + (state.to(at::kDouble) * grad_state.to(o.device(), at::kDouble)).sum();
  loss.backward();
  return {c.q.grad(), c.k.grad(), c.v.grad(), c.initial.defined() ? c.initial.grad() : Tensor()};
}

// Relative RMS of the worst head, less `allowed` times what rounding the truth to bf16 costs that head; x [N, H, D].
double excess_of_worst_head(const Tensor& got, const Tensor& want, double allowed) {
  double worst = -1;
  for (int64_t h = 0; h < want.size(1); ++h) {
    const Tensor truth = want.select(1, h);
    worst = std::max(
        worst, relative_rms(got.select(1, h).cpu(), truth) - allowed * relative_rms(truth.to(at::kBFloat16), truth));
  }
  return worst;
}

void expect_rounded_once(const Tensor& got, const Tensor& want) {
  ASSERT_EQ(got.scalar_type(), at::kBFloat16);
  EXPECT_LE(excess_of_worst_head(got, want, 1.02), 2e-5);
}

// Lengths around the chunks of 64 and 32, alone and end to end, empty ones among them.
const std::vector<std::vector<int64_t>> kSequences = {{0, 1},
                                                      {0, 2},
                                                      {0, 31},
                                                      {0, 32},
                                                      {0, 33},
                                                      {0, 63},
                                                      {0, 64},
                                                      {0, 65},
                                                      {0, 130},
                                                      {0, 0, 1, 1, 3},
                                                      {0, 63, 127, 192},
                                                      {0, 64, 64, 65, 195, 196},
                                                      {0, 130, 200, 200, 205, 300, 300}};

std::vector<int64_t> many_documents() {
  std::vector<int64_t> offsets = {0};
  for (int64_t i = 0; i < 90; ++i) offsets.push_back(offsets.back() + (i % 5 == 0 ? 0 : i * 37 % 23));
  return offsets;
}

// Every number with every list.
std::vector<std::pair<int64_t, std::vector<int64_t>>> pairs_of(const std::vector<int64_t>& numbers,
                                                               const std::vector<std::vector<int64_t>>& lists) {
  std::vector<std::pair<int64_t, std::vector<int64_t>>> pairs;
  for (const int64_t number : numbers) {
    for (const auto& list : lists) pairs.emplace_back(number, list);
  }
  return pairs;
}

// The two modes of bf16; fp32 has one.
const std::vector<std::pair<at::ScalarType, bool>> kModes = {
    {at::kFloat, true}, {at::kBFloat16, true}, {at::kBFloat16, false}};

class Lightning : public test::DeviceTest {
 protected:
  const test::OneThread one_thread_;
  // Head sizes with a kernel where there are kernels; small ones where the composite answers.
  std::vector<int64_t> dims() const { return on_cuda() ? std::vector<int64_t>{64, 128, 24} : std::vector<int64_t>{8}; }
  std::vector<int64_t> kernel_dims() const {
    return on_cuda() ? std::vector<int64_t>{64, 128} : std::vector<int64_t>{8};
  }
  // Outputs are as accurate as the composite's on the CPU; in bf16 each head's error is that of one rounding (or, in
  // the fast mode, 2.6e-3).
  void expect_close(const LightningCase& c, const test::LightningTruth& truth, at::ScalarType dtype, bool accurate) {
    const auto [o, state] = run(c.as(dtype, device()), accurate);
    const auto [plain, plain_state] = run(c.as(dtype, at::kCPU));
    ASSERT_EQ(o.scalar_type(), dtype);
    ASSERT_EQ(o.sizes(), truth.o.sizes());
    ASSERT_EQ(state.sizes(), truth.state.sizes());
    SCOPED_TRACE((accurate ? "accurate" : "fast") + text_of(c.offsets) + " dim " + std::to_string(o.size(2)) + " " +
                 c10::toString(dtype));
    if (o.numel() > 0) {
      test::expect_as_accurate(o.cpu(), plain, truth.o);
      if (dtype == at::kBFloat16 && accurate) expect_rounded_once(o, truth.o);
      if (dtype == at::kBFloat16 && !accurate) expect_fast(o, truth.o);
    }
    if (dtype != at::kBFloat16) {
      test::expect_as_accurate(state.cpu(), plain_state, truth.state);
    } else if (truth.state.square().sum().item<double>() > 0) {
      EXPECT_LE(relative_rms(state.cpu(), truth.state), accurate ? 2e-5 : 3e-3);
    }
  }
  // P and the state's copy are rounded as well: two times 2^-9 at worst, of which a long row shows the mean.
  static void expect_fast(const Tensor& o, const Tensor& truth) {
    if (o.size(0) >= 500) {
      EXPECT_LE(excess_of_worst_head(o, truth, 0), 2.6e-3);
    } else {
      EXPECT_LE(excess_of_worst_head(o, truth, o.size(0) < 31 ? 1 : 1.7), o.size(0) < 31 ? 0x1p-8 : 3e-4);
    }
  }
};

TEST_P(Lightning, EqualsTheRecurrenceAtEveryLength) {
  int64_t seed = 1;
  for (const int64_t dim : dims()) {
    for (const auto& offsets : kSequences) {
      for (const bool initial : {false, true}) {
        const LightningCase c = random_case(offsets, {.dim = dim}, initial, ++seed);
        const auto truth = test::lightning_truth_of(c);
        for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) expect_close(c, truth, dtype, true);
        expect_close(c, truth, at::kBFloat16, false);
      }
    }
  }
}

TEST_P(Lightning, GradientsEqualThoseOfTheRecurrence) {
  int64_t seed = 100;
  for (const int64_t dim : dims()) {
    for (const auto& offsets : kSequences) {
      for (const bool states : {false, true}) {
        const LightningCase c =
            random_case(offsets, {.heads = 2, .kv_heads = seed % 2 == 0 ? 1 : 2, .dim = dim}, states, ++seed);
        const Tensor grad_o = random_case(offsets, {.dim = dim}, false, ++seed).v;
        const Tensor grad_state = states ? random_case(offsets, {.dim = dim}, true, ++seed).initial : Tensor();
        const auto want = test::lightning_truth_grads(c, grad_o, grad_state);
        for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
          SCOPED_TRACE(text_of(offsets) + " dim " + std::to_string(dim) + " " + c10::toString(dtype));
          const Grads got = grads_of(c.as(dtype, device()), grad_o, grad_state);
          const Grads plain = grads_of(c.as(dtype, at::kCPU), grad_o, grad_state);
          test::expect_as_accurate(got.q.cpu(), plain.q, want.q);
          test::expect_as_accurate(got.k.cpu(), plain.k, want.k);
          test::expect_as_accurate(got.v.cpu(), plain.v, want.v);
          if (states && dtype != at::kBFloat16)
            test::expect_as_accurate(got.initial.cpu(), plain.initial, want.initial);
          if (states) {
            EXPECT_LE(relative_rms(got.initial.cpu(), want.initial), 2e-5);
          }
          if (dtype == at::kDouble) {
            EXPECT_LE(relative_rms(got.k.cpu(), want.k), 1e-12);
          }
        }
      }
    }
  }
}

TEST_P(Lightning, GradientsEqualFiniteDifferences) {
  const LightningCase c =
      random_case({0, 66, 66, 70}, {.heads = 2, .kv_heads = 1, .dim = 3}, true, 7).as(at::kDouble, device());
  const LightningCase weights = random_case({0, 66, 66, 70}, {.dim = 3}, true, 8);
  const Tensor grad_o = weights.v.to(device()), grad_state = weights.initial.to(device());
  const auto value = [&](const LightningCase& at_point) {
    const auto [o, state] = run(at_point);
    return ((o * grad_o).sum() + (state * grad_state).sum()).item<double>();
  };
  const Grads got = grads_of(c, grad_o, grad_state);
  const std::vector<std::pair<Tensor LightningCase::*, Tensor>> inputs = {{&LightningCase::q, got.q},
                                                                          {&LightningCase::k, got.k},
                                                                          {&LightningCase::v, got.v},
                                                                          {&LightningCase::initial, got.initial}};
  for (const auto& [which, grad] : inputs) {
    const int64_t count = grad.numel();
    for (const int64_t place : {int64_t{0}, int64_t{5}, count / 2, count - 11, count - 1}) {
      const auto moved = [&](double by) {
        LightningCase there = c;
        there.*which = (c.*which).clone();
        (there.*which).flatten()[place] += by;
        return value(there);
      };
      const double slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
      EXPECT_NEAR(grad.flatten()[place].item<double>(), slope, 1e-7 * std::max(1.0, std::abs(slope))) << place;
    }
  }
}

TEST_P(Lightning, ManyShortDocumentsAndALongOddLength) {
  Shape four{.heads = 4, .kv_heads = 2, .slopes = {0.84, 0.21, 0.03, 0.0039}};
  for (const auto& [dim, offsets] : pairs_of(kernel_dims(), {many_documents(), {0, 4099}})) {
    four.dim = dim;
    const LightningCase c = random_case(offsets, four, true, 11);
    const auto truth = test::lightning_truth_of(c);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) expect_close(c, truth, dtype, true);
    expect_close(c, truth, at::kBFloat16, false);
    const Tensor grad_o =
        random_case(offsets, {.heads = 4, .kv_heads = 4, .dim = four.dim, .slopes = four.slopes}, false, 12).v;
    const auto want = test::lightning_truth_grads(c, grad_o, {});
    const Grads got = grads_of(c.as(at::kBFloat16, device()), grad_o, {});
    expect_rounded_once(got.q, want.q);
    // the heads of a group are rounded before they are added
    EXPECT_LE(std::max(excess_of_worst_head(got.k, want.k, 1.7), excess_of_worst_head(got.v, want.v, 1.7)), 2e-5);
    EXPECT_LE(relative_rms(got.initial.cpu(), want.initial), 2e-5);
  }
}

// Few heads and many tokens: even a slow head is cut into several segments, each with a run over the tokens before it.
TEST_P(Lightning, SegmentsOfLongRowsJoin) {
  Shape slow{.slopes = {0.84, 0.00390625}};
  const int64_t tokens = on_cuda() ? 20000 : 2000;  // only kernels have segments
  for (const auto& [dim, offsets] :
       pairs_of(kernel_dims(), {{0, tokens}, {0, 17, tokens / 4, tokens / 4, tokens / 2}})) {
    slow.dim = dim;
    const LightningCase c = random_case(offsets, slow, true, 21);
    const auto truth = test::lightning_truth_of(c);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) expect_close(c, truth, dtype, true);
    const Tensor grad_o = random_case(offsets, slow, false, 22).v;
    const auto want = test::lightning_truth_grads(c, grad_o, {});
    const Grads got = grads_of(c.as(at::kBFloat16, device()), grad_o, {});
    expect_rounded_once(got.q, want.q);
    expect_rounded_once(got.k, want.k);
    expect_rounded_once(got.v, want.v);
  }
}

TEST_P(Lightning, QueryHeadsShareKeysAndKeepTheirSlopes) {
  for (const int64_t dim : dims()) {
    const LightningCase c =
        random_case({0, 40, 90}, {.heads = 6, .kv_heads = 3, .dim = dim, .slopes = {1, 2, 3, 4, 5, 6}}, true, 31);
    const auto truth = test::lightning_truth_of(c);
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) expect_close(c, truth, dtype, true);
  }
}

TEST_P(Lightning, StridedInputsGiveTheSameBits) {
  for (const int64_t dim : dims()) {
    for (const auto& [dtype, is_accurate] : kModes) {
      const bool accurate = is_accurate;
      const LightningCase dense = random_case({0, 70, 150}, {.dim = dim}, true, 41).as(dtype, device());
      const auto [o, state] = run(dense, accurate);
      const auto expect_same = [&](const std::function<Tensor(const Tensor&)>& strided) {
        LightningCase c = dense;
        for (Tensor* t : {&c.q, &c.k, &c.v}) *t = strided(*t);
        const auto [o2, state2] = run(c, accurate);
        EXPECT_TRUE(same_bytes(o, o2) && same_bytes(state, state2)) << c.q.strides();
        const Tensor weight = dense.v.flip(0);
        const Grads a = grads_of(dense, weight, dense.initial, accurate);
        const Grads b = grads_of(c, weight, dense.initial, accurate);
        EXPECT_TRUE(same_bytes(a.q, b.q) && same_bytes(a.k, b.k) && same_bytes(a.v, b.v) &&
                    same_bytes(a.initial, b.initial));
      };
      expect_same([](const Tensor& t) { return t.transpose(0, 1).contiguous().transpose(0, 1); });  // [H, N, D]
      expect_same(
          [](const Tensor& t) { return at::cat({t, t, t}, 2).narrow(2, t.size(2), t.size(2)); });   // a part of a row
      expect_same([](const Tensor& t) { return t.transpose(1, 2).contiguous().transpose(1, 2); });  // D is not dense
      expect_same([](const Tensor& t) {  // one element off any alignment
        return at::empty({t.numel() + 1}, t.options()).narrow(0, 1, t.numel()).view(t.sizes()).copy_(t);
      });
    }
  }
}

TEST_P(Lightning, TwoRunsAreBitEqual) {
  for (const int64_t dim : dims()) {
    const LightningCase c =
        random_case({0, 500, 1777, 6000}, {.dim = dim, .slopes = {0.84, 0.00390625}}, true, 51);
    for (const auto& [dtype, accurate] : kModes) {
      const LightningCase here_ = c.as(dtype, device());
      const auto [o, state] = run(here_, accurate);
      const auto [o2, state2] = run(here_, accurate);
      EXPECT_TRUE(same_bytes(o, o2) && same_bytes(state, state2));
      const Grads a = grads_of(here_, c.v, c.initial, accurate), b = grads_of(here_, c.v, c.initial, accurate);
      EXPECT_TRUE(same_bytes(a.q, b.q) && same_bytes(a.k, b.k) && same_bytes(a.v, b.v) &&
                  same_bytes(a.initial, b.initial));
    }
  }
}

QKR_ON_EVERY_DEVICE(Lightning);

}  // namespace
}  // namespace qkr
