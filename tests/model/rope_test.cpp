// Rotary frequencies of every scaling rule against formulas written here in double.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "ops/qk_norm_rope.h"
#include "tests/model/support.h"
#include "tests/support/accuracy.h"
#include "trainer/model/rope.h"

namespace qkr {
namespace {

using test::Json;
using test::of_type;
using test::parsed;
using test::with;

struct Frequencies {
  std::vector<double> values;
  double factor = 1;
};

std::vector<double> plain(double theta, int64_t dim) {
  std::vector<double> inv;
  for (int64_t j = 0; j < dim / 2; ++j)
    inv.push_back(std::pow(theta, -2.0 * static_cast<double>(j) / static_cast<double>(dim)));
  return inv;
}

Frequencies ours(const Json& config) {
  const Architecture a = parsed(config);
  Frequencies f;
  const at::Tensor inv = rope_frequencies(a.rope_theta, a.rope_dim, a.rope_scaling, &f.factor);
  EXPECT_EQ(inv.scalar_type(), at::kFloat);
  for (int64_t j = 0; j < inv.size(0); ++j) f.values.push_back(inv[j].item<double>());
  return f;
}

void expect_close(const Frequencies& got, const std::vector<double>& want, double factor) {
  ASSERT_EQ(got.values.size(), want.size());
  for (size_t j = 0; j < want.size(); ++j) EXPECT_NEAR(got.values[j], want[j], 3e-6 * want[j]) << "pair " << j;
  EXPECT_NEAR(got.factor, factor, 1e-12);
}

Json llama(double theta, const Json& scaling) {
  return with(with(of_type("llama"), "rope_theta", theta), "rope_scaling", scaling);
}

TEST(Rope, DefaultAndLinear) {
  std::vector<double> want = plain(5e5, 128);
  expect_close(ours(llama(5e5, nullptr)), want, 1);
  expect_close(ours(llama(5e5, {{"rope_type", "default"}})), want, 1);
  for (double& inv : want) inv /= 3;
  expect_close(ours(llama(5e5, {{"rope_type", "linear"}, {"factor", 3.0}})), want, 1);
  expect_close(ours(llama(5e5, {{"type", "linear"}, {"factor", 3}})), want, 1);  // the older spelling
}

// Llama 3.1's numbers. Each of the three regions must be met.
TEST(Rope, Llama3) {
  const double factor = 8, low = 1, high = 4, original = 8192;
  std::vector<double> want;
  int regions[3] = {};
  for (const double inv : plain(5e5, 128)) {
    const double wavelength = 2 * M_PI / inv;
    if (wavelength < original / high) {
      want.push_back(inv);
      ++regions[0];
    } else if (wavelength > original / low) {
      want.push_back(inv / factor);
      ++regions[1];
    } else {
      const double smooth = (original / wavelength - low) / (high - low);
      want.push_back((1 - smooth) * inv / factor + smooth * inv);
      ++regions[2];
    }
  }
  for (const int count : regions) ASSERT_GT(count, 2);
  expect_close(ours(llama(5e5, {{"rope_type", "llama3"},
                                {"factor", factor},
                                {"low_freq_factor", low},
                                {"high_freq_factor", high},
                                {"original_max_position_embeddings", original}})),
               want, 1);
}

struct Yarn {
  double factor = 4, original = 32768, fast = 32, slow = 1;
  bool truncate = true;
};

std::vector<double> yarn_by_definition(double theta, int64_t dim, const Yarn& y) {
  const auto pair_of = [&](double turns) {  // j with original / (2 pi) * theta^(-2j/dim) = turns
    return static_cast<double>(dim) / 2 * std::log(y.original / (2 * M_PI * turns)) / std::log(theta);
  };
  double begin = pair_of(y.fast), end = pair_of(y.slow);
  if (y.truncate) {
    begin = std::floor(begin);
    end = std::ceil(end);
  }
  begin = std::max(begin, 0.0);
  end = std::min(end, static_cast<double>(dim - 1));
  std::vector<double> want;
  int64_t j = 0;
  for (const double inv : plain(theta, dim)) {
    const double share = std::min(1.0, std::max(0.0, (static_cast<double>(j++) - begin) / (end - begin)));
    want.push_back(share * inv / y.factor + (1 - share) * inv);
  }
  return want;
}

TEST(Rope, Yarn) {
  const Json base = {{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const double standard = 0.1 * std::log(4.0) + 1;
  expect_close(ours(llama(1e6, base)), yarn_by_definition(1e6, 128, {}), standard);
  Yarn untruncated;
  untruncated.truncate = false;
  expect_close(ours(llama(1e6, with(base, "truncate", false))), yarn_by_definition(1e6, 128, untruncated), standard);
  Yarn betas;
  betas.fast = 16;
  betas.slow = 2;
  expect_close(ours(llama(1e6, with(with(base, "beta_fast", 16), "beta_slow", 2))), yarn_by_definition(1e6, 128, betas),
               standard);
  EXPECT_NEAR(ours(llama(1e6, with(base, "attention_factor", 0.75))).factor, 0.75, 1e-12);
  const double ratio = (0.1 * 1.5 * std::log(4.0) + 1) / (0.1 * 0.5 * std::log(4.0) + 1);
  EXPECT_NEAR(ours(llama(1e6, with(with(base, "mscale", 1.5), "mscale_all_dim", 0.5))).factor, ratio, 1e-12);
  EXPECT_NEAR(ours(llama(1e6, with(base, "mscale", 1.5))).factor, standard, 1e-12);  // both, or neither
  EXPECT_NEAR(ours(llama(1e6, with(base, "factor", 0.5))).factor, 1, 1e-12);
}

TEST(Rope, YarnWithoutAnOriginalLengthTakesTheModelsOwn) {
  Yarn own;
  own.original = 4096;
  const Json config = with(llama(1e6, {{"type", "yarn"}, {"factor", 4.0}}), "max_position_embeddings", 4096);
  expect_close(ours(config), yarn_by_definition(1e6, 128, own), 0.1 * std::log(4.0) + 1);
}

// transformers 5 writes theta and scaling into one object.
TEST(Rope, ParametersInOneObject) {
  for (const char* type : {"llama", "qwen2", "qwen3"}) {
    Json config = with(of_type(type), "rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "default"}});
    config["head_dim"] = 128;
    expect_close(ours(config), plain(5e5, 128), 1);
    config["rope_parameters"] = {{"rope_theta", 5e5}, {"rope_type", "linear"}, {"factor", 2.0}};
    std::vector<double> want = plain(5e5, 128);
    for (double& inv : want) inv /= 2;
    expect_close(ours(config), want, 1);
    EXPECT_NE(
        test::refusal(with(config, "rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "dynamic"}, {"factor", 2.0}}))
            .find("rope_parameters: rope_type"),
        std::string::npos);
  }
}

TEST(Rope, TableTurnsPairsOfHalves) {
  const Architecture a = parsed(with(with(of_type("llama"), "head_dim", 8), "rope_theta", 100.0));
  const Rotary rotary(a, at::kCPU);
  const at::Tensor positions = at::tensor({0, 3, 700}, at::kLong);
  const at::Tensor x = at::arange(48, at::kDouble).view({3, 2, 8}).sin();
  const RotaryTable table = rotary.table(positions, at::kDouble);
  const at::Tensor turned = qk_norm_rope(x, {}, table.cos, table.sin, {}, 0);
  const std::vector<double> inv = plain(100, 8);
  for (int64_t n = 0; n < 3; ++n) {
    for (int64_t h = 0; h < 2; ++h) {
      for (int64_t j = 0; j < 4; ++j) {
        const double angle = positions[n].item<double>() * inv[j];
        const double low = x[n][h][j].item<double>(), high = x[n][h][j + 4].item<double>();
        EXPECT_NEAR(turned[n][h][j].item<double>(), low * std::cos(angle) - high * std::sin(angle), 1e-4)
            << n << " " << j;
        EXPECT_NEAR(turned[n][h][j + 4].item<double>(), high * std::cos(angle) + low * std::sin(angle), 1e-4)
            << n << " " << j;
      }
    }
  }
}

}  // namespace
}  // namespace qkr
