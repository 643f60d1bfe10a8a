// split_master, join_master and round_once on every device against the CPU's composites: bits.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/adamw_split.h"
#include "ops/round_once.h"
#include "tests/support/device.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

// int64 patterns as fp32.
Tensor fp32_of(const Tensor& patterns) {
  return at::where(patterns >= 0x80000000LL, patterns - 0x100000000LL, patterns)
      .to(at::kInt)
      .contiguous()
      .view(at::kFloat);
}

// Every upper half with the lower halves around its rounding edges: all NaNs, infinities, denormals and zeros are among
// them.
Tensor every_kind_of_fp32() {
  const Tensor high = at::arange(0, 65536, at::kLong).view({-1, 1}) * 65536;
  const Tensor low = at::tensor({0, 1, 2, 0x7ffe, 0x7fff, 0x8000, 0x8001, 0xfffe, 0xffff}, at::kLong).view({1, -1});
  return fp32_of(high + low).flatten();
}

// `t` again, one element into its buffer.
Tensor shifted(const Tensor& t) { return at::empty({t.numel() + 1}, t.options()).narrow(0, 1, t.numel()).copy_(t); }

class Masters : public test::DeviceTest {};

TEST_P(Masters, SplitAndJoinAreTheCompositesBits) {
  const Tensor all = every_kind_of_fp32();
  for (const int64_t count : {all.numel(), int64_t{0}, int64_t{1}, int64_t{7}, int64_t{8}, int64_t{2051}}) {
    const Tensor master = all.narrow(0, all.numel() - count, count);
    const auto [want_weight, want_low] = split_master(master);
    for (const Tensor& input : {here(master), shifted(here(master))}) {
      const auto [weight, low] = split_master(input);
      EXPECT_TRUE(same_bytes(weight.view(at::kShort), want_weight.view(at::kShort))) << count;
      EXPECT_TRUE(same_bytes(low, want_low)) << count;
      EXPECT_TRUE(same_bytes(join_master(weight, low), join_master(want_weight, want_low))) << count;
      EXPECT_TRUE(same_bytes(join_master(shifted(weight), low), join_master(want_weight, want_low))) << count;
    }
  }
}

TEST_P(Masters, StridedInputsGiveDenseResults) {
  at::manual_seed(1);
  const Tensor master = here(at::randn({33, 17}));
  const auto [weight, low] = split_master(master.t());
  EXPECT_TRUE(weight.is_contiguous() && low.is_contiguous());
  EXPECT_TRUE(same_bytes(join_master(weight, low), master.t()));
  EXPECT_TRUE(same_bytes(join_master(weight.t(), low.t()), master));
  EXPECT_TRUE(join_master(weight.t(), low.t()).is_contiguous());
  const Tensor rounded = round_once(master.to(at::kDouble).t(), at::kBFloat16);
  EXPECT_TRUE(rounded.is_contiguous());
  EXPECT_TRUE(same_bytes(rounded, master.t().to(at::kBFloat16)));
}

TEST_P(Masters, AWeightThatRequiresGradIsRead) {
  const auto [weight, low] = split_master(here(at::randn({5})));
  Tensor leaf = weight.clone().requires_grad_(true);
  EXPECT_FALSE(join_master(leaf, low).requires_grad());
  EXPECT_TRUE(same_bytes(join_master(leaf, low), join_master(weight, low)));
}

// fp64 numbers at and around every bf16, the middle between two, and fp32's edges; signed, huge, tiny.
TEST_P(Masters, RoundOnceIsTheCompositesBits) {
  const Tensor bf16 = fp32_of(at::arange(0, 65536, at::kLong) * 65536).to(at::kDouble);
  const Tensor middle = fp32_of(at::arange(0, 65536, at::kLong) * 65536 + 0x8000).to(at::kDouble);
  Tensor x =
      at::cat({bf16, middle, bf16 * (1 + 0x1p-40), bf16 * (1 - 0x1p-40), middle * (1 + 0x1p-52), middle * (1 - 0x1p-53),
               middle * (1 - 0x1p-30),
               at::tensor({1e300, -1e300, 1e-300, -1e-300, 0x1.fefp127, 0x1.ffp127, 3.4e38, 5e-324}, at::kDouble)});
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    const Tensor want = round_once(x, type), nan = x.isnan();
    for (const Tensor& input : {here(x), shifted(here(x)), here(x).narrow(0, 0, 11)}) {
      const Tensor got = round_once(input, type).cpu();
      ASSERT_EQ(got.scalar_type(), type);
      const Tensor kept =
          nan.narrow(0, 0, got.numel()).logical_not();  // what a NaN's payload becomes is the device's choice
      EXPECT_TRUE(same_bytes(got.masked_select(kept), want.narrow(0, 0, got.numel()).masked_select(kept))) << type;
      EXPECT_TRUE(at::equal(got.isnan(), nan.narrow(0, 0, got.numel())));
    }
  }
}

TEST_P(Masters, MetaParityAndErrors) {
  const Tensor master = here(at::randn({3, 4}));
  const auto halves = [](const test::Tensors& t) {
    const auto [weight, low] = split_master(t[0]);
    return test::Tensors{weight, low, join_master(weight, low), round_once(t[1], at::kBFloat16)};
  };
  test::expect_meta_parity(halves, {master, master.to(at::kDouble)});
  const auto expect = [](const std::string& want, const std::string& message) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
  };
  const auto [weight, low] = split_master(master);
  expect("split_master: master must be Float, got Double", QKR_MESSAGE_OF(split_master(master.to(at::kDouble))));
  expect("join_master: master_low must have shape [3, 4], got [4, 3]", QKR_MESSAGE_OF(join_master(weight, low.t())));
  expect("join_master: weight must be BFloat16, got Float", QKR_MESSAGE_OF(join_master(master, low)));
  expect("round_once: x must be Double, got Float", QKR_MESSAGE_OF(round_once(master, at::kBFloat16)));
  expect("round_once: x must not require grad",
         QKR_MESSAGE_OF(round_once(here(at::ones({2}, at::kDouble)).requires_grad_(true), at::kBFloat16)));
}

QKR_ON_EVERY_DEVICE(Masters);

}  // namespace
}  // namespace qkr
