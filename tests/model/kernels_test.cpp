// What serves a layer follows from its shape, the device and the dtype; what would be slow on a GPU is named.
#include "trainer/model/kernels.h"

#include <gtest/gtest.h>

#include "tests/support/fixtures.h"

namespace qkr {
namespace {

Architecture hypenet(int64_t lightning_head_dim) {
  const auto file = test::source_dir() / "tests" / "data" / "models" / "hypenet-tiny" / "model" / "config.json";
  Architecture a = parse_architecture(test::read_file(file), "config.json");
  for (Layer& layer : a.layers) {
    if (layer.mixer == MixerKind::kLightning) layer.lightning.head_dim = lightning_head_dim;
  }
  return a;
}

size_t first_lightning(const Architecture& a) {
  size_t layer = 0;
  while (a.layers[layer].mixer != MixerKind::kLightning) ++layer;
  return layer;
}

const at::Device kGpu(at::kCUDA, 0), kCpu(at::kCPU);

TEST(MixerKernels, LightningHasOneForHeadsOf64And128OnAGpu) {
  for (const int64_t dim : {64, 128}) {
    const Architecture a = hypenet(dim);
    EXPECT_NE(mixer_kernel(a, first_lightning(a), kGpu, at::kBFloat16).name.find("wgmma"), std::string::npos);
    EXPECT_FALSE(mixer_kernel(a, first_lightning(a), kGpu, at::kFloat).slow);
    EXPECT_EQ(slow_kernel_refusal(a, kGpu, at::kBFloat16), "");
  }
}

TEST(MixerKernels, WhatWouldBeSlowOnAGpuIsRefusedByNameAndOnACpuIsNot) {
  const Architecture a = hypenet(48);
  const std::string layer = std::to_string(first_lightning(a));
  const std::string refusal = slow_kernel_refusal(a, kGpu, at::kBFloat16);
  EXPECT_EQ(refusal.find("model: layer " + layer + " must have a kernel on cuda:0 (model.allow_slow: true"), 0u) << refusal;
  EXPECT_NE(refusal.find("not BFloat16 with 48"), std::string::npos) << refusal;
  EXPECT_EQ(slow_kernel_refusal(a, kCpu, at::kFloat), "");
  EXPECT_EQ(mixer_kernel(a, first_lightning(a), kCpu, at::kFloat).name, "batched products over chunks of 64, fp32 state");
}

}  // namespace
}  // namespace qkr
