#include "ops/answer_logprobs.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "ops/check.h"
#include "ops/pointwise.h"
#include "ops/registration.h"
#include "ops/schema_handle.h"

namespace qkr {
namespace {

using at::Tensor;

constexpr const char* kOp = "answer_logprobs";
constexpr int64_t kLogits = int64_t{1} << 24;  // of one slice of positions: 64 MB
constexpr int64_t kWeights = int64_t{1} << 25;  // widened at a time: 128 MB

void check(const Tensor& hidden, const Tensor& head_weight, const Tensor& positions, const Tensor& targets) {
  check_that(hidden.dim() == 2, kOp, "hidden", "be [N, D]", hidden.sym_sizes());
  check_dtype(kOp, "hidden", hidden, {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble});
  check_that(head_weight.dim() == 2 && head_weight.sym_size(0) > 0, kOp, "head_weight", "be [V, D], V at least 1", head_weight.sym_sizes());
  check_shape(kOp, "head_weight", head_weight, {head_weight.sym_size(0), hidden.sym_size(1)});
  check_dtype(kOp, "head_weight", head_weight, {hidden.scalar_type()});
  check_device(kOp, "head_weight", head_weight, "hidden", hidden);
  check_that(positions.dim() == 1, kOp, "positions", "be [A]", positions.sym_sizes());
  check_shape(kOp, "targets", targets, positions.sym_sizes());
  for (const auto& [name, ids] : {std::pair("positions", &positions), std::pair("targets", &targets)}) {
    check_dtype(kOp, name, *ids, {at::kLong});
    check_device(kOp, name, *ids, "hidden", hidden);
  }
  check_no_grad(kOp, "hidden", hidden);
  check_no_grad(kOp, "head_weight", head_weight);
}

void check_range(const char* name, const Tensor& ids, int64_t limit) {
  if (ids.numel() == 0) return;
  const auto [low, high] = at::aminmax(ids);
  const int64_t least = low.item<int64_t>(), most = high.item<int64_t>();
  TORCH_CHECK(least >= 0 && most < limit, kOp, ": ", name, " must be in 0 .. ", limit - 1, ", got ", least < 0 ? least : most);
}

std::tuple<Tensor, Tensor> meta(const Tensor& hidden, const Tensor& head_weight, const Tensor& positions, const Tensor& targets) {
  check(hidden, head_weight, positions, targets);
  return {at::empty_symint(positions.sym_sizes(), hidden.options().dtype(wide_type(hidden))),
          at::empty_symint(positions.sym_sizes(), positions.options())};
}

// z [A, V] of a few rows [A, D].
Tensor wide_logits(const Tensor& rows, const Tensor& head_weight) {
  const at::ScalarType wide = wide_type(rows);
  const Tensor x = rows.to(wide);
  if (head_weight.scalar_type() == wide) return at::mm(x, head_weight.t());
  const int64_t vocabulary = head_weight.size(0), slice = std::max<int64_t>(1, kWeights / std::max<int64_t>(1, head_weight.size(1)));
  const Tensor z = at::empty({rows.size(0), vocabulary}, x.options());
  for (int64_t begin = 0; begin < vocabulary; begin += slice) {
    const int64_t count = std::min(slice, vocabulary - begin);
    z.narrow(1, begin, count).copy_(at::mm(x, head_weight.narrow(0, begin, count).to(wide).t()));
  }
  return z;
}

// Any backend; all the arithmetic is ATen's.
std::tuple<Tensor, Tensor> composite(const Tensor& hidden, const Tensor& head_weight, const Tensor& positions, const Tensor& targets) {
  auto [logprob, rank] = meta(hidden, head_weight, positions, targets);
  check_range("positions", positions, hidden.size(0));
  check_range("targets", targets, head_weight.size(0));
  const int64_t answers = positions.size(0), vocabulary = head_weight.size(0);
  const int64_t slice = std::max<int64_t>(1, kLogits / vocabulary);
  const Tensor index = at::arange(vocabulary, positions.options());
  for (int64_t begin = 0; begin < answers; begin += slice) {
    const int64_t count = std::min(slice, answers - begin);
    const Tensor target = targets.narrow(0, begin, count).unsqueeze(1);  // [A, 1]
    const Tensor z = wide_logits(hidden.index_select(0, positions.narrow(0, begin, count)), head_weight);
    const Tensor of_target = z.gather(1, target);  // [A, 1]
    logprob.narrow(0, begin, count).copy_(of_target.squeeze(1) - z.logsumexp(1));
    const Tensor before = z.gt(of_target).logical_or_(z.eq(of_target).logical_and_(index.lt(target)));
    rank.narrow(0, begin, count).copy_(before.sum(1));
  }
  return {logprob, rank};
}

}  // namespace

std::tuple<Tensor, Tensor> answer_logprobs(const Tensor& hidden, const Tensor& head_weight, const Tensor& positions, const Tensor& targets) {
  return schema_handle<"qk_restore::answer_logprobs", decltype(answer_logprobs)>().call(hidden, head_weight, positions, targets);
}

}  // namespace qkr

QKR_LIBRARY_IMPL(CompositeExplicitAutograd, m) { m.impl("answer_logprobs", qkr::composite); }
QKR_LIBRARY_IMPL(Meta, m) { m.impl("answer_logprobs", qkr::meta); }
