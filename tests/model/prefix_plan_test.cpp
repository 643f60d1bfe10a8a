// Which tokens are prefilled once, against a count over the tree of prefixes.
#include "trainer/model/prefix_plan.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

namespace qkr {
namespace {

using Ids = std::vector<int32_t>;

std::vector<PrefillPrompt> with_free_starts(const std::vector<Ids>& prompts) {
  std::vector<PrefillPrompt> made;
  for (const Ids& ids : prompts) made.push_back({&ids, static_cast<int64_t>(ids.size()) - 1});
  return made;
}

// As needle prompts: one text, with something else put in at a place, and a question of its own.
std::vector<Ids> needle_prompts(size_t count, int64_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<Ids> prompts;
  for (size_t i = 0; i < count; ++i) {
    Ids ids;
    const int64_t needle = std::uniform_int_distribution<int64_t>(0, length - 1)(random);
    for (int64_t t = 0; t < length; ++t) {
      if (t == needle) ids.insert(ids.end(), {-1 - static_cast<int32_t>(random() % 5), 7000 + static_cast<int32_t>(i)});
      ids.push_back(static_cast<int32_t>(t * 7 % 1000));
    }
    ids.push_back(5000 + static_cast<int32_t>(i));
    prompts.push_back(std::move(ids));
  }
  return prompts;
}

TEST(PrefixPlan, ChunkIsASixteenthWithinItsBounds) {
  EXPECT_EQ(prefill_chunk_of(262144, 32768), 16384);
  EXPECT_EQ(prefill_chunk_of(250000, 32768), 16384);
  EXPECT_EQ(prefill_chunk_of(131072, 32768), 8192);
  EXPECT_EQ(prefill_chunk_of(65536, 32768), 4096);
  EXPECT_EQ(prefill_chunk_of(900, 32768), 4096);
  EXPECT_EQ(prefill_chunk_of(0, 32768), 4096);
  EXPECT_EQ(prefill_chunk_of(1 << 20, 32768), 32768);
  EXPECT_EQ(prefill_chunk_of(262144, 300), 300);
}

TEST(PrefixPlan, WalksTheTreeSoThatEveryWholeChunkIsPrefilledOnce) {
  const std::vector<Ids> prompts = needle_prompts(40, 500, 1);
  const int64_t chunk = 16;
  const PrefillPlan plan = plan_prefill(with_free_starts(prompts), chunk, prompts.size(), true);
  std::set<Ids> chunks;  // a prefix that ends with a chunk is computed once, whoever has it
  int64_t want = 0, all = 0;
  for (const Ids& ids : prompts) {
    const int64_t length = static_cast<int64_t>(ids.size());
    all += length;
    for (int64_t end = chunk; end <= (length - 1) / chunk * chunk; end += chunk) {
      if (chunks.insert(Ids(ids.begin(), ids.begin() + end)).second) want += chunk;
    }
    want += length - (length - 1) / chunk * chunk;
  }
  EXPECT_EQ(plan.prompt_tokens, all);
  EXPECT_EQ(plan.prefilled_tokens, want);
  EXPECT_LT(plan.prefilled_tokens, all * 6 / 10);
}

TEST(PrefixPlan, StartsWhereAnEarlierStepKeptItsStates) {
  for (const size_t window : {1, 4, 16}) {
    const std::vector<Ids> prompts = needle_prompts(30, 300, 2);
    const PrefillPlan plan = plan_prefill(with_free_starts(prompts), 32, window, true);
    ASSERT_EQ(plan.steps.size(), prompts.size());
    std::set<size_t> seen;
    std::set<int64_t> kept;
    for (size_t i = 0; i < plan.steps.size(); ++i) {
      const PrefillStep& step = plan.steps[i];
      seen.insert(step.prompt);
      EXPECT_EQ(step.prompt / window, i / window);  // windows stay in order
      const Ids& ids = prompts[step.prompt];
      if (step.start > 0) {
        const Ids& before = prompts[plan.steps[i - 1].prompt];
        EXPECT_TRUE(std::equal(ids.begin(), ids.begin() + step.start, before.begin()));
        EXPECT_TRUE(kept.count(step.start)) << "step " << i << " starts at " << step.start;
        EXPECT_EQ(step.start % 32, 0);
      }
      kept.erase(kept.upper_bound(step.start), kept.end());  // as PrefixPrefill forgets them
      if (step.start == 0) kept.clear();
      for (const int64_t position : step.keep) {
        EXPECT_GT(position, step.start);
        kept.insert(position);
      }
    }
    EXPECT_EQ(seen.size(), prompts.size());
  }
}

TEST(PrefixPlan, LeavesWhatMustBeComputed) {
  const Ids same(64, 3), longer(70, 3);
  const std::vector<PrefillPrompt> twice = {{&same, 63}, {&same, 63}, {&longer, 40}, {&longer, 69}};
  const PrefillPlan plan = plan_prefill(twice, 16, 1, true);
  EXPECT_EQ(plan.steps[1].start, 48);  // the last token is always prefilled
  EXPECT_EQ(plan.steps[2].start, 32);  // an answer begins there
  EXPECT_EQ(plan.steps[3].start, 64);
  EXPECT_EQ(plan.steps[0].keep, (std::vector<int64_t>{32, 48}));
  EXPECT_EQ(plan.prefilled_tokens, 64 + 16 + 38 + 6);
  const PrefillPlan without = plan_prefill(twice, 16, 1, false);
  EXPECT_EQ(without.prefilled_tokens, without.prompt_tokens);
  EXPECT_TRUE(without.steps[0].keep.empty());
}

}  // namespace
}  // namespace qkr
