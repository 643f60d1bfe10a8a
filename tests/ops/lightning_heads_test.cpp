// Lightning attention at the decays that HypeNet's heads span, over rows that are cut into segments, in both modes; and
// what its states are worth to the next call.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/ops/lightning_truth.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"

namespace qkr {
namespace {

using at::Tensor;
using test::LightningCase;
using test::random_case;
using test::relative_rms;

// Of 32 heads, the first and the last: 2^(-8 (h + 1) / 32).
const std::vector<double> kFastestAndSlowest = {0.8408964, 0.00390625};

// The error of the worst head; the heads are axis 1.
double worst_head(const Tensor& got, const Tensor& want) {
  double worst = 0;
  for (int64_t h = 0; h < want.size(1); ++h) {
    worst = std::max(worst, relative_rms(got.select(1, h).cpu(), want.select(1, h)));
  }
  return worst;
}

class LightningHeads : public test::DeviceTest {
 protected:
  const test::OneThread one_thread_;
  std::vector<int64_t> dims() const { return on_cuda() ? std::vector<int64_t>{64, 128} : std::vector<int64_t>{8}; }
};

TEST_P(LightningHeads, SlowestAndFastestAreAccurateInBothModes) {
  for (const int64_t dim : dims()) {
    const test::LightningShape shape{.dim = dim, .slopes = kFastestAndSlowest};
    const std::vector<int64_t> offsets = {0, 4099};
    const LightningCase c = random_case(offsets, shape, true, 1);
    const LightningCase weights = random_case(offsets, shape, true, 2);
    const auto truth = test::lightning_truth_of(c);
    const auto truth_grads = test::lightning_truth_grads(c, weights.v, weights.initial);
    for (const bool accurate : {true, false}) {
      SCOPED_TRACE("dim " + std::to_string(dim) + (accurate ? " accurate" : " fast"));
      const double bar = accurate ? 1.72e-3 : 2.6e-3;  // of a bf16 result; its rounding alone is 1.66e-3
      LightningCase here_ = c.as(at::kBFloat16, device());
      for (Tensor* t : {&here_.q, &here_.k, &here_.v, &here_.initial}) t->requires_grad_(true);
      const auto [o, state] = lightning_attention(here_.q, here_.k, here_.v, here_.slopes, here_.cu_seqlens(),
                                                  here_.initial, here_.options(accurate));
      EXPECT_LE(worst_head(o, truth.o), bar);
      EXPECT_LE(worst_head(state, truth.state), 1e-5);
      ((o.to(at::kDouble) * weights.v.to(device())).sum() + (state * weights.initial.to(device())).sum()).backward();
      EXPECT_LE(worst_head(here_.q.grad(), truth_grads.q), bar);
      EXPECT_LE(worst_head(here_.k.grad(), truth_grads.k), bar);
      EXPECT_LE(worst_head(here_.v.grad(), truth_grads.v), bar);
      EXPECT_LE(worst_head(here_.initial.grad(), truth_grads.initial), 1e-5);
    }
  }
}

// Segments much shorter than what the slow head remembers: what each leaves out must not show in the state, whatever
// the mode; and a row in pieces, each from the state of the last, ends in the same state.
TEST_P(LightningHeads, StatesHandedOnAreExactInBothModes) {
  const int64_t tokens = on_cuda() ? 16000 : 1600;  // only kernels have segments
  for (const int64_t dim : dims()) {
    const LightningCase c = random_case({0, tokens}, {.dim = dim, .slopes = kFastestAndSlowest}, true, 3);
    const LightningCase weights = random_case({0, tokens}, {.dim = dim}, true, 4);
    const auto truth = test::lightning_truth_of(c);
    const auto truth_grads = test::lightning_truth_grads(c, weights.v, weights.initial);
    for (const bool accurate : {true, false}) {
      SCOPED_TRACE("dim " + std::to_string(dim) + (accurate ? " accurate" : " fast"));
      LightningCase here_ = c.as(at::kBFloat16, device());
      here_.initial.requires_grad_(true);
      const auto [o, state] = lightning_attention(here_.q, here_.k, here_.v, here_.slopes, here_.cu_seqlens(),
                                                  here_.initial, here_.options(accurate));
      EXPECT_LE(worst_head(state, truth.state), 1e-5);
      ((o.to(at::kDouble) * weights.v.to(device())).sum() + (state * weights.initial.to(device())).sum()).backward();
      EXPECT_LE(worst_head(here_.initial.grad(), truth_grads.initial), 1e-5);
      Tensor next = here_.initial.detach();
      for (int64_t begin = 0; begin < tokens; begin += tokens / 4) {
        const auto part = [&](const Tensor& x) { return x.narrow(0, begin, tokens / 4); };
        const Tensor offsets = at::tensor({int64_t{0}, tokens / 4}, at::kInt).to(device());
        next = std::get<1>(lightning_attention(part(here_.q), part(here_.k), part(here_.v), here_.slopes, offsets, next,
                                               here_.options(accurate)));
      }
      EXPECT_LE(worst_head(next, truth.state), 1e-5);
    }
  }
}

// Packed documents longer than a segment: each hands its own state on.
TEST_P(LightningHeads, StatesOfPackedDocumentsAreExactInBothModes) {
  const int64_t tokens = on_cuda() ? 12000 : 1200;
  const std::vector<int64_t> offsets = {0, tokens / 3, tokens / 3 + 1, tokens - 700, tokens};
  for (const int64_t dim : dims()) {
    const LightningCase c =
        random_case(offsets, {.heads = 2, .kv_heads = 1, .dim = dim, .slopes = kFastestAndSlowest}, true, 5);
    const auto truth = test::lightning_truth_of(c);
    for (const bool accurate : {true, false}) {
      SCOPED_TRACE("dim " + std::to_string(dim) + (accurate ? " accurate" : " fast"));
      const LightningCase here_ = c.as(at::kBFloat16, device());
      const auto [o, state] = lightning_attention(here_.q, here_.k, here_.v, here_.slopes, here_.cu_seqlens(),
                                                  here_.initial, here_.options(accurate));
      for (int64_t s = 0; s < state.size(0); ++s) {
        EXPECT_LE(worst_head(state.narrow(0, s, 1), truth.state.narrow(0, s, 1)), 1e-5) << s;
      }
      EXPECT_LE(worst_head(o, truth.o), accurate ? 1.72e-3 : 2.6e-3);
    }
  }
}

QKR_ON_EVERY_DEVICE(LightningHeads);

}  // namespace
}  // namespace qkr
