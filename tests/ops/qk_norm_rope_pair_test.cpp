// Queries and keys in one launch against two launches of qk_norm_rope, whose own tests hold it against the truth.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "ops/qk_norm_rope.h"
#include "tests/ops/opcheck.h"
#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;
using test::Tensors;

constexpr double kEps = 1e-6;

struct Steps {
  const char* name;
  bool norm, rope, factor;
};
constexpr Steps kSteps[] = {{"rope", false, true, false},
                            {"norm", true, false, false},
                            {"norm+rope", true, true, false},
                            {"norm+factor", true, false, true},
                            {"norm+rope+factor", true, true, true}};

struct Shape {
  int64_t tokens, q_heads, k_heads, head_dim;
};
// GQA of the models, equal counts, more keys than queries, a block shared by nobody, odd sizes through the scalar
// kernel, no kernel
constexpr Shape kShapes[] = {{65, 16, 8, 128}, {700, 32, 8, 128}, {33, 4, 4, 64}, {5, 1, 3, 256},
                             {1, 2, 1, 128},   {9, 5, 2, 6},      {5, 2, 1, 320}};

// Differentiable {q, k} or {q, k, q_weight, k_weight}; the rest are constants.
struct Case {
  Tensors inputs;
  std::optional<Tensor> cos, sin, factor;

  Case(const Steps& steps, const Shape& s, at::ScalarType type) {
    inputs = {at::randn({s.tokens, s.q_heads, s.head_dim}).to(type),
              at::randn({s.tokens, s.k_heads, s.head_dim}).to(type)};
    for (int i = 0; steps.norm && i < 2; ++i) inputs.push_back((at::randn({s.head_dim}) * 0.3 + 1).to(type));
    const Tensor angles = at::rand({s.tokens, s.head_dim / 2}) * 6.28;
    if (steps.rope) cos = angles.cos().to(type), sin = angles.sin().to(type);
    if (steps.factor) factor = at::rand({s.tokens}) + 0.5;
  }
  Case on(at::Device device) const {
    Case c = *this;
    for (Tensor& input : c.inputs) input = input.to(device);
    for (std::optional<Tensor>* t : {&c.cos, &c.sin, &c.factor}) {
      if (*t) *t = (*t)->to(device);
    }
    return c;
  }
};

std::optional<Tensor> weight_of(const Tensors& t, size_t i) {
  return t.size() > i ? std::optional<Tensor>(t[i]) : std::nullopt;
}

test::TensorFunction together(const Case& c) {
  return [c](const Tensors& t) {
    const auto [q, k] = qk_norm_rope_pair(t[0], t[1], weight_of(t, 2), weight_of(t, 3), c.cos, c.sin, c.factor, kEps);
    return Tensors{q, k};
  };
}

test::TensorFunction apart(const Case& c) {
  return [c](const Tensors& t) {
    return Tensors{qk_norm_rope(t[0], weight_of(t, 2), c.cos, c.sin, c.factor, kEps),
                   qk_norm_rope(t[1], weight_of(t, 3), c.cos, c.sin, {}, kEps)};
  };
}

class QkNormRopePair : public test::DeviceTest {
 protected:
  // Weights' gradients are sums over other shares: equal up to the order of additions in fp32, and one rounding.
  void expect_same(const Case& c, const Tensors& inputs) {
    Tensors upstream;
    for (int i = 0; i < 2; ++i) upstream.push_back(at::randn(c.inputs[i].sizes()));
    const auto a = test::differentiated(together(c), inputs, upstream),
               b = test::differentiated(apart(c), inputs, upstream);
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_TRUE(same_bytes(a.outputs[i], b.outputs[i]));
      EXPECT_TRUE(a.outputs[i].is_contiguous() && a.grads[i].is_contiguous());
      EXPECT_TRUE(same_bytes(a.grads[i], b.grads[i]));
    }
    for (size_t i = 2; i < inputs.size(); ++i) {
      ASSERT_EQ(a.grads[i].scalar_type(), b.grads[i].scalar_type());
      const double allowed = b.grads[i].scalar_type() == at::kBFloat16 ? 3e-3 : 3e-6;
      EXPECT_LE(test::relative_rms(a.grads[i].cpu(), b.grads[i].cpu().to(at::kDouble)), allowed) << i;
    }
  }
};

TEST_P(QkNormRopePair, EqualsTwoCalls) {
  at::manual_seed(1);
  for (const Steps& steps : kSteps) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(
            c10::str(steps.name, " ", s.tokens, " x ", s.q_heads, " + ", s.k_heads, " x ", s.head_dim, " ", type));
        const Case c = Case(steps, s, type).on(device());
        expect_same(c, c.inputs);
      }
    }
  }
}

