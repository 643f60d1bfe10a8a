// Lightning attention recorded in a CUDA graph: a replay computes what a call would, bit for bit, from what the inputs
// hold by then.
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <gtest/gtest.h>

#include "ops/recorded_step.h"
#include "tests/ops/lightning_truth.h"
#include "tests/support/device.h"

namespace qkr {
namespace {

using at::Tensor;
using test::LightningCase;
using test::random_case;
using test::same_bytes;
using OptionalTensor = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

constexpr int64_t kTokens = 3000;
const test::LightningShape kGrouped{.heads = 4, .kv_heads = 2, .dim = 64, .slopes = {0.84, 0.21, 0.03, 0.0039}};

struct Kind {
  int64_t dim;
  at::ScalarType dtype;
  bool accurate;
};
const std::vector<Kind> kKinds = {{64, at::kBFloat16, true},   {64, at::kBFloat16, false}, {64, at::kFloat, true},
                                  {128, at::kBFloat16, true},  {128, at::kBFloat16, false}, {128, at::kFloat, true},
                                  {24, at::kBFloat16, true}};

class LightningGraph : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU, and there is none";
  }
  static LightningCase case_of(const Kind& kind, const std::vector<int64_t>& offsets, int64_t seed) {
    auto shape = kGrouped;
    shape.dim = kind.dim;
    return random_case(offsets, shape, true, seed).as(kind.dtype, at::kCUDA);
  }

  // `call` reads tensors that `change` writes.
  static void expect_replays_equal_calls(const std::function<Tensors()>& call, const std::function<void()>& change) {
    const at::NoGradGuard no_grad;
    Tensors kept;
    for (const Tensor& t : call()) kept.push_back(at::full_like(t, 7));
    std::string why_not;
    const auto graph = record_step(at::Device(at::kCUDA, 0),
                                   [&] {
                                     const Tensors got = call();
                                     for (size_t i = 0; i < got.size(); ++i) kept[i].copy_(got[i]);
                                   },
                                   &why_not);
    ASSERT_NE(graph, nullptr) << why_not;
    for (int round = 0; round < 2; ++round) {
      change();
      graph->replay();
      Tensors replayed;
      for (const Tensor& t : kept) replayed.push_back(t.clone());
      change();  // the one-token step has moved its state
      const Tensors want = call();
      for (size_t i = 0; i < want.size(); ++i) {
        EXPECT_TRUE(same_bytes(replayed[i], want[i])) << "result " << i;
        EXPECT_GT(want[i].abs().sum().item<double>(), 0) << "result " << i;
      }
    }
  }
};

std::string text(const Kind& kind) {
  return "dim " + std::to_string(kind.dim) + " " + c10::toString(kind.dtype) + (kind.accurate ? " accurate" : " fast");
}

TEST_F(LightningGraph, ForwardFollowsItsInputs) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(text(kind));
    const LightningCase c = case_of(kind, {0, 1000, kTokens}, 1), other = case_of(kind, {0, 1717, kTokens}, 2);
    const Tensor offsets = c.cu_seqlens();
    expect_replays_equal_calls(
        [&] {
          const auto [o, state] =
              lightning_attention(c.q, c.k, c.v, c.slopes, offsets, c.initial, c.options(kind.accurate));
          return Tensors{o, state};
        },
        [&] {
          c.q.copy_(other.q), c.k.copy_(other.k), c.v.copy_(other.v), c.initial.copy_(other.initial);
          c.slopes.copy_(other.slopes.flip(0)), offsets.copy_(other.cu_seqlens());
        });
  }
}

TEST_F(LightningGraph, BackwardFollowsItsInputs) {
  const auto backward = c10::Dispatcher::singleton()
                            .findSchemaOrThrow("qk_restore::_lightning_attention_bwd", "")
                            .typed<std::tuple<Tensor, Tensor, Tensor, Tensor>(
                                const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&, const Tensor&,
                                const Tensor&, const Tensor&, const OptionalTensor&, double, bool)>();
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(text(kind));
    const LightningCase c = case_of(kind, {0, 1000, kTokens}, 3), other = case_of(kind, {0, 1717, kTokens}, 4);
    const Tensor offsets = c.cu_seqlens(), grad_o = at::randn_like(c.q), grad_state = at::randn_like(c.initial);
    expect_replays_equal_calls(
        [&] {
          const auto [q, k, v, initial] = backward.call(grad_o, grad_state, c.q, c.k, c.v, c.slopes, offsets, c.initial,
                                                        c.scale, kind.accurate);
          return Tensors{q, k, v, initial};
        },
        [&] {
          c.q.copy_(other.q), c.k.copy_(other.k), c.v.copy_(other.v), c.initial.copy_(other.initial);
          grad_o.copy_(other.q.flip(0)), grad_state.copy_(other.initial.flip(0)), offsets.copy_(other.cu_seqlens());
        });
  }
}

TEST_F(LightningGraph, AStepFollowsItsInputsAndMovesItsState) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(text(kind));
    const std::vector<int64_t> offsets = {0, 1, 2, 3};
    const LightningCase c = case_of(kind, offsets, 5), other = case_of(kind, offsets, 6);
    expect_replays_equal_calls(
        [&] {
          const Tensor o = lightning_attention_step_(c.q, c.k, c.v, c.slopes, c.initial, c.scale);
          return Tensors{o, c.initial};
        },
        [&] { c.q.copy_(other.q), c.k.copy_(other.k), c.v.copy_(other.v), c.initial.copy_(other.initial); });
  }
}

}  // namespace
}  // namespace qkr
