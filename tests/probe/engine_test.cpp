// Many prompts through one model: the results of one at a time, in their order, with less prefilled.
#include "trainer/probe/engine.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/model/folder.h"
#include "trainer/probe/generator.h"

namespace qkr {
namespace {

Decoder tiny_model() {
  return load_decoder(ModelSource::read((test::source_dir() / "examples/tiny/model").string(), "checkpoint"), at::kFloat, at::kCPU);
}

// Ids as letters, which the scores ask nothing of.
TextCodec letters() {
  TextCodec codec;
  codec.encode = [](std::string_view text) { return std::vector<int32_t>(text.begin(), text.end()); };
  codec.decode = [](const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) text += concat(id, " ");
    return text;
  };
  return codec;
}

// `count` prompts of a cell, one text with a needle at a different place in each.
std::vector<NeedleItem> items_of(int64_t count, int64_t length) {
  std::vector<NeedleItem> items;
  for (int64_t i = 0; i < count; ++i) {
    NeedleItem item;
    item.id = concat("niah_single_1/", length, "/", i);
    item.task = NeedleTask::kSingle1;
    item.length = length;
    item.index = i;
    item.value = "no such text";
    item.mode = "base";
    item.max_new_tokens = 6 + i % 5;
    const int64_t needle = (i * 37 + 11) % length;
    for (int64_t t = 0; t < length; ++t) item.ids.push_back(static_cast<int32_t>(t == needle ? 5 + i : 20 + t * 13 % 90));
    item.ids.push_back(static_cast<int32_t>(120 + i));
    item.prompt_tokens = static_cast<int64_t>(item.ids.size());
    items.push_back(std::move(item));
  }
  return items;
}

std::vector<NeedleItem> two_cells() {
  std::vector<NeedleItem> items = items_of(9, 150);
  for (NeedleItem& item : items_of(4, 60)) items.push_back(std::move(item));
  return items;
}

TEST(Engine, GivesTheTextsOfOneAtATimeInTheirOrder) {
  const Decoder decoder = tiny_model();
  const std::vector<NeedleItem> items = two_cells();
  const ProbeOptions options;
  const std::vector<ItemResult> want = run_probe(items, greedy_text(decoder, 16), letters(), options);
  for (const int64_t batch : {0, 1, 2, 5}) {
    for (const bool share : {false, true}) {
      EngineUse use;
      std::vector<std::string> seen;
      const TextEngine engine = text_engine(decoder, {.prefill_chunk = 16, .batch = batch, .share_prefixes = share}, &use);
      const auto results = run_probe(items, engine, letters(), options, [&](const ItemResult& r, int64_t done, int64_t total) {
        seen.push_back(r.id);
        EXPECT_EQ(done, static_cast<int64_t>(seen.size()));
        EXPECT_EQ(total, 13);
      });
      ASSERT_EQ(results.size(), want.size());
      int64_t new_tokens = 0;
      for (size_t i = 0; i < results.size(); ++i) {
        EXPECT_EQ(seen[i], items[i].id);
        EXPECT_EQ(results[i].id, want[i].id);
        EXPECT_EQ(results[i].prediction, want[i].prediction) << batch << share;
        EXPECT_EQ(results[i].stopped, "length");
        EXPECT_GT(results[i].seconds, 0);
        new_tokens += results[i].generated_tokens;
      }
      EXPECT_EQ(use.prompts, 13);
      EXPECT_EQ(use.prompt_tokens, 9 * 151 + 4 * 61);
      EXPECT_EQ(use.new_tokens, new_tokens);
      if (share) {
        EXPECT_LT(use.prefilled_tokens, use.prompt_tokens * 5 / 6);
      } else {
        EXPECT_EQ(use.prefilled_tokens, use.prompt_tokens);
      }
      EXPECT_EQ(use.batch, batch == 0 ? 8 : batch);
      EXPECT_EQ(use.peak_bytes, 0);  // a CPU
    }
  }
}

TEST(Engine, ReadsTheAnswersOfOneAtATime) {
  const Decoder decoder = tiny_model();
  const std::vector<NeedleItem> items = two_cells();
  std::vector<std::vector<int32_t>> inputs;
  for (const NeedleItem& item : items) {
    inputs.push_back(item.ids);
    for (int32_t id = 0; id < 5; ++id) inputs.back().push_back(30 + id);
  }
  EngineUse use;
  const ReadEngine engine = read_engine(decoder, {.prefill_chunk = 16}, &use);
  std::vector<AnswerScore> found(items.size());
  std::vector<ReadRequest> requests;
  for (size_t i = 0; i < items.size(); ++i) {
    const int64_t first = static_cast<int64_t>(inputs[i].size()) - (i == 3 ? 100 : 5);  // one answer begins within what is shared
    requests.push_back({&inputs[i], first, items[i].length, [&found, i](AnswerScore score, double) { found[i] = std::move(score); }});
  }
  engine(requests);
  for (size_t i = 0; i < items.size(); ++i) {
    const AnswerScore want = answer_reader(decoder, 16)(inputs[i], requests[i].first);
    EXPECT_EQ(found[i].ranks, want.ranks) << i;
    EXPECT_EQ(found[i].logprobs, want.logprobs) << i;  // the same chunks: the same bits
  }
  EXPECT_LT(use.prefilled_tokens, use.prompt_tokens * 5 / 6);
  EXPECT_EQ(use.new_tokens, 0);
  requests[0].first = 0;
  EXPECT_EQ(QKR_MESSAGE_OF(engine(requests)), "answer: must begin in 1 .. 155, got 0");
}

TEST(Engine, SaysWhatItDid) {
  EngineUse use;
  EXPECT_EQ(use_text(use), "");
  use.prompts = 2, use.prompt_tokens = 400, use.prefilled_tokens = 204, use.prefill_seconds = 2;
  EXPECT_EQ(use_text(use), "prefilled 204 of 400 prompt tokens (51%, beginnings that prompts share once) in 2.00 s, 102 a second");
  use.steps = 10, use.new_tokens = 20, use.step_seconds = 0.15, use.batch = 2, use.not_recorded = "a CPU has none";
  EXPECT_EQ(use_text(use), "prefilled 204 of 400 prompt tokens (51%, beginnings that prompts share once) in 2.00 s, 102 a second; decoded 20 tokens in "
                           "0.15 s, up to 2 prompts at a time, 15.00 ms a step, no CUDA graph: a CPU has none");
  use.not_recorded.clear();
  use.peak_bytes = int64_t{3} << 29;
  EXPECT_NE(use_text(use).find("ms a step, one CUDA graph a step; the process held 1.5 GiB of GPU memory at most"), std::string::npos) << use_text(use);
  use.new_tokens = 0;
  EXPECT_NE(use_text(use).find("102 a second; the process held 1.5 GiB of GPU memory at most"), std::string::npos) << use_text(use);
}

}  // namespace
}  // namespace qkr
