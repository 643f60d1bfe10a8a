#include "ops/gates.h"

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

struct Variant {
  const char* name;
  test::TensorFunction ours, plain;
};

const Variant kVariants[] = {
    {"swiglu", [](const Tensors& t) { return Tensors{swiglu(t[0], t[1])}; },
     [](const Tensors& t) { return Tensors{at::silu(t[0]) * t[1]}; }},
    {"sigmoid_gate", [](const Tensors& t) { return Tensors{sigmoid_gate(t[0], t[1])}; },
     [](const Tensors& t) { return Tensors{t[1] * t[0].sigmoid()}; }},
};

Tensors random_inputs(at::IntArrayRef shape, at::ScalarType type) {
  return {(at::randn(shape) * 2).to(type), at::randn(shape).to(type)};
}

class GateOps : public test::DeviceTest {};

TEST_P(GateOps, ValuesAndGradientsAreAsAccurateAsTheComposite) {
  at::manual_seed(1);
  const std::vector<std::vector<int64_t>> shapes = {{1, 1},     {1, 4096}, {31, 65}, {4099},  {1, 12288},
                                                    {2, 3, 40}, {1},       {8},      {513, 8}};
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const auto& shape : shapes) {
        SCOPED_TRACE(c10::str(variant.name, " ", at::IntArrayRef(shape), " ", type));
        test::expect_gradients_as_accurate(variant.ours, variant.plain, random_inputs(shape, type), device());
      }
    }
  }
}

TEST_P(GateOps, Fp64IsTheDefinition) {
  at::manual_seed(5);
  for (const Variant& variant : kVariants)
    test::expect_fp64(variant.ours, variant.plain, random_inputs({7, 33}, at::kDouble), device());
}

TEST_P(GateOps, Bf16RoundsWhereTheCompositeDoes) {
  at::manual_seed(2);
  for (const Variant& variant : kVariants) {
    const Tensors inputs = random_inputs({16, 2048}, at::kBFloat16);
    const Tensor got = variant.ours({here(inputs[0]), here(inputs[1])})[0].cpu(), want = variant.plain(inputs)[0];
    EXPECT_LT(got.ne(want).to(at::kDouble).mean().item<double>(), 0.005) << variant.name;
  }
}

TEST_P(GateOps, StridedInputs) {
  at::manual_seed(3);
  const auto half_of_fused = [&](const Tensor& t) { return here(at::cat({t, t}, 1)).narrow(1, 0, t.size(1)); };
  const auto unaligned = [&](const Tensor& t) { return here(at::cat({t, t}, 1)).narrow(1, 1, t.size(1)).copy_(t); };
  const auto transposed = [&](const Tensor& t) { return here(t.t().contiguous()).t(); };
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      for (const int64_t cols : {4200, 264, 33}) {  // more than a block's share of a row; whole packs; an odd row
        for (const auto& place : {std::function<Tensor(const Tensor&)>(half_of_fused), {unaligned}, {transposed}}) {
          test::expect_gradients_as_accurate(variant.ours, variant.plain, random_inputs({5, cols}, type), device(),
                                             place);
        }
      }
    }
  }
}

TEST_P(GateOps, GatesFarOutStayFinite) {
  for (const Variant& variant : kVariants) {
    for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
      const Tensor gate =
          at::tensor({0.0, 1e-30, -1e-30, 20.0, -20.0, 87.0, -87.0, 90.0, -90.0, 1e4, -1e4, 1e30, -1e30}).to(type);
      const Tensor x = at::ones_like(gate);
      for (int64_t i = 0; i < gate.size(0); ++i) {
        SCOPED_TRACE(gate[i].item<double>());
        const Tensor one = gate.narrow(0, i, 1).clone();
        const auto a = test::differentiated(variant.ours, {here(one), here(x.narrow(0, 0, 1))}, {x.narrow(0, 0, 1)});
        const auto b =
            test::differentiated(variant.plain, {one.to(at::kDouble), at::ones({1}, at::kDouble)}, {x.narrow(0, 0, 1)});
        const auto near = [&](const Tensor& got, const Tensor& want) {
          const double w = want.item<double>(),
                       tolerance = std::max(0x1p-23, std::abs(w) * (type == at::kFloat ? 1e-6 : 8e-3));
          EXPECT_NEAR(got.item<double>(), w, tolerance);
        };
        near(a.outputs[0], b.outputs[0]);
        near(a.grads[0], b.grads[0]);
        near(a.grads[1], b.grads[1]);
      }
    }
  }
}

TEST_P(GateOps, NothingIn) {
  for (const Variant& variant : kVariants) {
    const auto out =
        test::differentiated(variant.ours, {here(at::empty({0, 8})), here(at::empty({0, 8}))}, {at::empty({0, 8})});
    EXPECT_EQ(out.grads[0].sizes(), at::IntArrayRef({0, 8}));
  }
}

TEST_P(GateOps, TwoRunsAreBitEqual) {
  at::manual_seed(4);
  for (const Variant& variant : kVariants) {
    const Tensors inputs = random_inputs({50, 1000}, at::kBFloat16);
    const Tensors there = {here(inputs[0]), here(inputs[1])}, upstream = {at::randn({50, 1000})};
    const auto a = test::differentiated(variant.ours, there, upstream),
               b = test::differentiated(variant.ours, there, upstream);
    EXPECT_TRUE(same_bytes(a.outputs[0], b.outputs[0]));
    EXPECT_TRUE(same_bytes(a.grads[0], b.grads[0]));
    EXPECT_TRUE(same_bytes(a.grads[1], b.grads[1]));
  }
}

TEST_P(GateOps, MetaParity) {
  for (const Variant& variant : kVariants) {
    const Tensors inputs = random_inputs({6, 10}, at::kBFloat16);
    test::expect_meta_parity(variant.ours, {here(inputs[0]), here(inputs[1])});
    test::expect_meta_parity(variant.ours, {here(inputs[0]).t(), here(inputs[1]).t()});
  }
}

TEST_P(GateOps, ErrorsNameArgumentRuleAndValue) {
  const Tensor x = here(at::randn({2, 8}));
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  expect("swiglu: x must have shape [2, 8], got [2, 4]", QKR_MESSAGE_OF(swiglu(x, x.narrow(1, 0, 4))));
  expect("sigmoid_gate: x must be Float, got Double", QKR_MESSAGE_OF(sigmoid_gate(x, x.to(at::kDouble))));
}

QKR_ON_EVERY_DEVICE(GateOps);

}  // namespace
}  // namespace qkr
