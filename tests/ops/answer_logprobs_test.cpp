#include "ops/answer_logprobs.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;

struct Case {
  Tensor hidden, head, positions, targets;
};

Case make_case(int64_t rows, int64_t dim, int64_t vocabulary, int64_t answers, at::ScalarType type, at::Device device) {
  at::manual_seed(11);
  Case c;
  c.hidden = at::randn({rows, dim}).to(type).to(device);
  c.head = (at::randn({vocabulary, dim}) * 0.1).to(type).to(device);
  c.positions = at::randint(rows, {answers}, at::kLong).to(device);
  c.targets = at::randint(vocabulary, {answers}, at::kLong).to(device);
  return c;
}

// The definition: all logits, log_softmax, argsort.
Tensor plain_logprobs(const Case& c, at::ScalarType type) {
  const Tensor logits = at::mm(c.hidden.to(type).index_select(0, c.positions), c.head.to(type).t());
  return at::log_softmax(logits, 1).gather(1, c.targets.unsqueeze(1)).squeeze(1);
}

using AnswerLogprobs = test::DeviceTest;
QKR_ON_EVERY_DEVICE(AnswerLogprobs);

TEST_P(AnswerLogprobs, AsAccurateAsTheWholeHead) {
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf, at::kFloat, at::kDouble}) {
    std::vector<std::array<int64_t, 4>> sizes = {{1, 1, 1, 1}, {9, 24, 50, 5}, {40, 64, 1000, 33}};
    if (type == at::kBFloat16) sizes.push_back({70, 240, 140000, 121});  // more than one slice of positions and of the vocabulary
    for (const auto& [rows, dim, vocabulary, answers] : sizes) {
      SCOPED_TRACE(c10::str(type, " ", vocabulary));
      const Case c = make_case(rows, dim, vocabulary, answers, type, device());
      const auto [logprob, rank] = answer_logprobs(c.hidden, c.head, c.positions, c.targets);
      const at::ScalarType wide = type == at::kDouble ? at::kDouble : at::kFloat;
      test::expect_as_accurate(logprob, plain_logprobs(c, wide), plain_logprobs(c, at::kDouble));
      // As many are above in float64, but for logits nearer to each other than fp32 tells apart.
      const Tensor logits = at::mm(c.hidden.to(at::kDouble).index_select(0, c.positions), c.head.to(at::kDouble).t());
      const Tensor of_target = logits.gather(1, c.targets.unsqueeze(1));
      const Tensor least = logits.gt(of_target + 1e-5).sum(1), most = logits.gt(of_target - 1e-5).sum(1);
      EXPECT_TRUE(rank.ge(least).logical_and(rank.le(most)).all().item<bool>());
    }
  }
}

TEST(AnswerLogprobsRank, IsThePlaceInTheOrder) {
  const Tensor hidden = at::tensor({1.0f, -1.0f}).unsqueeze(1);            // [2, 1]
  const Tensor head = at::tensor({3.0f, 7.0f, 7.0f, -2.0f, 0.0f}).unsqueeze(1);  // [5, 1]
  const auto rank_of = [&](int64_t position, int64_t target) {
    return std::get<1>(answer_logprobs(hidden, head, at::tensor({position}, at::kLong), at::tensor({target}, at::kLong))).item<int64_t>();
  };
  EXPECT_EQ(rank_of(0, 1), 0);  // of two equal ones greedy decoding takes the first
  EXPECT_EQ(rank_of(0, 2), 1);
  EXPECT_EQ(rank_of(0, 0), 2);
  EXPECT_EQ(rank_of(0, 3), 4);
  EXPECT_EQ(rank_of(1, 3), 0);  // the same head from another position
  EXPECT_EQ(rank_of(1, 2), 4);
}

TEST(AnswerLogprobsRank, HugeLogitsStayFinite) {
  const Tensor hidden = at::full({1, 1}, 1e4), head = at::tensor({1.0f, -1.0f}).unsqueeze(1);
  const auto [logprob, rank] = answer_logprobs(hidden, head, at::tensor({0, 0}, at::kLong), at::tensor({0, 1}, at::kLong));
  EXPECT_EQ(logprob[0].item<double>(), 0);
  EXPECT_EQ(logprob[1].item<double>(), -2e4);
  EXPECT_EQ(rank[1].item<int64_t>(), 1);
}

TEST(AnswerLogprobsShapes, NoAnswersAndMeta) {
  Case c = make_case(4, 8, 10, 0, at::kFloat, at::kCPU);
  EXPECT_EQ(std::get<0>(answer_logprobs(c.hidden, c.head, c.positions, c.targets)).sizes(), at::IntArrayRef({0}));
  c = make_case(4, 8, 10, 3, at::kBFloat16, at::kCPU);
  const auto [logprob, rank] =
      answer_logprobs(c.hidden.to(at::kMeta), c.head.to(at::kMeta), c.positions.to(at::kMeta), c.targets.to(at::kMeta));
  EXPECT_TRUE(logprob.is_meta());
  EXPECT_EQ(logprob.scalar_type(), at::kFloat);
  EXPECT_EQ(rank.scalar_type(), at::kLong);
  EXPECT_EQ(rank.sizes(), at::IntArrayRef({3}));
}

TEST(AnswerLogprobsChecks, SayWhatIsWrong) {
  const Case good = make_case(4, 8, 10, 3, at::kFloat, at::kCPU);
  const auto message = [&](auto&& change) {
    Case c = good;
    change(c);
    const std::string text = QKR_MESSAGE_OF(answer_logprobs(c.hidden, c.head, c.positions, c.targets));
    return text.substr(0, text.find('\n'));
  };
  EXPECT_EQ(message([](Case& c) { c.head = c.head.narrow(1, 0, 7); }), "answer_logprobs: head_weight must have shape [10, 8], got [10, 7]");
  EXPECT_EQ(message([](Case& c) { c.head = c.head.to(at::kDouble); }), "answer_logprobs: head_weight must be Float, got Double");
  EXPECT_EQ(message([](Case& c) { c.targets = c.targets.narrow(0, 0, 2); }), "answer_logprobs: targets must have shape [3], got [2]");
  EXPECT_EQ(message([](Case& c) { c.positions = c.positions.to(at::kInt); }), "answer_logprobs: positions must be Long, got Int");
  EXPECT_EQ(message([](Case& c) { c.positions = at::tensor({0, 4, 1}, at::kLong); }), "answer_logprobs: positions must be in 0 .. 3, got 4");
  EXPECT_EQ(message([](Case& c) { c.targets = at::tensor({0, -1, 1}, at::kLong); }), "answer_logprobs: targets must be in 0 .. 9, got -1");
  EXPECT_EQ(message([](Case& c) { c.hidden = c.hidden.clone().requires_grad_(); }).substr(0, 52), "answer_logprobs: hidden must not require grad, got o");
}

}  // namespace
}  // namespace qkr
