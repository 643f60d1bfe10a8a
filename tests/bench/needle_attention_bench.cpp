// Attention mass on a needle against the rate of a copy of K, and beside ATen's matmul and softmax over [H, M, N].
#include "ops/needle_attention.h"

#include "tests/bench/rows.h"
#include "tests/bench/support.h"

namespace qkr::bench {
namespace {

using at::Tensor;

struct Problem {
  Tensor q, k, positions, ranges;
  double scale;

  Problem(int64_t queries, int64_t heads, int64_t kv_heads, int64_t keys, int64_t dim, at::ScalarType type)
      : q((3 * at::randn({queries, heads, dim}, on_device(at::kFloat))).to(type)),
        k(at::randn({keys, kv_heads, dim}, on_device(at::kFloat)).to(type)),
        positions(at::arange(keys - queries, keys, on_device(at::kLong))),
        ranges(at::tensor({keys / 3, keys / 3 + 30}, at::kLong).to(device()).repeat({queries, 1})),
        scale(1 / std::sqrt(static_cast<double>(dim))) {}

  // What a program without the operator does.
  Tensor composite(at::ScalarType type) const {
    const int64_t queries = q.size(0), heads = q.size(1), kv_heads = k.size(1), keys = k.size(0);
    const Tensor rows = q.to(type).view({queries, kv_heads, heads / kv_heads, q.size(2)}).permute({1, 2, 0, 3}).reshape({kv_heads, -1, q.size(2)});
    Tensor logits = at::matmul(rows, k.to(type).permute({1, 2, 0})).mul_(scale).view({kv_heads, heads / kv_heads, queries, keys});
    logits.masked_fill_(at::arange(keys, positions.options()).gt(positions.unsqueeze(1)), -INFINITY);
    const Tensor p = at::softmax(logits, -1, type == at::kBFloat16 ? at::kFloat : type);
    const int64_t begin = keys / 3;
    return p.narrow(-1, begin, 30).sum(-1).view({heads, queries});
  }
};

Accuracy error(const Problem& p) {
  const double e = error_of(needle_attention(p.q, p.k, p.positions, p.ranges, p.scale), p.composite(at::kDouble));
  return {concat("rms error ", scientific(e, 1)), e <= 1e-5};
}

Case make(const std::shared_ptr<const Problem>& p) {
  // A copy moves each byte twice: what K's bytes take when they are read only is what the same number of copied bytes take.
  return {{Limit::kCopy, static_cast<double>(p->k.nbytes())},
          {{"ours", [p] { needle_attention(p->q, p->k, p->positions, p->ranges, p->scale); }, [p] { return error(*p); }},
           {"ATen matmul, softmax", [p] { p->composite(p->q.scalar_type()); }}}};
}

}  // namespace

QKR_BENCH(needle_attention) {
  const auto add = [](int64_t queries, int64_t heads, int64_t kv_heads, int64_t keys, int64_t dim, at::ScalarType type) {
    const std::string shape = concat(queries, " queries, ", heads, "/", kv_heads, " heads of ", dim, ", ", keys, " keys, ",
                                     type == at::kBFloat16 ? "bf16" : "fp32");
    add_case("needle_attention", shape,
             [=] { return make(std::make_shared<const Problem>(queries, heads, kv_heads, keys, dim, type)); });
  };
  if (!on_gpu()) {
    add(3, 4, 2, 300, 32, at::kBFloat16);
    return;
  }
  for (const int64_t queries : {1, 8, 32}) add(queries, 32, 8, 262144, 128, at::kBFloat16);
  add(8, 32, 8, 32768, 128, at::kBFloat16);
  add(8, 9, 3, 65536, 64, at::kBFloat16);
  add(8, 32, 8, 65536, 128, at::kFloat);
}

}  // namespace qkr::bench
