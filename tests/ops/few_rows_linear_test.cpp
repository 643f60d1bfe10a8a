#include "ops/few_rows_linear.h"

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"

namespace qkr {
namespace {

std::vector<at::Device> devices() {
  if (at::hasCUDA()) return {at::Device(at::kCPU), at::Device(at::kCUDA, 0)};
  return {at::Device(at::kCPU)};
}

TEST(FewRowsLinear, IsTheProductWithEachWeight) {
  const c10::InferenceMode no_autograd;
  at::manual_seed(1);
  for (const at::Device device : devices()) {
    for (const int64_t cols : {8, 264, 2048, 2560, 4104, 8200}) {
      for (const int64_t rows : {1, 2, 3, 4, 5, 9}) {
        const at::TensorOptions options = at::TensorOptions(device).dtype(at::kBFloat16);
        const at::Tensor x = at::randn({rows, cols + 16}, options).narrow(1, 8, cols);  // not dense
        std::vector<at::Tensor> weights;
        for (const int64_t outs : {1, 5, 64, 130, 7}) weights.push_back(at::randn({outs, cols}, options));
        const std::vector<at::Tensor> made = few_rows_linear(x, weights);
        ASSERT_EQ(made.size(), weights.size());
        for (size_t i = 0; i < weights.size(); ++i) {
          const at::Tensor want = at::mm(x.cpu().to(at::kDouble), weights[i].cpu().to(at::kDouble).t());
          EXPECT_EQ(made[i].sizes(), want.sizes());
          EXPECT_EQ(made[i].scalar_type(), at::kBFloat16);
          // A rounding to bf16 is 3.9e-3 at most.
          EXPECT_LE(test::relative_rms(made[i].cpu(), want), 4e-3) << device << " " << rows << " x " << cols << " weight " << i;
        }
      }
    }
  }
}

TEST(FewRowsLinear, ARowsBitsHangOnItsOwnValuesAlone) {
  if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
  const c10::InferenceMode no_autograd;
  const at::TensorOptions options = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
  const at::Tensor x = at::randn({4, 4096}, options), w = at::randn({1000, 4096}, options);
  const at::Tensor want = few_rows_linear(x, {w})[0];
  for (int64_t rows = 1; rows < 4; ++rows) {
    EXPECT_TRUE(at::equal(few_rows_linear(x.narrow(0, 1, rows), {w, w})[1], want.narrow(0, 1, rows))) << rows;
  }
}

// A product may begin before the one in front of it has ended: what it reads of it must be there all the same.
TEST(FewRowsLinear, EachOfManyInARowReadsWhatTheOneBeforeWrote) {
  if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
  const c10::InferenceMode no_autograd;
  at::manual_seed(2);
  const at::TensorOptions options = at::TensorOptions(at::kCUDA).dtype(at::kBFloat16);
  std::vector<at::Tensor> weights;
  for (int i = 0; i < 6; ++i) weights.push_back(at::randn({4096, 4096}, options) / 64);
  const at::Tensor first = at::randn({1, 4096}, options);
  const auto run = [&](bool wait) {
    at::Tensor x = first;
    for (int i = 0; i < 120; ++i) {
      x = few_rows_linear(x, {weights[static_cast<size_t>(i) % 6], weights[static_cast<size_t>(i + 1) % 6]})[i % 2];
      if (wait) x.sum().item();
    }
    return x;
  };
  const at::Tensor want = run(true);
  for (int again = 0; again < 5; ++again) EXPECT_TRUE(at::equal(run(false), want)) << again;
}

TEST(FewRowsLinear, OtherDtypesAndOddSizesGoThroughATen) {
  const c10::InferenceMode no_autograd;
  for (const at::Device device : devices()) {
    for (const auto& [dtype, cols] : {std::pair(at::kFloat, 64), std::pair(at::kDouble, 64), std::pair(at::kBFloat16, 63)}) {
      const at::Tensor x = at::randn({2, cols}, at::TensorOptions(device).dtype(dtype)), w = at::randn({3, cols}, x.options());
      EXPECT_TRUE(at::equal(few_rows_linear(x, {w})[0], at::linear(x, w)));
    }
  }
  EXPECT_TRUE(few_rows_linear(at::ones({1, 8}), {}).empty());
  EXPECT_THROW(few_rows_linear(at::ones({1, 8}), {at::ones({2, 7})}), c10::Error);
  EXPECT_THROW(few_rows_linear(at::ones({8}), {at::ones({2, 8})}), c10::Error);
  EXPECT_THROW(few_rows_linear(at::ones({1, 8}), {at::ones({2, 8}, at::kDouble)}), c10::Error);
}

}  // namespace
}  // namespace qkr
