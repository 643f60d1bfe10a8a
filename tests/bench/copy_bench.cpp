// What moves weights and changes nothing: plain restores, split masters, the last rounding; all against at::copy_.
#include "ops/adamw_split.h"
#include "ops/procrustes.h"
#include "tests/bench/support.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {
namespace {

using at::Tensor;

Accuracy same_values(const Tensor& got, const Tensor& want) {
  const bool same = got.scalar_type() == want.scalar_type() && at::equal(got, want);
  return {same ? "exact" : "differs", same};
}

// Twice the bytes of a tensor, as one copy_ moves them.
Contender copy_of(const std::string& name, int64_t bytes) {
  const Tensor from = at::randint(256, {bytes}, on_device(at::kByte)), to = at::empty_like(from);
  return {name, [from, to] { Tensor(to).copy_(from); }};
}

// W_Q and W_K of every softmax layer, from a snapshot on the device, a call each, as restore() does it; the peer is one flat copy.
Case plain(int64_t layers, int64_t q_rows, int64_t k_rows, int64_t d) {
  std::vector<Tensor> kept, live;
  for (int64_t i = 0; i < layers; ++i) {
    for (const int64_t rows : {q_rows, k_rows}) {
      kept.push_back(at::randn({rows, d}, on_device(at::kBFloat16)));
      live.push_back(at::empty_like(kept.back()));
    }
  }
  const auto run = [kept, live] {
    for (size_t i = 0; i < kept.size(); ++i) Tensor(live[i]).copy_(kept[i]);
  };
  const auto check = [=] {
    run();
    return same_values(live.back(), kept.back());
  };
  const int64_t bytes = layers * (q_rows + k_rows) * d * 2;
  return {{Limit::kCopy, 2.0 * static_cast<double>(bytes)}, {{"ours", run, check}, copy_of("one copy_", bytes)}};
}

Case split(int64_t elements) {
  const Tensor master = at::randn({elements}, on_device(at::kFloat));
  const auto check = [master] {
    const auto [high, low] = split_master(master);
    return same_values(join_master(high, low), master);
  };
  return {{Limit::kCopy, 8.0 * static_cast<double>(elements)},
          {{"ours", [master] { split_master(master); }, check}, copy_of("copy_", 4 * elements)}};
}

Case join(int64_t elements) {
  const Tensor master = at::randn({elements}, on_device(at::kFloat));
  const auto [high, low] = split_master(master);
  return {{Limit::kCopy, 8.0 * static_cast<double>(elements)},
          {{"ours", [h = high, l = low] { join_master(h, l); }, [=, h = high, l = low] { return same_values(join_master(h, l), master); }},
           copy_of("copy_", 4 * elements)}};
}

// fp64 numbers a hair below the middle between two bf16, where a rounding by way of fp32 goes up half of the time.
Case round(int64_t rows, int64_t d) {
  const Tensor below = at::randn({rows, d}, on_device(at::kFloat)).to(at::kBFloat16);
  const Tensor middle = below.to(at::kFloat).view(at::kInt).bitwise_or(0x8000).view(at::kFloat);
  const Tensor x = middle.to(at::kDouble) * (1 - 0x1p-40);
  return {{Limit::kCopy, 10.0 * static_cast<double>(x.numel())},
          {{"ours", [x] { round_once(x, at::kBFloat16); }, [=] { return same_values(round_once(x, at::kBFloat16), below); }},
           {"Tensor::to", [x] { x.to(at::kBFloat16); },
            [=] { return Accuracy{fixed(100 * x.to(at::kBFloat16).ne(below).to(at::kDouble).mean().item<double>(), 0) + " % wrong by a bit"}; }}}};
}

}  // namespace

QKR_BENCH(copy) {
  const int64_t elements = on_gpu() ? 1 << 27 : 1 << 16;
  if (on_gpu()) {
    add_case("plain restore", "9B: 9 x ([4096, 4096] + [1024, 4096]) bf16", [] { return plain(9, 4096, 1024, 4096); });
    add_case("plain restore", "2B: 7 x ([2048, 2048] + [1024, 2048]) bf16", [] { return plain(7, 2048, 1024, 2048); });
  } else {
    add_case("plain restore", "2 x ([64, 64] + [32, 64]) bf16", [] { return plain(2, 64, 32, 64); });
  }
  add_case("split_master", concat(elements), [=] { return split(elements); });
  add_case("join_master", concat(elements), [=] { return join(elements); });
  const int64_t rows = on_gpu() ? 5120 : 96, d = on_gpu() ? 4096 : 64;
  add_case("round_once", concat("[", rows, ", ", d, "] fp64 to bf16"), [=] { return round(rows, d); });
}

}  // namespace qkr::bench
