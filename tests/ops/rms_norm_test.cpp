#include "ops/rms_norm.h"

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

// By the definition, in ATen; ATen differentiates it.
Tensor plain_norm(const Tensor& x, const Tensor& w) {
  const Tensor wide = x.to(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  return (wide * at::rsqrt(wide.square().mean(-1, true) + kEps)).to(x.scalar_type()) * w;
}

// The three operators behind one signature: {x, weight, beside}; `beside` is what is added, or the gate.
struct Variant {
  const char* name;
  test::TensorFunction ours, plain;
  bool has_beside;
};

const Variant kVariants[] = {
    {"rms_norm", [](const Tensors& t) { return Tensors{rms_norm(t[0], t[1], kEps)}; },
     [](const Tensors& t) { return Tensors{plain_norm(t[0], t[1])}; }, false},
    {"add_rms_norm",
     [](const Tensors& t) {
       const auto [y, h] = add_rms_norm(t[0], t[2], t[1], kEps);
       return Tensors{y, h};
     },
     [](const Tensors& t) {
       const Tensor h = t[0] + t[2];
       return Tensors{plain_norm(h, t[1]), h};
     },
     true},
    {"gated_rms_norm", [](const Tensors& t) { return Tensors{gated_rms_norm(t[0], t[2], t[1], kEps)}; },
     [](const Tensors& t) { return Tensors{plain_norm(t[0], t[1]) * t[2].sigmoid()}; }, true},
};

Tensors random_inputs(const Variant& variant, int64_t rows, int64_t cols, at::ScalarType type) {
  Tensors inputs = {at::randn({rows, cols}).to(type), (at::randn({cols}) * 0.3 + 1).to(type)};
  if (variant.has_beside) inputs.push_back(at::randn({rows, cols}).to(type));
  return inputs;
}

class RmsNormOps : public test::DeviceTest {};

struct Size {
  int64_t rows, cols;
};
// a model's widths, rows that end within a warp's pack, odd ones, more rows than a grid has blocks, and too wide for
// the kernels
constexpr Size kSizes[] = {{1, 8},    {1, 4096},  {3, 2560}, {5, 31},   {33, 65},  {2, 4099},
                           {1200, 8}, {601, 136}, {2, 2048}, {2, 8192}, {2, 8200}, {1, 16392}};

TEST_P(RmsNormOps, ValuesAndGradientsAreAsAccurateAsTheComposite) {
  at::manual_seed(1);
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const Size& size : kSizes) {
        SCOPED_TRACE(std::string(variant.name) + " " + std::to_string(size.rows) + " x " + std::to_string(size.cols) +
                     " " + c10::toString(type));
        test::expect_gradients_as_accurate(variant.ours, variant.plain,
                                           random_inputs(variant, size.rows, size.cols, type), device());
      }
    }
  }
}

TEST_P(RmsNormOps, Fp64IsTheDefinition) {
  at::manual_seed(5);
  for (const Variant& variant : kVariants) {
    test::expect_fp64(variant.ours, variant.plain, random_inputs(variant, 7, 33, at::kDouble), device());
  }
}

// The roundings between the steps are the official models', so bf16 values agree but for the few whose fp32 value
// lies next to a rounding edge.
TEST_P(RmsNormOps, Bf16RoundsWhereTheCompositeDoes) {
  at::manual_seed(2);
  for (const Variant& variant : kVariants) {
    const Tensors inputs = random_inputs(variant, 16, 2048, at::kBFloat16);
    Tensors there;
    for (const Tensor& input : inputs) there.push_back(here(input));
    const Tensors got = variant.ours(there), want = variant.plain(inputs);
    for (size_t i = 0; i < want.size(); ++i) {
      const double different = got[i].cpu().ne(want[i]).to(at::kDouble).mean().item<double>();
      EXPECT_LT(different, 0.005) << variant.name << " output " << i;
    }
  }
}

TEST_P(RmsNormOps, StridedRowsAndUnalignedBuffers) {
  at::manual_seed(3);
  const auto wider = [&](const Tensor& t) {  // rows inside longer rows, the first of them one element in
    if (t.dim() == 1) return here(at::cat({at::zeros({1}).to(t.scalar_type()), t})).narrow(0, 1, t.size(0));
    return here(at::cat({at::zeros({t.size(0), 1}).to(t.scalar_type()), t, t}, 1)).narrow(1, 1, t.size(1));
  };
  const auto halves = [&](const Tensor& t) {  // aligned rows, twice as far apart
    return t.dim() == 1 ? here(t) : here(at::cat({t, t}, 1)).narrow(1, 0, t.size(1));
  };
  const auto transposed = [&](const Tensor& t) { return t.dim() == 1 ? here(t) : here(t.t().contiguous()).t(); };
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const auto& place : {std::function<Tensor(const Tensor&)>(wider), {halves}, {transposed}}) {
        test::expect_gradients_as_accurate(variant.ours, variant.plain, random_inputs(variant, 17, 264, type), device(),
                                           place);
      }
    }
  }
}

