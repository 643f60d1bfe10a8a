#include "trainer/data/batch.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "trainer/data/dataset.h"

namespace qkr {
namespace {

std::vector<int64_t> values(const at::Tensor& t) { return {t.data_ptr<int64_t>(), t.data_ptr<int64_t>() + t.numel()}; }

constexpr int64_t kNo = kIgnoreLabel;

TEST(Batch, TargetsStayWithinTheirSample) {
  std::vector<Sample> samples = {
      {{10, 11, 12}, {0, 1, 1}},
      {{20, 21, 22, 23}, {1, 0, 1, 0}},  // the first token is trained, but nothing predicts it
      {{30}, {1}},
  };
  for (Sample& sample : samples) {  // what lies behind a vector's end, if anything looks there, is a trained token
    sample.ids.push_back(99);
    sample.trained.push_back(1);
    sample.ids.pop_back();
    sample.trained.pop_back();
  }
  const Batch batch = make_batch(samples, {{1, 0}, {2}});
  EXPECT_EQ(batch.tokens.scalar_type(), at::kLong);
  EXPECT_EQ(values(batch.tokens), (std::vector<int64_t>{20, 21, 22, 23, 10, 11, 12, 30}));
  EXPECT_EQ(values(batch.targets), (std::vector<int64_t>{kNo, 22, kNo, kNo, 11, 12, kNo, kNo}));
  EXPECT_EQ(batch.cu_seqlens, (std::vector<int64_t>{0, 4, 7, 8}));
  EXPECT_EQ(batch.labelled, 3);
}

TEST(Batch, NoRowsAreAnEmptyBatch) {
  const Batch batch = make_batch({}, {});
  EXPECT_EQ(batch.tokens.sizes(), at::IntArrayRef({0}));
  EXPECT_EQ(batch.cu_seqlens, std::vector<int64_t>{0});
  EXPECT_EQ(batch.labelled, 0);
}

TEST(Batch, RefusesASampleThatIsNotThere) { EXPECT_THROW(make_batch({}, {{0}}), std::out_of_range); }

}  // namespace
}  // namespace qkr
