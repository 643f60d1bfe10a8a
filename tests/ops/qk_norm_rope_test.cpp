#include "ops/qk_norm_rope.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;
using test::Tensors;

constexpr double kEps = 1e-6;

// Which steps a model takes: Llama RoPE, Qwen3 and Lightning both, HypeNet's softmax layers the norm and a factor for
// queries.
struct Steps {
  const char* name;
  bool norm, rope, factor;
};
constexpr Steps kSteps[] = {{"rope", false, true, false},           {"norm", true, false, false},
                            {"norm+rope", true, true, false},       {"norm+factor", true, false, true},
                            {"norm+rope+factor", true, true, true}, {"factor", false, false, true}};

struct Shape {
  int64_t tokens, heads, head_dim;
};

// Differentiable inputs {x, weight?}; the rest are constants.
struct Case {
  Tensors inputs;
  Tensor cos, sin, factor;
};

Case random_case(const Steps& steps, const Shape& s, at::ScalarType type) {
  Case c;
  c.inputs = {at::randn({s.tokens, s.heads, s.head_dim}).to(type)};
  if (steps.norm) c.inputs.push_back((at::randn({s.head_dim}) * 0.3 + 1).to(type));
  const Tensor angles = at::rand({s.tokens, s.head_dim / 2}) * 6.28;
  if (steps.rope) c.cos = angles.cos().to(type), c.sin = angles.sin().to(type);
  if (steps.factor) c.factor = at::rand({s.tokens}) + 0.5;
  return c;
}

at::ScalarType wide_of(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

std::optional<Tensor> constant(const Tensor& t, const Tensor& like, at::ScalarType type) {
  return t.defined() ? std::optional<Tensor>(t.to(like.device(), type)) : std::nullopt;
}

test::TensorFunction ours(const Case& c) {
  return [c](const Tensors& t) {
    const at::ScalarType type = t[0].scalar_type();
    const std::optional<Tensor> weight = t.size() > 1 ? std::optional<Tensor>(t[1]) : std::nullopt;
    return Tensors{qk_norm_rope(t[0], weight, constant(c.cos, t[0], type), constant(c.sin, t[0], type),
                                constant(c.factor, t[0], wide_of(t[0])), kEps)};
  };
}

// By the definitions, in the official order: tables with both halves, rotate_half.
test::TensorFunction plain(const Case& c) {
  return [c](const Tensors& t) {
    Tensor x = t[0];
    const at::ScalarType type = x.scalar_type();
    if (t.size() > 1) {
      const Tensor wide = x.to(wide_of(x));
      x = (wide * at::rsqrt(wide.square().mean(-1, true) + kEps)).to(type) * t[1];
    }
    if (c.cos.defined()) {
      const Tensor cos = at::cat({c.cos, c.cos}, 1).unsqueeze(1).to(type),
                   sin = at::cat({c.sin, c.sin}, 1).unsqueeze(1).to(type);
      const auto halves = x.chunk(2, -1);
      x = x * cos + at::cat({-halves[1], halves[0]}, -1) * sin;
    }
    if (c.factor.defined()) x = (x.to(wide_of(x)) * c.factor.to(wide_of(x)).view({-1, 1, 1})).to(type);
    return Tensors{x};
  };
}

class QkNormRopeOp : public test::DeviceTest {};

// heads of 64, 128, 256 and 32 (fast paths), GQA counts, odd sizes through the scalar kernel, no kernel at all
constexpr Shape kShapes[] = {{1, 1, 128},  {65, 8, 128}, {31, 8, 64}, {517, 3, 64}, {7, 3, 256}, {5, 2, 32},
                             {30, 16, 96}, {9, 5, 6},    {3, 2, 16},  {5, 2, 320},  {2, 3, 512}};

TEST_P(QkNormRopeOp, ValuesAndGradientsAreAsAccurateAsTheComposite) {
  at::manual_seed(1);
  for (const Steps& steps : kSteps) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const Shape& s : kShapes) {
        SCOPED_TRACE(std::string(steps.name) + " " + std::to_string(s.tokens) + " x " + std::to_string(s.heads) +
                     " x " + std::to_string(s.head_dim) + " " + c10::toString(type));
        const Case c = random_case(steps, s, type);
        test::expect_gradients_as_accurate(ours(c), plain(c), c.inputs, device());
      }
    }
  }
}

TEST_P(QkNormRopeOp, Fp64IsTheDefinition) {
  at::manual_seed(6);
  for (const Steps& steps : kSteps) {
    const Case c = random_case(steps, {5, 3, 10}, at::kDouble);
    test::expect_fp64(ours(c), plain(c), c.inputs, device());
  }
}

TEST_P(QkNormRopeOp, Bf16RoundsWhereTheCompositeDoes) {
  at::manual_seed(2);
  for (const Steps& steps : kSteps) {
    const Case c = random_case(steps, {16, 8, 128}, at::kBFloat16);
    Tensors there;
    for (const Tensor& input : c.inputs) there.push_back(here(input));
    const double different = ours(c)(there)[0].cpu().ne(plain(c)(c.inputs)[0]).to(at::kDouble).mean().item<double>();
    EXPECT_LT(different, 0.005) << steps.name;
  }
}

