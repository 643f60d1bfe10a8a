#include "trainer/model/rope.h"

#include <ATen/ATen.h>

#include <cmath>

namespace qkr {
namespace {

constexpr double kTwoPi = 6.283185307179586476925286766559;

// Long wavelengths slow down by `factor`, short ones stay, those between are blended (Llama 3.1).
at::Tensor llama3(const at::Tensor& inv, const RopeScaling& s) {
  const double low_wavelength = s.original_max_position / s.low_freq_factor;
  const double high_wavelength = s.original_max_position / s.high_freq_factor;
  const at::Tensor wavelength = kTwoPi / inv;
  const at::Tensor smooth =
      (s.original_max_position / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
  const at::Tensor blended = (1 - smooth) * inv / s.factor + smooth * inv;
  const at::Tensor slowed = at::where(wavelength > low_wavelength, inv / s.factor, inv);
  const at::Tensor between = (wavelength <= low_wavelength).logical_and(wavelength >= high_wavelength);
  return at::where(between, blended, slowed);
}

// The pair whose wavelength turns `rotations` times within the original context (YaRN, arXiv 2309.00071, eq. 23).
double yarn_pair(double rotations, int64_t dim, double theta, double original) {
  return static_cast<double>(dim) * std::log(original / (rotations * kTwoPi)) / (2 * std::log(theta));
}

at::Tensor yarn(const at::Tensor& inv, double theta, int64_t dim, const RopeScaling& s, double* factor) {
  double low = yarn_pair(s.beta_fast, dim, theta, s.original_max_position);
  double high = yarn_pair(s.beta_slow, dim, theta, s.original_max_position);
  if (s.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;
  const at::Tensor ramp = ((at::arange(dim / 2, at::kFloat) - low) / (high - low)).clamp(0, 1);
  const auto magnitude = [&](double scale) { return s.factor <= 1 ? 1.0 : 0.1 * scale * std::log(s.factor) + 1.0; };
  if (s.attention_factor) {
    *factor = *s.attention_factor;
  } else if (s.mscale.value_or(0) != 0 && s.mscale_all_dim.value_or(0) != 0) {
    *factor = magnitude(*s.mscale) / magnitude(*s.mscale_all_dim);
  } else {
    *factor = magnitude(1.0);
  }
  return inv / s.factor * ramp + inv * (1 - ramp);
}

}  // namespace

at::Tensor rope_frequencies(double theta, int64_t dim, const RopeScaling& scaling, double* factor) {
  *factor = 1.0;
  // fp32 throughout, like the official code: at 256K positions one ulp of a frequency is a visible angle.
  const at::Tensor exponent = at::arange(0, dim, 2, at::kLong).to(at::kFloat) / static_cast<double>(dim);
  const at::Tensor inv = at::reciprocal(at::pow(theta, exponent));
  if (scaling.type == "linear") return inv / scaling.factor;
  if (scaling.type == "llama3") return llama3(inv, scaling);
  if (scaling.type == "yarn") return yarn(inv, theta, dim, scaling, factor);
  return inv;
}

Rotary::Rotary(const Architecture& a, at::Device device) {
  frequencies_ = rope_frequencies(a.rope_theta, a.rope_dim, a.rope_scaling, &factor_).to(device);
}

RotaryTable Rotary::table(const at::Tensor& positions, at::ScalarType dtype) const {
  const at::Tensor angles = positions.to(at::kFloat).unsqueeze(1) * frequencies_.unsqueeze(0);  // [N, D/2]
  return {(angles.cos() * factor_).to(dtype), (angles.sin() * factor_).to(dtype)};
}

}  // namespace qkr
