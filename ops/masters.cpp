#include "ops/masters.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/adamw_split.h"
#include "ops/check.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;

// In int64, where no addition can overflow.
std::tuple<Tensor, Tensor> split_composite(const Tensor& master) {
  check_dtype("split_master", "master", master, {at::kFloat});
  const Tensor dense = master.contiguous();
  const Tensor bits = dense.view(at::kInt).to(at::kLong);
  const Tensor high =
      (bits + 0x8000).bitwise_right_shift(16);  // [-2^15, 2^15]: 2^15 would be a carry into the sign, a NaN
  const Tensor low = bits - high * 65536;
  const Tensor is_nan = dense.isnan();
  const Tensor quiet = at::where(bits < 0, -0x40, 0x7fc0).to(at::kLong);  // 0xffc0 and 0x7fc0 as int16
  return {at::where(is_nan, quiet, high).to(at::kShort).view(at::kBFloat16), low.masked_fill(is_nan, 0).to(at::kShort)};
}

void check_join(const Tensor& weight, const Tensor& master_low) {
  check_dtype("join_master", "weight", weight, {at::kBFloat16});
  check_dtype("join_master", "master_low", master_low, {at::kShort});
  check_shape("join_master", "master_low", master_low, weight.sym_sizes());
  check_device("join_master", "master_low", master_low, "weight", weight);
}

Tensor join_composite(const Tensor& weight, const Tensor& master_low) {
  check_join(weight, master_low);
  const Tensor high = weight.contiguous().view(at::kShort).to(at::kInt);
  // high * 2^16 + low stays in int32 but for one carry: the smallest negative numbers' pattern 0x8000 with a negative
  // rest, which no split makes
  return (high.bitwise_left_shift(16) + master_low.contiguous().to(at::kInt)).view(at::kFloat);
}

// Bits have no derivative: a weight that requires grad may be read all the same.
std::tuple<Tensor, Tensor> split_autograd(const Tensor& master) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  const auto [weight, low] = split_master(master);
  return {weight, low};
}

Tensor join_autograd(const Tensor& weight, const Tensor& master_low) {
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return join_master(weight, master_low);
}

}  // namespace

std::tuple<Tensor, Tensor> split_master_meta(const Tensor& master) {
  check_dtype("split_master", "master", master, {at::kFloat});
  return {at::empty_symint(master.sym_sizes(), master.options().dtype(at::kBFloat16)),
          at::empty_symint(master.sym_sizes(), master.options().dtype(at::kShort))};
}

Tensor join_master_meta(const Tensor& weight, const Tensor& master_low) {
  check_join(weight, master_low);
  return at::empty_symint(weight.sym_sizes(), weight.options().dtype(at::kFloat));
}

std::pair<Tensor, Tensor> split_master(const Tensor& master) {
  const auto [weight, low] = schema_handle<"qk_restore::split_master", decltype(split_master_meta)>().call(master);
  return {weight, low};
}

Tensor join_master(const Tensor& weight, const Tensor& master_low) {
  return schema_handle<"qk_restore::join_master", decltype(join_master)>().call(weight, master_low);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) {
  m.impl("split_master", qkr::split_composite);
  m.impl("join_master", qkr::join_composite);
}
QKR_LIBRARY_IMPL(Meta, m) {
  m.impl("split_master", qkr::split_master_meta);
  m.impl("join_master", qkr::join_master_meta);
}
QKR_LIBRARY_IMPL(Autograd, m) {
  m.impl("split_master", qkr::split_autograd);
  m.impl("join_master", qkr::join_autograd);
}
