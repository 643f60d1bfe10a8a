#include "trainer/probe/teacher_forced.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/byte_codec.h"
#include "tests/support/tmpdir.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"

namespace qkr {
namespace {

NeedleItem item_of(const std::string& prefix = " it is", const std::string& value = "1234567") {
  NeedleItem item;
  item.id = "niah_single_1/512/0#0";
  item.length = 512;
  item.value = value;
  item.prompt = "Say";
  item.answer_prefix = prefix;
  item.ids = test::pair_codec().encode(item.prompt + prefix);
  return item;
}

TEST(TeacherForced, GoldAnswers) {
  NeedleItem item = item_of();
  EXPECT_EQ(gold_answer(item), " 1234567");
  item.other_values = {"b", "c"};
  EXPECT_EQ(gold_answer(item), " 1234567, b, and c");
  item.task = NeedleTask::kVariableTracking;
  EXPECT_EQ(gold_answer(item), " 1234567 b c");
  item.mode = "chat";
  EXPECT_EQ(gold_answer(item), "1234567 b c");
}

TEST(TeacherForced, BeginsAtTheFirstTokenThatDiffers) {
  const ForcedInput plain = forced_input(item_of(), test::pair_codec());
  EXPECT_EQ(plain.ids, test::pair_codec().encode("Say it is 1234567"));
  EXPECT_EQ(plain.first, 9);
  // The prefix's last space joins the answer's first digit: the token before it is read again.
  NeedleItem joins = item_of(" it is ", "999");
  joins.task = NeedleTask::kVariableTracking;
  joins.value = "1";
  joins.ids = test::pair_codec().encode("Say it is ");
  const ForcedInput input = forced_input(joins, test::pair_codec());  // "Say it is" + " " + " 1"
  EXPECT_EQ(input.first, 10);
  NeedleItem chat = item_of("", "1");
  chat.mode = "chat";
  TextCodec codec = test::pair_codec();
  codec.chat = [](const std::string& message) { return "<" + message + "> "; };
  chat.ids = codec.encode("<Say> ");
  EXPECT_EQ(forced_input(chat, codec).ids, codec.encode("<Say> 1"));
  EXPECT_EQ(forced_input(chat, codec).first, 5);  // "> " and "1": the space went into " 1"
}

TEST(TeacherForced, FoundIfEveryTokenIsTheMostLikely) {
  const auto probe = [&](const std::vector<int64_t>& ranks) {
    ProbeOptions options;
    options.stage = "probe";
    return run_teacher_forced({item_of()}, [&](const std::vector<int32_t>&, int64_t first) {
      EXPECT_EQ(first, 9);
      return AnswerScore{std::vector<double>(ranks.size(), -0.5), ranks};
    }, test::pair_codec(), options).at(0);
  };
  const ItemResult found = probe({0, 0, 0}), lost = probe({0, 3, 1});
  EXPECT_TRUE(found.hit);
  EXPECT_EQ(found.score, 100);
  EXPECT_EQ(found.answer_logprob, -0.5);
  EXPECT_EQ(found.answer_tokens, 3);
  EXPECT_FALSE(lost.hit);
  EXPECT_EQ(lost.answer_rank, 3);
  const nlohmann::ordered_json row = to_json(lost);
  EXPECT_EQ(row["reading"], "teacher_forced");
  EXPECT_EQ(item_result_from_json(row, "p").answer_rank, 3);
  EXPECT_FALSE(to_json(result_of(item_of(), ProbeOptions())).contains("answer_rank"));
  EXPECT_EQ(QKR_MESSAGE_OF(probe({})), "niah_single_1/512/0#0: the answer must have a token, got none");
}

TEST(TeacherForced, ReadingsAreCellsOfTheirOwnAndAgreeByKappa) {
  std::vector<ItemResult> results;
  const std::string generated = "1111100000", forced = "1111010000";
  for (const auto& [reading, hits] : {std::pair("generate", generated), std::pair("teacher_forced", forced)}) {
    for (size_t i = 0; i < hits.size(); ++i) {
      ItemResult r;
      r.stage = "probe";
      r.task = "niah_single_2";
      r.length = 512;
      r.id = std::to_string(i);
      r.reading = reading;
      r.hit = hits[i] == '1';
      r.score = r.hit ? 100 : 0;
      r.seconds = r.reading == "generate" ? 2 : 0.5;
      results.push_back(r);
    }
  }
  EXPECT_EQ(probe_table(results),
            "niah_single_2                 512  n=10  50.0%  [23.7, 76.3]\n"
            "niah_single_2 teacher-forced  512  n=10  50.0%  [23.7, 76.3]\n");
  EXPECT_EQ(agreement_table(results),
            "task           length  n   generate  teacher-forced  both  only gen.  only t.f.  neither  kappa  s gen.  s t.f.\n"
            "niah_single_2     512  10  50.0%     50.0%           4     1          1          4        0.60   2.00    0.50\n");
  results.resize(10);
  EXPECT_EQ(agreement_table(results), "");
}

}  // namespace
}  // namespace qkr
