#include "ops/round_once.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>

#include "ops/check.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;

Tensor autograd_key(const Tensor& x, at::ScalarType dtype) {
  check_no_grad("round_once", "x", x);
  at::AutoDispatchBelowADInplaceOrView below_autograd;
  return round_once(x, dtype);
}

}  // namespace

Tensor round_once_meta(const Tensor& x, at::ScalarType dtype) {
  check_dtype("round_once", "x", x, {at::kDouble});
  return at::empty_symint(x.sym_sizes(), x.options().dtype(dtype));
}

Tensor round_once_composite(const Tensor& x, at::ScalarType dtype) {
  check_dtype("round_once", "x", x, {at::kDouble});
  const Tensor dense = x.contiguous();
  if (dtype != at::kBFloat16 && dtype != at::kHalf) return dense.to(dtype, /*non_blocking=*/false, /*copy=*/true);
  // To odd first (Boldo & Melquiond 2008): towards zero, and the last bit set if anything was lost. fp32 has more than
  // two bits to spare over both types, so the second rounding then sees which side of a tie x was on.
  const Tensor nearest = dense.to(at::kFloat);
  const Tensor back = nearest.to(at::kDouble);
  const Tensor outward = back.abs() > dense.abs();
  const Tensor inexact = (back != dense).logical_and_(dense.isfinite());
  const Tensor bits = nearest.view(at::kInt) - outward.to(at::kInt);
  return bits.bitwise_or(inexact.to(at::kInt)).view(at::kFloat).to(dtype);
}

Tensor round_once(const Tensor& x, at::ScalarType dtype) {
  return schema_handle<"qk_restore::round_once", decltype(round_once)>().call(x, dtype);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("round_once", qkr::round_once_composite); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("round_once", qkr::round_once_meta); }
QKR_LIBRARY_IMPL(Autograd, m) { m.impl("round_once", qkr::autograd_key); }
