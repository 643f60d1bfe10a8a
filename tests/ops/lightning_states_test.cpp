// Lightning attention's states from call to call, its edges, and its refusals.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "tests/ops/lightning_truth.h"
#include "tests/ops/opcheck.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::LightningCase;
using test::random_case;
using test::relative_rms;
using test::same_bytes;

class LightningStates : public test::DeviceTest {
 protected:
  const test::OneThread one_thread_;
  std::vector<int64_t> dims() const { return on_cuda() ? std::vector<int64_t>{64, 128, 24} : std::vector<int64_t>{8}; }
};

// In pieces of one token by the step, else by the operator with the last state.
TEST_P(LightningStates, PiecesEqualOneShot) {
  for (const int64_t dim : dims()) {
    for (const auto& [dtype, bar] : {std::pair{at::kDouble, 1e-12}, {at::kFloat, 2e-6}, {at::kBFloat16, 1.8e-3}}) {
      const LightningCase c =
          random_case({0, 200}, {.heads = 4, .kv_heads = 2, .dim = dim, .slopes = {0.8, 0.3, 0.1, 0.01}}, false, 3);
      const auto want = test::lightning_truth_of(c);
      const LightningCase here_ = c.as(dtype, device());
      for (const std::vector<int64_t>& pieces :
           {std::vector<int64_t>{200}, {1, 199}, {63, 1, 64, 65, 7}, {130, 1, 1, 1, 67}, {2, 3, 195}}) {
        Tensor state = at::zeros({1, 4, dim, dim}, here_.slopes.options());
        std::vector<Tensor> parts;
        int64_t begin = 0;
        for (const int64_t count : pieces) {
          const auto part = [&](const Tensor& x) { return x.narrow(0, begin, count); };
          if (count == 1) {
            parts.push_back(
                lightning_attention_step_(part(here_.q), part(here_.k), part(here_.v), here_.slopes, state, c.scale));
          } else {
            const Tensor offsets = at::tensor({int64_t{0}, count}, at::kInt).to(device());
            const auto [o, next] = lightning_attention(part(here_.q), part(here_.k), part(here_.v), here_.slopes,
                                                       offsets, state, c.options());
            parts.push_back(o);
            state = next;
          }
          begin += count;
        }
        ASSERT_EQ(begin, 200);
        EXPECT_LE(relative_rms(at::cat(parts).cpu(), want.o), bar) << test::text_of(pieces) << " dim " << dim;
        EXPECT_LE(relative_rms(state.cpu(), want.state), dtype == at::kBFloat16 ? 2e-5 : bar) << test::text_of(pieces);
      }
    }
  }
}

TEST_P(LightningStates, AStepUpdatesEverySequenceInPlace) {
  for (const int64_t dim : dims()) {
    const LightningCase c =
        random_case({0, 1, 2, 3}, {.heads = 4, .kv_heads = 2, .dim = dim, .slopes = {0.8, 0.3, 0.1, 0}}, true, 5);
    const auto want = test::lightning_truth_of(c);
    const LightningCase here_ = c.as(at::kFloat, device());
    const Tensor state = here_.initial.clone();
    const auto version = state._version();
    const Tensor o = lightning_attention_step_(here_.q, here_.k, here_.v, here_.slopes, state, c.scale);
    EXPECT_LE(relative_rms(o.cpu(), want.o), 1e-6);
    EXPECT_LE(relative_rms(state.cpu(), want.state), 1e-6);
    EXPECT_GT(state._version(), version);
  }
}

TEST_P(LightningStates, EmptyRowsHandTheStateOn) {
  for (const int64_t dim : dims()) {
    for (const std::vector<int64_t>& offsets : {std::vector<int64_t>{0, 0}, {0, 0, 0}, {0, 0, 5, 5}, {0, 5, 5, 5}}) {
      for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
        const LightningCase c = random_case(offsets, {.dim = dim}, true, 6).as(dtype, device());
        const auto [o, state] = lightning_attention(c.q, c.k, c.v, c.slopes, c.cu_seqlens(), c.initial, c.options());
        EXPECT_EQ(o.sizes(), c.q.sizes());
        for (size_t s = 0; s + 1 < offsets.size(); ++s) {
          if (offsets[s] != offsets[s + 1]) continue;
          EXPECT_TRUE(same_bytes(state[static_cast<int64_t>(s)], c.initial[static_cast<int64_t>(s)]));
        }
        const auto [o2, zero] = lightning_attention(c.q, c.k, c.v, c.slopes, c.cu_seqlens(), {}, c.options());
        EXPECT_EQ(offsets.back() == 0, same_bytes(zero, at::zeros_like(zero)));
      }
    }
    const Tensor none = at::zeros({0, 2, dim}, at::TensorOptions(device()).dtype(at::kBFloat16));
    const Tensor slopes = at::ones({2}, at::TensorOptions(device()).dtype(at::kFloat));
    const auto [o, state] = lightning_attention(
        none, none, none, slopes, at::zeros({1}, slopes.options().dtype(at::kInt)), {}, {.with_state = true});
    EXPECT_EQ(o.size(0), 0);
    EXPECT_EQ(state.size(0), 0);
  }
}

