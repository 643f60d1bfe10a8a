// One test body for every device: TEST_P(MyOp, DoesThis) with class MyOp : DeviceTest, and QKR_ON_EVERY_DEVICE(MyOp).
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <string>

namespace qkr::test {

class DeviceTest : public ::testing::TestWithParam<at::DeviceType> {
 protected:
  void SetUp() override {
    if (GetParam() == at::kCUDA && !at::hasCUDA()) GTEST_SKIP() << "needs a GPU, and there is none";
  }
  at::Device device() const { return at::Device(GetParam(), GetParam() == at::kCUDA ? 0 : -1); }
  bool on_cuda() const { return GetParam() == at::kCUDA; }
  at::Tensor here(const at::Tensor& t) const { return t.to(device()); }
};

inline std::string device_name(const ::testing::TestParamInfo<at::DeviceType>& info) {
  return info.param == at::kCUDA ? "cuda" : "cpu";
}

// True if both hold the same bytes: equal for NaNs, different for +0 and -0.
inline bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.detach().cpu().contiguous(), y = b.detach().cpu().contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

}  // namespace qkr::test

#define QKR_ON_EVERY_DEVICE(suite) \
  INSTANTIATE_TEST_SUITE_P(, suite, ::testing::Values(at::kCPU, at::kCUDA), qkr::test::device_name)