// One is a part of a longer row, the other has its heads outermost; then one cannot be read 16 bytes at a time, the
// other can.
TEST_P(QkNormRopePair, StridedAndUnalignedInputs) {
  at::manual_seed(2);
  for (const Steps& steps : kSteps) {
    const Case c = Case(steps, {19, 4, 2, 128}, at::kBFloat16).on(device());
    Tensors inputs = c.inputs;
    inputs[0] = at::cat({inputs[0], inputs[0]}, 1).narrow(1, 4, 4);
    inputs[1] = inputs[1].transpose(0, 1).contiguous().transpose(0, 1);
    expect_same(c, inputs);
    inputs[1] = at::cat({inputs[1], inputs[1]}, 2).narrow(2, 1, 128);
    expect_same(c, inputs);
  }
}

TEST_P(QkNormRopePair, OneWithoutRows) {
  for (const Shape& s : {Shape{0, 4, 2, 128}, {7, 4, 0, 128}, {7, 0, 4, 128}}) {
    const Case c = Case(kSteps[2], s, at::kFloat).on(device());
    const auto out =
        test::differentiated(together(c), c.inputs, {at::ones(c.inputs[0].sizes()), at::ones(c.inputs[1].sizes())});
    EXPECT_EQ(out.outputs[0].sizes(), c.inputs[0].sizes());
    EXPECT_EQ(out.outputs[1].sizes(), c.inputs[1].sizes());
    for (size_t i = 0; i < 2; ++i) {
      EXPECT_EQ(out.grads[2 + i].count_nonzero().item<int64_t>() > 0, c.inputs[i].numel() > 0);
    }
  }
}

TEST_P(QkNormRopePair, AnOutputWithoutAGradientCountsAsZero) {
  const Case c = Case(kSteps[2], {33, 4, 2, 128}, at::kFloat).on(device());
  const auto keys_alone = [&](const Tensors& t) { return Tensors{together(c)(t)[1]}; };
  const auto got = test::differentiated(keys_alone, c.inputs, {at::ones({33, 2, 128})});
  EXPECT_EQ(got.grads[0].count_nonzero().item<int64_t>(), 0);
  EXPECT_GT(got.grads[1].count_nonzero().item<int64_t>(), 0);
}

TEST_P(QkNormRopePair, TwoRunsAreBitEqual) {
  at::manual_seed(3);
  const Case c = Case(kSteps[4], {900, 16, 8, 128}, at::kBFloat16).on(device());
  const Tensors upstream = {at::randn({900, 16, 128}), at::randn({900, 8, 128})};
  const auto a = test::differentiated(together(c), c.inputs, upstream),
             b = test::differentiated(together(c), c.inputs, upstream);
  for (size_t i = 0; i < 4; ++i) EXPECT_TRUE(same_bytes(a.grads[i], b.grads[i]));
}

TEST_P(QkNormRopePair, MetaParity) {
  const Case c = Case(kSteps[1], {5, 4, 2, 32}, at::kBFloat16).on(device());
  test::expect_meta_parity(together(c), c.inputs);
}

TEST_P(QkNormRopePair, ErrorsNameArgumentRuleAndValue) {
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  const Tensor q = here(at::randn({3, 4, 8})), k = here(at::randn({3, 2, 8})), w = here(at::ones({8}));
  const auto call = [&](const Tensor& a, const Tensor& b, std::optional<Tensor> wa = {},
                        std::optional<Tensor> wb = {}) { qk_norm_rope_pair(a, b, wa, wb, {}, {}, {}, kEps); };
  expect("qk_norm_rope_pair: k must have shape [3, 2, 8], got [2, 2, 8]", QKR_MESSAGE_OF(call(q, k.narrow(0, 0, 2))));
  expect("qk_norm_rope_pair: k must have shape [3, 2, 8], got [3, 2, 4]", QKR_MESSAGE_OF(call(q, k.narrow(2, 0, 4))));
  expect("qk_norm_rope_pair: k must be Float, got Double", QKR_MESSAGE_OF(call(q, k.to(at::kDouble))));
  expect("qk_norm_rope_pair: q must be [N, H, D], got [12, 8]", QKR_MESSAGE_OF(call(q.view({12, 8}), k)));
  expect("qk_norm_rope_pair: q_weight must be given together with k_weight, got one of them",
         QKR_MESSAGE_OF(call(q, k, w)));
  expect("qk_norm_rope: weight must have shape [8], got [4]", QKR_MESSAGE_OF(call(q, k, w, w.narrow(0, 0, 4))));
  const Tensor factor = here(at::ones({3})).requires_grad_(true);
  expect("qk_norm_rope_pair: factor must not require grad",
         QKR_MESSAGE_OF(qk_norm_rope_pair(q, k, {}, {}, {}, {}, factor, kEps)));
}

QKR_ON_EVERY_DEVICE(QkNormRopePair);

// Of this operator and of the optimizer's.
TEST(PointwisePython, OpcheckPasses) { test::expect_opcheck_passes("pointwise_opcheck.py"); }

}  // namespace
}  // namespace qkr