TEST_P(LightningStates, AStateThatIsNotWantedIsEmpty) {
  const LightningCase c = random_case({0, 3, 70}, {.dim = dims().front()}, true, 8).as(at::kBFloat16, device());
  const auto with = lightning_attention(c.q, c.k, c.v, c.slopes, c.cu_seqlens(), c.initial, {.with_state = true});
  const auto without = lightning_attention(c.q, c.k, c.v, c.slopes, c.cu_seqlens(), c.initial, {.with_state = false});
  EXPECT_EQ(std::get<1>(without).size(0), 0);
  EXPECT_TRUE(same_bytes(std::get<0>(with), std::get<0>(without)));
}

// The masked half of a chunk would overflow at a steep slope: Inf * 0 must not reach the result. Slope 0 never forgets.
TEST_P(LightningStates, SteepAndFlatSlopesStayFinite) {
  const int64_t tokens = 5000;
  for (const int64_t dim : dims()) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
      const Tensor x = at::ones({tokens, 1, dim}, at::TensorOptions(device()).dtype(dtype));
      for (const double slope : {0.84, 8.0, 200.0, 0.0}) {
        const Tensor slopes = at::full({1}, slope, at::TensorOptions(device()).dtype(at::kFloat));
        const Tensor offsets = at::tensor({int64_t{0}, tokens}, at::kInt).to(device());
        const auto [o, state] = lightning_attention(x, x, x, slopes, offsets, {}, {.with_state = true});
        ASSERT_TRUE(o.isfinite().all().item<bool>() && state.isfinite().all().item<bool>()) << slope;
        const double limit = slope > 0 ? 1 / (1 - std::exp(-slope)) : static_cast<double>(tokens);
        EXPECT_NEAR(state[0][0][1][1].item<double>(), limit, 1e-4 * limit) << slope;
        EXPECT_NEAR(o[tokens - 1][0][1].item<double>(), limit * dim, 5e-3 * limit * dim) << slope;
      }
    }
  }
}

// Outputs, states and gradients of documents 0, 2, ...: what their neighbours hold must not matter, not even as zero
// times it.
std::vector<Tensor> of_every_other_document(const LightningCase& c, bool accurate) {
  const Tensor q = c.q.detach().requires_grad_(true), k = c.k.detach().requires_grad_(true),
               v = c.v.detach().requires_grad_(true);
  const auto [o, state] = lightning_attention(q, k, v, c.slopes, c.cu_seqlens(), c.initial, c.options(accurate));
  const Tensor ones = at::ones_like(o);
  const auto grads = torch::autograd::grad({o}, {q, k, v}, {ones});
  std::vector<Tensor> out;
  for (int64_t s = 0; s + 1 < static_cast<int64_t>(c.offsets.size()); s += 2) {
    const int64_t begin = c.offsets[s], count = c.offsets[s + 1] - begin;
    for (const Tensor& t : {o.detach(), grads[0], grads[1], grads[2]}) out.push_back(t.narrow(0, begin, count));
    out.push_back(state.detach()[s]);
  }
  return out;
}

TEST_P(LightningStates, ADocumentOfNansStaysAlone) {
  if (!on_cuda()) GTEST_SKIP() << "of the kernels; the composite multiplies what is masked by 0";
  for (const int64_t dim : {64, 128}) {
    for (const auto& [dtype, accurate] : {std::pair{at::kFloat, true}, {at::kBFloat16, true}, {at::kBFloat16, false}}) {
      const LightningCase c = random_case({0, 37, 200, 300, 365}, {.dim = dim}, true, 11).as(dtype, device());
      LightningCase spoilt = c;
      for (Tensor* t : {&spoilt.q, &spoilt.k, &spoilt.v}) {
        *t = t->clone();
        t->narrow(0, 37, 163).fill_(std::nan(""));
        t->narrow(0, 300, 65).fill_(INFINITY);
      }
      const auto want = of_every_other_document(c, accurate), got = of_every_other_document(spoilt, accurate);
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_TRUE(same_bytes(got[i], want[i])) << "tensor " << i << " dim " << dim << " accurate " << accurate;
      }
    }
  }
}

TEST_P(LightningStates, TinyAndHugeValuesKeepTheirAccuracy) {
  const auto sizes = {1e-12, 1e9};
  for (size_t i = 0; i < 2 * dims().size(); ++i) {
    const int64_t dim = dims()[i / 2];
    const double size = sizes.begin()[i % 2];
    LightningCase c = random_case({0, 100, 170}, {.dim = dim}, false, 9);
    for (Tensor* t : {&c.q, &c.k}) *t = (*t * size).to(at::kBFloat16).to(at::kDouble);
    const auto want = test::lightning_truth_of(c);
    for (const auto& [dtype, accurate, bar] :
         {std::tuple{at::kFloat, true, 1e-6}, {at::kBFloat16, true, 1.8e-3}, {at::kBFloat16, false, 2.8e-3}}) {
      const LightningCase here_ = c.as(dtype, device());
      const auto [o, state] =
          lightning_attention(here_.q, here_.k, here_.v, here_.slopes, here_.cu_seqlens(), {}, c.options(accurate));
      EXPECT_LE(relative_rms(o.cpu(), want.o), bar) << size << " dim " << dim;
      EXPECT_LE(relative_rms(state.cpu(), want.state), 2e-5) << size << " dim " << dim;
    }
  }
}

