// How close is close enough: measured against float64 truth, relative to what the plain composite reaches in the same dtype.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace qkr::test {

inline double ulp_at_one(at::ScalarType type) {
  switch (type) {
    case at::kDouble: return 0x1p-52;
    case at::kFloat: return 0x1p-23;
    case at::kHalf: return 0x1p-10;
    case at::kBFloat16: return 0x1p-7;
    default: throw std::runtime_error("ulp_at_one: a floating type, please");
  }
}

inline double rms(const at::Tensor& t) { return t.to(at::kDouble).square().mean().sqrt().item<double>(); }

// rms(got - want) / rms(want).
inline double relative_rms(const at::Tensor& got, const at::Tensor& want) {
  return rms(got.to(at::kDouble) - want.to(at::kDouble)) / rms(want);
}

inline double max_abs_difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

// Passes when `got` is about as close to the float64 truth as `plain` (the composite in the same dtype) is: within twice its
// error on average and four times at the worst element, plus one ulp for inputs where the composite is exact by luck.
inline void expect_as_accurate(const at::Tensor& got, const at::Tensor& plain, const at::Tensor& truth) {
  ASSERT_EQ(got.sizes(), truth.sizes());
  ASSERT_EQ(got.scalar_type(), plain.scalar_type());
  ASSERT_TRUE(got.isfinite().all().item<bool>());
  const auto error = [&](const at::Tensor& t) { return (t.to(at::kDouble) - truth).abs(); };
  const auto worst = [](const at::Tensor& e) { return e.abs().max().item<double>(); };
  const double ulp = ulp_at_one(got.scalar_type());
  EXPECT_LE(rms(error(got)), 2 * rms(error(plain)) + ulp * rms(truth));
  EXPECT_LE(worst(error(got)), 4 * worst(error(plain)) + ulp * worst(truth));
}

}  // namespace qkr::test
