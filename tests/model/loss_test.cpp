// The head's loss in slices, and activation checkpointing, against Torch's own operators.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/support/accuracy.h"
#include "trainer/model/linear_cross_entropy.h"
#include "trainer/model/recompute.h"

namespace qkr {
namespace {

using test::max_abs_difference;
using test::relative_rms;

at::Tensor pattern(at::IntArrayRef shape, double phase) {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return (at::arange(count, at::kDouble) * 0.7310585 + phase).sin().view(shape);
}

// Every third target unlabelled.
at::Tensor targets_for(int64_t rows, int64_t vocab) {
  at::Tensor targets = (at::arange(rows, at::kLong) * 7).remainder(vocab);
  for (int64_t n = 0; n < rows; n += 3) targets[n] = -100;
  return targets;
}

struct Case {
  int64_t rows, dim, vocab;
};

struct Result {
  at::Tensor loss, grad_hidden, grad_head;
};

Result ours(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale) {
  const at::Tensor x = hidden.detach().clone().set_requires_grad(true),
                   w = head.detach().clone().set_requires_grad(true);
  const at::Tensor loss = linear_cross_entropy(x, w, targets, scale);
  (loss * 3).backward();  // a factor from above must reach the gradients
  return {loss.detach(), x.grad() / 3, w.grad() / 3};
}

Result torchs(const at::Tensor& hidden, const at::Tensor& head, const at::Tensor& targets, double scale) {
  const at::Tensor x = hidden.detach().clone().set_requires_grad(true),
                   w = head.detach().clone().set_requires_grad(true);
  const at::Tensor loss = scale * at::cross_entropy_loss(at::linear(x, w), targets, {}, at::Reduction::Sum, -100);
  loss.backward();
  return {loss.detach(), x.grad(), w.grad()};
}

TEST(LinearCrossEntropy, EqualsTorchsCrossEntropy) {
  for (const Case& c :
       {Case{1, 4, 3}, {2, 4, 3}, {31, 8, 17}, {100, 16, 301}, {20000, 4, 8}}) {  // the last: 13,333 labels, two slices
    const at::Tensor hidden = pattern({c.rows, c.dim}, 0.2) * 3, head = pattern({c.vocab, c.dim}, 1.1),
                     targets = targets_for(c.rows, c.vocab);
    const Result got = ours(hidden, head, targets, 0.01), want = torchs(hidden, head, targets, 0.01);
    EXPECT_LE(max_abs_difference(got.loss, want.loss), 1e-12 * std::max(1.0, want.loss.item<double>())) << c.rows;
    EXPECT_LE(max_abs_difference(got.grad_hidden, want.grad_hidden), 1e-13) << c.rows;
    EXPECT_LE(max_abs_difference(got.grad_head, want.grad_head), 1e-12) << c.rows;
    const at::Tensor hidden32 = hidden.to(at::kFloat), head32 = head.to(at::kFloat);
    const Result single = ours(hidden32, head32, targets, 0.01), plain = torchs(hidden32, head32, targets, 0.01);
    EXPECT_EQ(single.loss.scalar_type(), at::kFloat);
    EXPECT_NEAR(single.loss.item<double>(), want.loss.item<double>(), 1e-5 * std::max(1.0, want.loss.item<double>()));
    const Result rounded = torchs(hidden32.to(at::kDouble), head32.to(at::kDouble), targets, 0.01);
    // exp(z - logsumexp(z)) carries an ulp of the largest logit, where log_softmax carries one of a difference of
    // logits.
    const auto error = [](const at::Tensor& got32, const at::Tensor& truth) {
      return test::rms(got32.to(at::kDouble) - truth);
    };
    EXPECT_LE(error(single.grad_hidden, rounded.grad_hidden),
              8 * error(plain.grad_hidden, rounded.grad_hidden) + 0x1p-23 * test::rms(rounded.grad_hidden));
    EXPECT_LE(error(single.grad_head, rounded.grad_head),
              8 * error(plain.grad_head, rounded.grad_head) + 0x1p-23 * test::rms(rounded.grad_head));
  }
}

TEST(LinearCrossEntropy, Bf16IsNearTheTruthOfItsRoundedInputs) {
  const at::Tensor hidden = pattern({200, 16}, 0.2).to(at::kBFloat16), head = pattern({301, 16}, 1.1).to(at::kBFloat16),
                   targets = targets_for(200, 301);
  const Result got = ours(hidden, head, targets, 1.0 / 133),
               want = torchs(hidden.to(at::kDouble), head.to(at::kDouble), targets, 1.0 / 133);
  EXPECT_EQ(got.loss.scalar_type(), at::kFloat);
  EXPECT_EQ(got.grad_head.scalar_type(), at::kBFloat16);
  EXPECT_NEAR(got.loss.item<double>(), want.loss.item<double>(), 2e-3 * want.loss.item<double>());
  EXPECT_LE(relative_rms(got.grad_hidden, want.grad_hidden), 1e-2);
  EXPECT_LE(relative_rms(got.grad_head, want.grad_head), 1e-2);
}

TEST(LinearCrossEntropy, GradientEqualsFiniteDifferences) {
  const at::Tensor hidden = pattern({9, 5}, 0.2), head = pattern({7, 5}, 1.1), targets = targets_for(9, 7);
  const Result got = ours(hidden, head, targets, 0.5);
  const at::NoGradGuard no_grad;
  const auto slope = [&](const at::Tensor& moved, int64_t place) {
    const auto at_distance = [&](double by) {
      at::Tensor there = moved.clone();
      there.flatten()[place] += by;
      const bool is_hidden = moved.sizes() == hidden.sizes();
      return linear_cross_entropy(is_hidden ? there : hidden, is_hidden ? head : there, targets, 0.5).item<double>();
    };
    return (at_distance(1e-6) - at_distance(-1e-6)) / 2e-6;
  };
  for (int64_t place = 0; place < hidden.numel(); ++place)
    EXPECT_NEAR(got.grad_hidden.flatten()[place].item<double>(), slope(hidden, place), 1e-8) << place;
  for (int64_t place = 0; place < head.numel(); ++place)
    EXPECT_NEAR(got.grad_head.flatten()[place].item<double>(), slope(head, place), 1e-8) << place;
}

TEST(LinearCrossEntropy, UnlabelledRowsCountForNothing) {
  const at::Tensor hidden = pattern({6, 4}, 0.2), head = pattern({5, 4}, 1.1);
  const Result none = ours(hidden, head, at::full({6}, -100, at::kLong), 1.0);
  EXPECT_EQ(none.loss.item<double>(), 0);
  EXPECT_EQ(none.grad_hidden.count_nonzero().item<int64_t>(), 0);
  EXPECT_EQ(none.grad_head.count_nonzero().item<int64_t>(), 0);
  at::Tensor targets = at::tensor({-100, 2, -100, 0, 4, -100}, at::kLong), spoiled = hidden.clone();
  spoiled[0].fill_(NAN);  // not even looked at
  const Result clean = ours(hidden, head, targets, 1.0), with_nan = ours(spoiled, head, targets, 1.0);
  EXPECT_EQ(with_nan.loss.item<double>(), clean.loss.item<double>());
  EXPECT_TRUE(at::equal(with_nan.grad_head, clean.grad_head));
  EXPECT_EQ(with_nan.grad_hidden[0].count_nonzero().item<int64_t>(), 0);
}

TEST(LinearCrossEntropy, HugeLogitsStayExact) {
  const at::Tensor hidden = at::full({2, 1}, 1e4, at::kFloat),
                   head = at::tensor({1.0, -1.0, 0.5}, at::kFloat).view({3, 1});
  const Result got = ours(hidden, head, at::tensor({0, 1}, at::kLong), 1.0);
  EXPECT_EQ(got.loss.item<double>(), 20000.0);  // 0 for the first row, 2e4 for the second
  EXPECT_TRUE(got.grad_hidden.isfinite().all().item<bool>());
}

TEST(LinearCrossEntropy, WithoutGradientsGivesTheSameNumber) {
  const at::Tensor hidden = pattern({50, 4}, 0.2), head = pattern({9, 4}, 1.1), targets = targets_for(50, 9);
  const Result with_grad = ours(hidden, head, targets, 0.1);
  const at::NoGradGuard no_grad;
  EXPECT_EQ(linear_cross_entropy(hidden, head, targets, 0.1).item<double>(), with_grad.loss.item<double>());
}

// Of a frozen head, or of frozen layers under a trained one, no gradient is made; the other's is the same.
TEST(LinearCrossEntropy, MakesOnlyTheGradientsThatAreWanted) {
  const at::Tensor hidden = pattern({50, 4}, 0.2), head = pattern({9, 4}, 1.1), targets = targets_for(50, 9);
  const Result both = ours(hidden, head, targets, 0.1);
  const auto grad_of = [&](bool of_hidden) {
    const at::Tensor x = hidden.detach().clone().set_requires_grad(of_hidden), w = head.detach().clone().set_requires_grad(!of_hidden);
    linear_cross_entropy(x, w, targets, 0.1).backward();
    EXPECT_FALSE((of_hidden ? w : x).grad().defined());
    return (of_hidden ? x : w).grad();
  };
  EXPECT_LE(max_abs_difference(grad_of(true), both.grad_hidden), 1e-15);
  EXPECT_LE(max_abs_difference(grad_of(false), both.grad_head), 1e-15);
}

TEST(Recompute, GivesTheSameNumbersAndGradients) {
  const auto gradients = [](bool again, int* calls) {
    const at::Tensor w = pattern({4, 4}, 0.3).set_requires_grad(true), v = pattern({4}, 0.8).set_requires_grad(true);
    const at::Tensor x = pattern({7, 4}, 1.9).set_requires_grad(true);
    const auto body = [=](const at::Tensor& input) {
      ++*calls;
      return (at::matmul(input, w) * v).tanh() + input;
    };
    at::Tensor y = x * 2;
    for (int layer = 0; layer < 3; ++layer)
      y = again ? recompute_in_backward(body, y) : body(y);  // one weight, three times
    y.square().sum().backward();
    return std::vector<at::Tensor>{y.detach(), x.grad(), w.grad(), v.grad()};
  };
  int plain_calls = 0, again_calls = 0;
  const auto plain = gradients(false, &plain_calls), again = gradients(true, &again_calls);
  EXPECT_EQ(plain_calls, 3);
  EXPECT_EQ(again_calls, 6);  // each once forward, once in the backward
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_LE(max_abs_difference(again[i], plain[i]), 1e-14) << i;
}

TEST(Recompute, KeepsOnlyTheInput) {
  bool graph_in_forward = true;
  const at::Tensor x = at::ones({3}).set_requires_grad(true);
  int calls = 0;
  const at::Tensor y = recompute_in_backward(
      [&](const at::Tensor& input) {
        if (calls++ == 0) graph_in_forward = at::GradMode::is_enabled();
        return input * 2;
      },
      x);
  EXPECT_FALSE(graph_in_forward);
  EXPECT_TRUE(y.requires_grad());
  y.sum().backward();
  EXPECT_EQ(calls, 2);
  EXPECT_TRUE(at::equal(x.grad(), at::full({3}, 2.0)));
}

TEST(Recompute, WithoutAGradientIsTheBodyItself) {
  int calls = 0;
  const at::Tensor x = at::ones({3});
  const auto body = [&](const at::Tensor& input) {
    ++calls;
    return input + 1;
  };
  EXPECT_FALSE(recompute_in_backward(body, x).requires_grad());
  EXPECT_EQ(calls, 1);
}

// The first trained layer over frozen ones: its weights want a gradient, what it reads does not.
TEST(Recompute, WorksForLeavesAlone) {
  const at::Tensor x = pattern({7, 4}, 1.9), w = pattern({4, 4}, 0.3).set_requires_grad(true);
  int calls = 0;
  const auto body = [&](const at::Tensor& input) {
    ++calls;
    EXPECT_FALSE(input.requires_grad());
    return at::matmul(input, w).tanh();
  };
  recompute_in_backward(body, x, true).square().sum().backward();
  EXPECT_EQ(calls, 2);
  const at::Tensor again = w.grad().clone();
  w.mutable_grad() = at::Tensor();
  body(x).square().sum().backward();
  EXPECT_TRUE(at::equal(again, w.grad()));
  EXPECT_FALSE(x.grad().defined());
}

}  // namespace
}  // namespace qkr