TEST_P(LightningStates, ErrorsNameArgumentRuleAndValue) {
  const LightningCase c = random_case({0, 3}, {.heads = 2, .kv_heads = 2, .dim = 4}, true, 10).as(at::kFloat, device());
  const auto expect = [&](const std::string& want, const std::function<void(LightningCase&)>& spoil) {
    LightningCase bad = c;
    spoil(bad);
    const std::string message = QKR_MESSAGE_OF(
        lightning_attention(bad.q, bad.k, bad.v, bad.slopes, bad.cu_seqlens(), bad.initial_or_none(), bad.options()));
    EXPECT_NE(message.find("lightning_attention: " + want), std::string::npos) << message;
  };
  expect("v must have shape [3, 2, 4], got [3, 1, 4]", [](auto& bad) { bad.v = bad.v.narrow(1, 0, 1); });
  expect("k must be Float, got Double", [](auto& bad) { bad.k = bad.k.to(at::kDouble); });
  expect("slopes must have shape [2], got [1]", [](auto& bad) { bad.slopes = bad.slopes.narrow(0, 0, 1); });
  expect("H must be a multiple of H_kv, got 2",
         [](auto& bad) { bad.k = bad.v = at::zeros({3, 3, 4}, bad.q.options()); });
  expect("initial_state must have shape [2, 2, 4, 4], got [1, 2, 4, 4]", [](auto& bad) { bad.offsets = {0, 1, 3}; });
  expect("cu_seqlens must name a sequence if there are tokens, got [1]", [](auto& bad) { bad.offsets = {0}; });
  expect("slopes must not require grad", [](auto& bad) { bad.slopes = bad.slopes.clone().requires_grad_(true); });
  const std::string step = QKR_MESSAGE_OF(lightning_attention_step_(
      c.q, c.k, c.v, c.slopes, at::zeros({3, 2, 4, 4}, c.slopes.options()).transpose(2, 3), 1));
  EXPECT_NE(step.find("lightning_attention_step_: state must be contiguous"), std::string::npos) << step;
  Tensor q = c.q.clone().requires_grad_(true);
  const auto [o, state] = lightning_attention(q, c.k, c.v, c.slopes, c.cu_seqlens(), {}, c.options());
  const std::string twice =
      QKR_MESSAGE_OF(torch::autograd::grad({o.square().sum()}, {q}, {}, true, /*create_graph=*/true));
  EXPECT_NE(twice.find("second derivative"), std::string::npos) << twice;
}

QKR_ON_EVERY_DEVICE(LightningStates);

TEST(LightningMeta, ShapesAndRefusalsAreThoseOfTheRealOnes) {
  const LightningCase c =
      random_case({0, 3, 9}, {.heads = 4, .kv_heads = 2, .dim = 8, .slopes = {1, 2, 3, 4}}, true, 12);
  for (const at::ScalarType dtype : {at::kBFloat16, at::kFloat, at::kDouble}) {
    const LightningCase real = c.as(dtype, at::kCPU), meta = c.as(dtype, at::kMeta);
    for (const bool with_state : {true, false}) {
      const LightningOptions options{.with_state = with_state};
      const auto want =
          lightning_attention(real.q, real.k, real.v, real.slopes, real.cu_seqlens(), real.initial, options);
      const auto got =
          lightning_attention(meta.q, meta.k, meta.v, meta.slopes, meta.cu_seqlens(), meta.initial, options);
      for (const auto& [a, b] :
           {std::pair{std::get<0>(want), std::get<0>(got)}, {std::get<1>(want), std::get<1>(got)}}) {
        EXPECT_EQ(a.sizes(), b.sizes());
        EXPECT_EQ(a.strides(), b.strides());
        EXPECT_EQ(a.scalar_type(), b.scalar_type());
      }
    }
  }
  const LightningCase meta = c.as(at::kFloat, at::kMeta);
  const std::string message =
      QKR_MESSAGE_OF(lightning_attention(meta.q, meta.k, meta.q, meta.slopes, meta.cu_seqlens(), {}, meta.options()));
  EXPECT_NE(message.find("lightning_attention: v must have shape [9, 2, 8], got [9, 4, 8]"), std::string::npos)
      << message;
}

// PyTorch's own checks of a custom operator, on the library as Python loads it; with a GPU also capture in a CUDA
// graph.
TEST(LightningPython, OpcheckPasses) { test::expect_opcheck_passes("lightning_opcheck.py"); }

}  // namespace
}  // namespace qkr
