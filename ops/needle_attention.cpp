#include "ops/needle_attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <limits>

#include "csrc/needle_attention/cpu.h"
#include "ops/check.h"
#include "ops/needle_attention_params.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;

constexpr const char* kOp = "needle_attention";
constexpr int64_t kMaxDim = 1024, kMaxKeys = std::numeric_limits<int32_t>::max() - 256;  // as the kernels count them

void check(const Tensor& q, const Tensor& k, const Tensor& query_positions, const Tensor& key_ranges) {
  check_that(q.dim() == 3 && q.sym_size(2) >= 1 && q.sym_size(2) <= kMaxDim, kOp, "q", "be [M, H, D], D 1 .. 1024", q.sym_sizes());
  check_dtype(kOp, "q", q, {at::kBFloat16, at::kFloat});
  check_that(k.dim() == 3 && k.sym_size(1) >= 1 && k.sym_size(0) <= kMaxKeys, kOp, "k", "be [N, KV, D], KV at least 1, N below 2^31 - 256",
             k.sym_sizes());
  check_that(k.sym_size(2) == q.sym_size(2), kOp, "k", "have the D of q", k.sym_size(2));
  check_that(q.sym_size(1) % k.sym_size(1) == 0, kOp, "k", "have a number of heads that divides q's", k.sym_size(1));
  check_dtype(kOp, "k", k, {q.scalar_type()});
  check_shape(kOp, "query_positions", query_positions, {q.sym_size(0)});
  check_shape(kOp, "key_ranges", key_ranges, {q.sym_size(0), 2});
  for (const auto& [name, ids] : {std::pair("query_positions", &query_positions), std::pair("key_ranges", &key_ranges)}) {
    check_dtype(kOp, name, *ids, {at::kLong});
    check_device(kOp, name, *ids, "q", q);
  }
  check_device(kOp, "k", k, "q", q);
  check_no_grad(kOp, "q", q);
  check_no_grad(kOp, "k", k);
}

Tensor cpu(const Tensor& q, const Tensor& k, const Tensor& query_positions, const Tensor& key_ranges, double scale) {
  const Tensor mass = needle_attention_meta(q, k, query_positions, key_ranges, scale);
  const NeedleAttentionTensors tensors(q, k, query_positions, key_ranges, mass);
  with_kernel_type(q, [&](auto zero) {
    const auto p = tensors.params<decltype(zero)>(scale);
    at::parallel_for(0, mass.numel(), 1, [&](int64_t begin, int64_t end) { needle_attention_cpu(p, begin, end); });
  });
  return mass;
}

}  // namespace

Tensor needle_attention_meta(const Tensor& q, const Tensor& k, const Tensor& query_positions, const Tensor& key_ranges, double) {
  check(q, k, query_positions, key_ranges);
  return at::empty_symint({q.sym_size(1), q.sym_size(0)}, q.options().dtype(at::kFloat));
}

Tensor needle_attention(const Tensor& q, const Tensor& k, const Tensor& query_positions, const Tensor& key_ranges, double scale) {
  return schema_handle<"qk_restore::needle_attention", decltype(needle_attention)>().call(q, k, query_positions, key_ranges, scale);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CPU, m) { m.impl("needle_attention", qkr::cpu); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("needle_attention", qkr::needle_attention_meta); }