TEST_P(RmsNormOps, ExtremeRowsStayFinite) {
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      Tensors inputs = random_inputs(variant, 6, 512, type);
      const double scales[] = {0, 1e-30, 1e-10, 1e10, 1e17, 1};
      for (int64_t row = 0; row < 6; ++row) inputs[0][row].mul_(scales[row]);
      if (variant.has_beside && variant.name != kVariants[1].name) inputs[2].mul_(60);  // gates shut and wide open
      if (variant.has_beside && variant.name == kVariants[1].name) inputs[2].mul_(inputs[0].abs().gt(0));
      for (int64_t row = 0; row < 6; ++row) {
        SCOPED_TRACE(std::string(variant.name) + " row " + std::to_string(row));
        Tensors one = inputs;
        for (size_t i = 0; i < one.size(); ++i)
          one[i] = one[i].dim() == 2 ? one[i].narrow(0, row, 1).contiguous() : one[i];
        test::expect_gradients_as_accurate(variant.ours, variant.plain, one, device());
      }
    }
  }
}

TEST_P(RmsNormOps, NoRowsGiveZeroWeightGradients) {
  for (const Variant& variant : kVariants) {
    Tensors inputs;
    for (const Tensor& input : random_inputs(variant, 0, 64, at::kFloat)) inputs.push_back(here(input));
    const auto out = test::differentiated(variant.ours, inputs, {at::empty({0, 64}), at::empty({0, 64})});
    EXPECT_EQ(out.outputs[0].sizes(), at::IntArrayRef({0, 64}));
    EXPECT_TRUE(same_bytes(out.grads[1], at::zeros({64})));
  }
}

TEST_P(RmsNormOps, MoreAxesAreRows) {
  const Tensor x = here(at::randn({2, 3, 64})), w = here(at::randn({64}));
  EXPECT_TRUE(same_bytes(rms_norm(x, w, kEps), rms_norm(x.view({6, 64}), w, kEps).view({2, 3, 64})));
}

TEST_P(RmsNormOps, TwoRunsAreBitEqual) {
  at::manual_seed(4);
  for (const Variant& variant : kVariants) {
    Tensors inputs;
    for (const Tensor& input : random_inputs(variant, 600, 264, at::kBFloat16)) inputs.push_back(here(input));
    const Tensors upstream = {at::randn({600, 264}), at::randn({600, 264})};
    const auto a = test::differentiated(variant.ours, inputs, upstream),
               b = test::differentiated(variant.ours, inputs, upstream);
    for (size_t i = 0; i < a.grads.size(); ++i)
      EXPECT_TRUE(same_bytes(a.grads[i], b.grads[i])) << variant.name << " " << i;
  }
}

TEST_P(RmsNormOps, MetaParity) {
  for (const Variant& variant : kVariants) {
    Tensors inputs;
    for (const Tensor& input : random_inputs(variant, 5, 24, at::kBFloat16)) inputs.push_back(here(input));
    test::expect_meta_parity(variant.ours, inputs);
  }
}

TEST_P(RmsNormOps, ErrorsNameArgumentRuleAndValue) {
  const Tensor x = here(at::randn({2, 8})), w = here(at::randn({8}));
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  expect("rms_norm: weight must have shape [8], got [4]", QKR_MESSAGE_OF(rms_norm(x, w.narrow(0, 0, 4), kEps)));
  expect("rms_norm: weight must be Float, got Double", QKR_MESSAGE_OF(rms_norm(x, w.to(at::kDouble), kEps)));
  expect("rms_norm: gate must have shape [2, 8], got [8]", QKR_MESSAGE_OF(gated_rms_norm(x, w, w, kEps)));
  expect("rms_norm: eps must be finite and at least 0, got -1", QKR_MESSAGE_OF(rms_norm(x, w, -1)));
  const Tensor leaf = x.clone().requires_grad_(true), y = rms_norm(leaf, w, kEps).sum();
  expect("rms_norm: has no second derivative", QKR_MESSAGE_OF(torch::autograd::grad({y}, {leaf}, {}, true, true)));
}

QKR_ON_EVERY_DEVICE(RmsNormOps);

}  // namespace
}  // namespace qkr