TEST_P(QkNormRopeOp, StridedInputs) {
  at::manual_seed(3);
  const auto of_fused_projection = [&](const Tensor& t) {  // the heads of one token inside a longer row
    return t.dim() == 1 ? here(t) : here(at::cat({t, t, t}, 1)).narrow(1, t.size(1), t.size(1));
  };
  const auto heads_first = [&](const Tensor& t) {
    return t.dim() == 1 ? here(t) : here(t.transpose(0, 1).contiguous()).transpose(0, 1);
  };
  const auto unaligned = [&](const Tensor& t) {
    const Tensor longer = at::cat({t, t}, -1);
    return here(longer).narrow(-1, 1, t.size(-1)).copy_(t);
  };
  const auto dims_first = [&](const Tensor& t) {
    return t.dim() == 1 ? here(t) : here(t.transpose(0, 2).contiguous()).transpose(0, 2);
  };
  for (const Steps& steps : kSteps) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const auto& place :
           {std::function<Tensor(const Tensor&)>(of_fused_projection), {heads_first}, {unaligned}, {dims_first}}) {
        const Case c = random_case(steps, {19, 4, 128}, type);
        test::expect_gradients_as_accurate(ours(c), plain(c), c.inputs, device(), place);
      }
    }
  }
}

// The gradient of attention may come with its heads outermost.
TEST_P(QkNormRopeOp, StridedGradients) {
  at::manual_seed(4);
  const Case c = random_case(kSteps[2], {33, 4, 128}, at::kFloat);
  Tensors there;
  for (const Tensor& input : c.inputs) there.push_back(here(input));
  const Tensor upstream = at::randn({33, 4, 128});
  const auto dense = test::differentiated(ours(c), there, {upstream});
  const auto strided =
      test::differentiated(ours(c), there, {here(upstream.transpose(0, 1).contiguous()).transpose(0, 1)});
  EXPECT_TRUE(same_bytes(dense.grads[0], strided.grads[0]));
  EXPECT_TRUE(same_bytes(dense.grads[1], strided.grads[1]));
}

TEST_P(QkNormRopeOp, ExtremeRowsStayFinite) {
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const double scale : {0.0, 1e-30, 1e-10, 1e10, 1e17}) {
      Case c = random_case(kSteps[4], {3, 2, 128}, type);
      c.inputs[0].mul_(scale);
      SCOPED_TRACE(scale);
      test::expect_gradients_as_accurate(ours(c), plain(c), c.inputs, device());
    }
  }
}

TEST_P(QkNormRopeOp, NoTokens) {
  const Case c = random_case(kSteps[4], {0, 4, 128}, at::kFloat);
  Tensors there;
  for (const Tensor& input : c.inputs) there.push_back(here(input));
  const auto out = test::differentiated(ours(c), there, {at::empty({0, 4, 128})});
  EXPECT_EQ(out.outputs[0].sizes(), at::IntArrayRef({0, 4, 128}));
  EXPECT_TRUE(same_bytes(out.grads[1], at::zeros({128})));
}

TEST_P(QkNormRopeOp, TwoRunsAreBitEqual) {
  at::manual_seed(5);
  const Case c = random_case(kSteps[4], {700, 8, 128}, at::kBFloat16);
  Tensors there;
  for (const Tensor& input : c.inputs) there.push_back(here(input));
  const Tensors upstream = {at::randn({700, 8, 128})};
  const auto a = test::differentiated(ours(c), there, upstream), b = test::differentiated(ours(c), there, upstream);
  EXPECT_TRUE(same_bytes(a.grads[0], b.grads[0]));
  EXPECT_TRUE(same_bytes(a.grads[1], b.grads[1]));
}

TEST_P(QkNormRopeOp, MetaParity) {
  for (const Steps& steps : kSteps) {
    const Case c = random_case(steps, {5, 2, 32}, at::kBFloat16);
    Tensors there;
    for (const Tensor& input : c.inputs) there.push_back(here(input).transpose(0, -1).contiguous().transpose(0, -1));
    test::expect_meta_parity(ours(c), there);
  }
}

TEST_P(QkNormRopeOp, ErrorsNameArgumentRuleAndValue) {
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  const Tensor x = here(at::randn({3, 2, 8})), table = here(at::ones({3, 4}));
  expect("qk_norm_rope: x must be [N, H, D] with D > 0, got [6, 8]",
         QKR_MESSAGE_OF(qk_norm_rope(x.view({6, 8}), {}, {}, {}, {}, kEps)));
  expect("qk_norm_rope: cos must be given together with sin, got one of them",
         QKR_MESSAGE_OF(qk_norm_rope(x, {}, table, {}, {}, kEps)));
  expect("qk_norm_rope: sin must have shape [3, 4], got [3, 8]",
         QKR_MESSAGE_OF(qk_norm_rope(x, {}, table, at::cat({table, table}, 1), {}, kEps)));
  expect("qk_norm_rope: x must have an even last axis where it is rotated, got [3, 2, 7]",
         QKR_MESSAGE_OF(qk_norm_rope(x.narrow(2, 0, 7), {}, table, table, {}, kEps)));
  expect("qk_norm_rope: factor must be Float, got Double",
         QKR_MESSAGE_OF(qk_norm_rope(x, {}, {}, {}, here(at::ones({3}, at::kDouble)), kEps)));
  expect("qk_norm_rope: cos must not require grad",
         QKR_MESSAGE_OF(qk_norm_rope(x, {}, table.clone().requires_grad_(true), table, {}, kEps)));
}

QKR_ON_EVERY_DEVICE(QkNormRopeOp);

}  // namespace
}  // namespace qkr
