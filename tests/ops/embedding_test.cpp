#include "ops/embedding.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/gradcheck.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

Tensor by_one_hot(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
  const Tensor one_hot = tokens.unsqueeze(0).eq(at::arange(vocabulary, at::kLong).unsqueeze(1)).to(at::kDouble);
  return at::matmul(one_hot, grad.to(at::kDouble));
}

class EmbeddingOp : public test::DeviceTest {
 protected:
  // The operator against the truth and against ATen's gradient in fp32, rounded at the end.
  void expect_right(const Tensor& grad, const Tensor& tokens, int64_t vocabulary) {
    here(at::full({vocabulary, grad.size(1)}, NAN)
             .to(grad.scalar_type()));  // what memory holds before the result is in it
    const Tensor got = embedding_grad(here(grad), here(tokens), vocabulary).cpu();
    const Tensor plain =
        at::embedding_dense_backward(grad.to(at::kFloat), tokens, vocabulary, -1, false).to(grad.scalar_type());
    test::expect_as_accurate(got, plain, by_one_hot(grad, tokens, vocabulary));
  }
};

TEST_P(EmbeddingOp, RandomTokens) {
  at::manual_seed(1);
  for (const at::ScalarType type : {at::kBFloat16, at::kFloat}) {
    for (const int64_t count : {1, 31, 32, 33, 65, 4099}) {
      for (const int64_t cols : {8, 31, 1032}) {
        if (count * cols > 100000) continue;
        SCOPED_TRACE(c10::str(count, " x ", cols, " ", type));
        expect_right(at::randn({count, cols}).to(type), at::randint(0, 37, {count}, at::kLong), 37);
        expect_right(at::randn({count, cols}).to(type), at::randint(0, 300, {count}, at::kLong), 300);
      }
    }
  }
}

// Runs that end on a piece's edge (32), begin there, cover pieces and groups of them (512) wholly, and one token for all.
TEST_P(EmbeddingOp, RunsOfEveryLength) {
  at::manual_seed(2);
  const std::vector<std::vector<int64_t>> lengths = {{32, 32},    {31, 33},       {33, 31}, {1, 62, 1},   {64, 64},
                                                     {1, 32, 31}, {1, 31, 96, 5}, {500},    {16, 128, 16},
                                                     {512, 512},  {511, 1, 544}, {31, 1024, 5}, {480, 545, 40}, {513, 700, 2000, 2},
                                                     {1, 511, 512, 513}, {4099}};
  for (const auto& runs : lengths) {
    std::vector<int64_t> tokens;
    for (size_t r = 0; r < runs.size(); ++r) tokens.insert(tokens.end(), runs[r], static_cast<int64_t>(3 * r + 1));
    const Tensor sorted = at::tensor(tokens, at::kLong),
                 shuffled = sorted.index_select(0, at::randperm(sorted.size(0), at::kLong));
    for (const Tensor& order : {sorted, shuffled}) {
      expect_right(at::randn({sorted.size(0), 24}), order, 30);
      expect_right(at::randn({sorted.size(0), 24}).to(at::kBFloat16), order, 30);
    }
  }
}

// A bf16 sum would stop growing at 256.
TEST_P(EmbeddingOp, ACommonTokenIsAddedUpInFp32) {
  const Tensor got = embedding_grad(here(at::ones({1000, 8}).to(at::kBFloat16)), here(at::zeros({1000}, at::kLong)), 2);
  EXPECT_EQ(got[0][0].item<double>(), 1000);
  EXPECT_EQ(got[1].abs().max().item<double>(), 0);
}

TEST_P(EmbeddingOp, IsTheGradientOfTheLookup) {
  at::manual_seed(3);
  const Tensor weight = here(at::randn({50, 16})), tokens = here(at::randint(0, 50, {70}, at::kLong)),
               upstream = here(at::randn({70, 16}));
  const auto out = test::differentiated([](const test::Tensors& t) { return test::Tensors{embed_tokens(t[0], t[1])}; },
                                        {weight, tokens}, {upstream});
  EXPECT_TRUE(same_bytes(out.outputs[0], weight.index_select(0, tokens)));
  EXPECT_TRUE(same_bytes(out.grads[0], embedding_grad(upstream, tokens, 50)));
}

TEST_P(EmbeddingOp, StridedRowsAndNoTokens) {
  at::manual_seed(4);
  const Tensor tokens = here(at::randint(0, 9, {40}, at::kLong)), grad = here(at::randn({40, 16}));
  const Tensor want = embedding_grad(grad, tokens, 9);
  EXPECT_TRUE(same_bytes(embedding_grad(at::cat({grad, grad}, 1).narrow(1, 0, 16), tokens, 9), want));
  EXPECT_TRUE(same_bytes(embedding_grad(grad.t().contiguous().t(), tokens, 9), want));
  EXPECT_TRUE(test::max_abs_difference(embedding_grad(at::cat({grad, grad}, 1).narrow(1, 1, 16).copy_(grad), tokens, 9),
                                       want) == 0);
  EXPECT_TRUE(same_bytes(embedding_grad(grad.narrow(0, 0, 0), tokens.narrow(0, 0, 0), 3), at::zeros({3, 16})));
}

TEST_P(EmbeddingOp, TwoRunsAreBitEqual) {
  at::manual_seed(5);
  const Tensor grad = here(at::randn({5000, 64}).to(at::kBFloat16)),
               tokens = here(at::randint(0, 20, {5000}, at::kLong));
  EXPECT_TRUE(same_bytes(embedding_grad(grad, tokens, 100), embedding_grad(grad, tokens, 100)));
}

TEST_P(EmbeddingOp, MetaParityAndErrors) {
  const Tensor grad = here(at::randn({5, 8})), tokens = here(at::arange(5, at::kLong));
  test::expect_meta_parity([](const test::Tensors& t) { return test::Tensors{embedding_grad(t[0], t[1], 7)}; },
                           {grad, tokens});
  test::expect_meta_parity([](const test::Tensors& t) { return test::Tensors{embed_tokens(t[0], t[1])}; },
                           {grad, tokens});
  const std::string message = QKR_MESSAGE_OF(embedding_grad(grad, tokens.to(at::kInt), 7));
  EXPECT_NE(message.find("embedding_grad: tokens must be Long, got Int"), std::string::npos) << message;
}

QKR_ON_EVERY_DEVICE(EmbeddingOp);

}  // namespace
}  // namespace qkr
