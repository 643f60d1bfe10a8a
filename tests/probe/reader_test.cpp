// The model behind the probe's two readings.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/model/folder.h"
#include "trainer/model/generate.h"
#include "trainer/probe/generator.h"

namespace qkr {
namespace {

Decoder tiny_model() {
  return load_decoder(ModelSource::read((test::source_dir() / "examples/tiny/model").string(), "checkpoint"), at::kFloat, at::kCPU);
}

std::vector<int32_t> some_ids(const Decoder& decoder, int64_t count) {
  at::manual_seed(3);
  const at::Tensor ids = at::randint(decoder.architecture().vocab_size, {count}, at::kInt);
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + count};
}

TEST(AnswerReader, IsTheWholeModelsLogSoftmax) {
  const Decoder decoder = tiny_model();
  const std::vector<int32_t> ids = some_ids(decoder, 40);
  const c10::InferenceMode no_autograd;
  const at::Tensor tokens = at::tensor(ids, at::kLong);
  const at::Tensor truth = at::log_softmax(decoder.logits(decoder.forward(tokens, Segments::packed({0, 40}, at::kCPU))), 1);
  for (const int64_t first : {1, 14, 15, 39}) {
    for (const int64_t chunk : {1, 7, 14, 1000}) {
      SCOPED_TRACE(std::to_string(first) + " " + std::to_string(chunk));
      const AnswerScore score = answer_reader(decoder, chunk)(ids, first);
      ASSERT_EQ(static_cast<int64_t>(score.logprobs.size()), 40 - first);
      for (int64_t i = first; i < 40; ++i) {
        const at::Tensor row = truth[i - 1];
        const double want = row[ids[static_cast<size_t>(i)]].item<double>();
        EXPECT_NEAR(score.logprobs[static_cast<size_t>(i - first)], want, 1e-4);
        const int64_t least = row.gt(want + 1e-3).sum().item<int64_t>(), most = row.gt(want - 1e-3).sum().item<int64_t>();
        const int64_t rank = score.ranks[static_cast<size_t>(i - first)];
        EXPECT_TRUE(rank >= least && rank <= most) << rank;
      }
    }
  }
  EXPECT_EQ(QKR_MESSAGE_OF(answer_reader(decoder, 7)(ids, 0)), "answer: must begin in 1 .. 39, got 0");
}

TEST(AnswerReader, FindsWhatGreedyDecodingSays) {
  const Decoder decoder = tiny_model();
  std::vector<int32_t> ids = some_ids(decoder, 30);
  const std::vector<int32_t> said = greedy_text(decoder, 8)(ids, [](const std::vector<int32_t>& so_far) { return so_far.size() == 12; });
  ASSERT_EQ(said.size(), 12u);
  ids.insert(ids.end(), said.begin(), said.end());
  EXPECT_EQ(answer_reader(decoder, 16)(ids, 30).ranks, std::vector<int64_t>(12, 0));
  ids[35] = ids[35] == 5 ? 6 : 5;  // another word is not what it says there
  EXPECT_GT(answer_reader(decoder, 16)(ids, 30).ranks[5], 0);
}

}  // namespace
}  // namespace qkr
