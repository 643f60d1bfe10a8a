// Many tensors in few launches against one call a tensor, whose own tests hold it against PyTorch's fused AdamW.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/adamw_split.h"
#include "tests/support/device.h"
#include "tests/support/tmpdir.h"

namespace qkr {
namespace {

using at::Tensor;
using test::same_bytes;

const AdamwOptions kOptions{.lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1, .step = 3};

struct Lists {
  std::vector<Tensor> weights, master_lows, grads, exp_avgs, exp_avg_sqs;

  void add(const Tensor& master, const Tensor& grad, bool split) {
    const auto [high, low] = split_master(master);
    weights.push_back(split ? high : master);
    if (split) master_lows.push_back(low);
    grads.push_back(grad);
    exp_avgs.push_back((at::randn(master.sizes()) * 1e-2).to(master.device()));
    exp_avg_sqs.push_back((at::rand(master.sizes()) * 1e-4).to(master.device()));
  }
  Lists clone() const {
    Lists copy = *this;
    for (std::vector<Tensor>* list : {&copy.weights, &copy.master_lows, &copy.exp_avgs, &copy.exp_avg_sqs}) {
      for (Tensor& t : *list) t = t.clone();
    }
    return copy;
  }
  void together(const std::optional<Tensor>& clip_scale) const {
    adamw_split_list_(weights, master_lows, grads, exp_avgs, exp_avg_sqs, clip_scale, kOptions);
  }
  void apart(const std::optional<Tensor>& clip_scale) const {
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto low = master_lows.empty() ? std::nullopt : std::optional<Tensor>(master_lows[i]);
      adamw_split_(weights[i], low, grads[i], exp_avgs[i], exp_avg_sqs[i], clip_scale, kOptions);
    }
  }
};

void expect_same(const Lists& a, const Lists& b) {
  for (const auto& [x, y] : {std::pair(&a.weights, &b.weights),
                             {&a.master_lows, &b.master_lows},
                             {&a.exp_avgs, &b.exp_avgs},
                             {&a.exp_avg_sqs, &b.exp_avg_sqs}}) {
    ASSERT_EQ(x->size(), y->size());
    for (size_t i = 0; i < x->size(); ++i) EXPECT_TRUE(same_bytes((*x)[i], (*y)[i])) << i;
  }
}

class AdamwSplitList : public test::DeviceTest {
 protected:
  // 150 tensors, so three launches: no elements, one, around a chunk of 1,024, over several chunks, of more axes;
  // gradients of both dtypes and one transposed.
  Lists mixed(bool split) {
    Lists lists;
    const std::vector<std::vector<int64_t>> shapes = {{0},    {1},      {3},       {1023},    {1024}, {1025},
                                                      {4099}, {33, 65}, {4, 0, 2}, {7, 5, 3}, {2048}};
    for (int i = 0; i < 150; ++i) {
      const auto& shape = shapes[i % shapes.size()];
      Tensor grad = here(at::randn(shape) * 1e-2);
      if (i % 3 == 0) grad = grad.to(at::kBFloat16);
      if (grad.dim() == 2) grad = grad.t().contiguous().t();
      lists.add(here(at::randn(shape)), grad, split);
    }
    return lists;
  }
};

TEST_P(AdamwSplitList, EqualsACallATensorBitForBit) {
  at::manual_seed(1);
  for (const bool split : {true, false}) {
    for (const auto& clip_scale : {std::optional<Tensor>(), {here(at::full({1}, 0.37f))}}) {
      const Lists a = mixed(split), b = a.clone();
      a.together(clip_scale);
      b.apart(clip_scale);
      expect_same(a, b);
    }
  }
}

// One element into their buffers: no vector load may assume alignment, and the aligned neighbours keep theirs.
TEST_P(AdamwSplitList, SomeUnaligned) {
  at::manual_seed(2);
  const auto shifted = [](const Tensor& t) {
    return at::empty({t.numel() + 1}, t.options()).narrow(0, 1, t.numel()).view(t.sizes()).copy_(t);
  };
  for (const bool split : {true, false}) {
    Lists a;
    for (int i = 0; i < 6; ++i) a.add(here(at::randn({2051})), here(at::randn({2051})), split);
    const Lists b = a.clone();
    a.weights[1] = shifted(a.weights[1]);
    a.exp_avgs[2] = shifted(a.exp_avgs[2]);
    a.grads[3] = shifted(a.grads[3]);
    if (split) a.master_lows[4] = shifted(a.master_lows[4]);
    a.together({});
    b.apart({});
    expect_same(a, b);
  }
}

TEST_P(AdamwSplitList, NoTensorsAndNoElements) {
  Lists{}.together({});
  Lists empty;
  empty.add(here(at::empty({0})), here(at::empty({0})), true);
  empty.add(here(at::empty({0})), here(at::empty({0})), true);
  empty.together({});
}

TEST_P(AdamwSplitList, VersionsMoveAndWeightsMayRequireGrad) {
  Lists lists;
  for (int i = 0; i < 2; ++i) lists.add(here(at::randn({8})), here(at::randn({8})), true);
  lists.weights[1].requires_grad_(true);
  const auto before = lists.weights[1]._version(), low = lists.master_lows[0]._version();
  lists.together({});
  EXPECT_GT(lists.weights[1]._version(), before);
  EXPECT_GT(lists.master_lows[0]._version(), low);
}

TEST_P(AdamwSplitList, ErrorsNameArgumentRuleAndValueAndChangeNothing) {
  Lists lists;
  for (int i = 0; i < 3; ++i) lists.add(here(at::randn({8})), here(at::randn({8})), true);
  const auto expect = [](const std::string& want, const Lists& bad) {
    const Lists before = bad.clone();
    const std::string message = QKR_MESSAGE_OF(bad.together({}));
    EXPECT_NE(message.find(want), std::string::npos) << message;
    expect_same(bad, before);
  };
  Lists bad = lists;
  bad.master_lows.pop_back();
  expect("adamw_split_list_: master_lows must be as many as weights, got 2", bad);
  bad = lists;
  bad.grads.push_back(bad.grads[0]);
  expect("adamw_split_list_: grads must be as many as weights, got 4", bad);
  bad = lists;
  bad.grads[2] = here(at::randn({9}));
  expect("adamw_split_list_: grad must have shape [8], got [9]", bad);
  bad = lists;
  bad.weights[2] = here(at::randn({8}));
  expect("adamw_split_list_: master_low must be given for bf16 weights and for no others, got one for Float", bad);
  bad = lists;
  bad.grads[1] = bad.grads[1].clone().requires_grad_(true);
  expect("adamw_split_list_: grads must not require grad", bad);
}

QKR_ON_EVERY_DEVICE(AdamwSplitList);

TEST(AdamwSplitListMeta, ChecksAsTheRealOnesDo) {
  const auto on_meta = [](at::ScalarType type) { return at::empty({4}, at::TensorOptions(at::kMeta).dtype(type)); };
  Lists lists;
  lists.weights = {on_meta(at::kBFloat16)};
  lists.master_lows = {on_meta(at::kShort)};
  lists.grads = {on_meta(at::kBFloat16)};
  lists.exp_avgs = lists.exp_avg_sqs = {on_meta(at::kFloat)};
  lists.together({});
  lists.exp_avgs[0] = on_meta(at::kDouble);
  const std::string message = QKR_MESSAGE_OF(lists.together({}));
  EXPECT_NE(message.find("adamw_split_list_: exp_avg must be Float, got Double"), std::string::npos) << message;
}

}  // namespace
}  // namespace qkr
