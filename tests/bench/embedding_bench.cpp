// The embedding gradient against PyTorch's, on tokens as frequent as words are (Zipf) and on one token for all.
#include "ops/embedding.h"

#include <cmath>

#include "tests/bench/rows.h"
#include "tests/bench/support.h"

namespace qkr::bench {
namespace {

using at::Tensor;

struct Problem {
  Tensor grad, tokens;  // [N, D], [N]
  int64_t vocabulary;

  Problem(int64_t count, int64_t cols, int64_t vocab, bool one_token)
      : grad(random_bf16({count, cols})), vocabulary(vocab) {
    const Tensor uniform = at::rand({count}, on_device(at::kDouble));
    tokens = one_token
                 ? at::zeros({count}, on_device(at::kLong))
                 : (uniform * std::log(static_cast<double>(vocab))).exp().sub_(1).to(at::kLong).clamp(0, vocab - 1);
  }
};

// The rows of the 64 most frequent tokens, in fp64.
Accuracy error(const Problem& p) {
  constexpr int64_t kRows = 64;
  const Tensor rows = at::arange(kRows, on_device(at::kLong)).unsqueeze(1).eq(p.tokens.unsqueeze(0)).to(at::kDouble);
  return verdict(error_of(embedding_grad(p.grad, p.tokens, p.vocabulary).narrow(0, 0, kRows),
                          at::matmul(rows, p.grad.to(at::kDouble))));
}

Case make(int64_t count, int64_t cols, int64_t vocabulary, bool one_token) {
  const auto p = std::make_shared<const Problem>(count, cols, vocabulary, one_token);
  const double bytes = static_cast<double>(p->grad.nbytes()) + 2.0 * static_cast<double>(vocabulary * cols);
  return {{Limit::kCopy, bytes},
          {{"ours", [p] { embedding_grad(p->grad, p->tokens, p->vocabulary); }, [p] { return error(*p); }},
           {"torch", [p] { at::embedding_dense_backward(p->grad, p->tokens, p->vocabulary, -1, false); }}}};
}

}  // namespace

QKR_BENCH(embedding_grad) {
  const int64_t count = on_gpu() ? 32768 : 64, cols = on_gpu() ? 4096 : 32, vocabulary = on_gpu() ? 151936 : 100;
  const std::string shape = concat("[", count, ", ", cols, "] to ", vocabulary, " rows, bf16");
  add_case("embedding_grad", shape, [=] { return make(count, cols, vocabulary, false); });
  add_case("embedding_grad", shape + ", one token", [=] { return make(count, cols, vocabulary, true); });
}

}  // namespace qkr::bench
