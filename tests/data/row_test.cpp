// One line → one sample: raw members, refusals of a conversation, truncation.
#include "trainer/data/row.h"

#include <gtest/gtest.h>

#include "tests/support/tmpdir.h"
#include "trainer/data/json_members.h"

namespace qkr {
namespace {

TEST(JsonMembers, GivesTheTextAsItIsWritten) {
  const std::string line = "  {\"a\" : {\"x\": [1e-07, \"}\\\"]\"], \"y\":{}} , \"big\":1180591620717411303424,\"s\":\"a,b\" }\r";
  const auto members = json_members(line);
  ASSERT_EQ(members.size(), 3u);
  EXPECT_EQ(members[0].first, "a");
  EXPECT_EQ(members[0].second, "{\"x\": [1e-07, \"}\\\"]\"], \"y\":{}}");
  EXPECT_EQ(members[1].second, "1180591620717411303424");
  EXPECT_EQ(members[2].second, "\"a,b\"");
  EXPECT_EQ(json_member(line, "s", "null"), "\"a,b\"");
  EXPECT_EQ(json_member(line, "x", "null"), "null");  // not at the top
  EXPECT_TRUE(json_members("{}").empty());
  EXPECT_TRUE(json_members("{ }").empty());
}

TEST(JsonMembers, NeverLeavesTheText) {
  const std::string good = "{\"a\":[1,{\"b\":\"c\\\"\"}],\"d\":\"e\"}";
  for (size_t size = 0; size <= good.size(); ++size) {
    for (const auto& [key, value] : json_members(std::string_view(good).substr(0, size))) {
      EXPECT_LE(key.size() + value.size(), size);
    }
  }
}

std::string refusal(const std::string& messages) {
  return QKR_MESSAGE_OF(check_messages(nlohmann::json::parse(messages), "a.jsonl:3"));
}

TEST(CheckMessages, NamesTheMessageAndTheRule) {
  EXPECT_EQ(refusal(R"([{"role":"system","content":""},{"role":"user","content":"q"},{"role":"assistant","content":"a",
                        "reasoning_content":null,"tool_calls":[]},{"role":"tool","content":"r"}])"), "");
  EXPECT_EQ(refusal(R"([{"role":"user","content":"q"},{"role":"developer","content":"x"}])"),
            "a.jsonl:3: messages[1].role: must be one of system, user, assistant, tool, got 'developer'");
  EXPECT_EQ(refusal(R"([{"role":"asistant","content":"x"}])"),
            "a.jsonl:3: messages[0].role: must be one of system, user, assistant, tool, got 'asistant'; did you mean assistant?");
  EXPECT_EQ(refusal(R"([{"role":"user","content":null}])"),
            "a.jsonl:3: messages[0].content: must be a string, got null; write \"\" where there is none");
  EXPECT_EQ(refusal(R"([{"role":"assistant","tool_calls":[{"function":{}}]}])"),
            "a.jsonl:3: messages[0].content: must be a string, got none; write \"\" where there is none");
  EXPECT_EQ(refusal(R"([{"role":"user","content":[{"type":"text","text":"q"}]}])"),
            "a.jsonl:3: messages[0].content: must be a string, got a list");
  EXPECT_EQ(refusal(R"([{"role":"user","content":3}])"), "a.jsonl:3: messages[0].content: must be a string, got number");
  EXPECT_EQ(refusal(R"([{"role":null,"content":"x"}])"), "a.jsonl:3: messages[0].role: must be a string, got null");
  EXPECT_EQ(refusal(R"([{"from":"human","value":"x"}])"),
            "a.jsonl:3: messages[0].role: must be given, got from, value; write role and content for from and value");
  EXPECT_EQ(refusal(R"([{"role":"assistant","content":"x","reasoning_content":["y"]}])"),
            "a.jsonl:3: messages[0].reasoning_content: must be a string or null, got array");
  EXPECT_EQ(refusal(R"([{"role":"assistant","content":"x","tool_calls":"y"}])"),
            "a.jsonl:3: messages[0].tool_calls: must be a list or null, got string");
  EXPECT_EQ(refusal(R"(["x"])"), "a.jsonl:3: messages[0]: must be an object, got string");
  EXPECT_EQ(refusal(R"([])"), "a.jsonl:3: messages: must not be empty, got []");
  EXPECT_EQ(refusal(R"("x")"), "a.jsonl:3: messages: must be a list, got string");
}

Sample made(const std::vector<int32_t>& ids, const std::string& mask) {
  Sample sample{ids, {}};
  for (const char c : mask) sample.trained.push_back(c == '1' ? 1 : 0);
  return sample;
}

std::string cut(const std::string& mask, int64_t max_length) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < mask.size(); ++i) ids.push_back(static_cast<int32_t>(i));
  Sample sample = made(ids, mask);
  truncate_sample(sample, max_length);
  std::string text;
  for (size_t i = 0; i < sample.ids.size(); ++i) {
    text += std::to_string(sample.ids[i]) + (sample.trained[i] != 0 ? "* " : " ");
  }
  return text;
}

TEST(Truncate, KeepsTheEndOfTurnToken) {
  EXPECT_EQ(cut("001111", 6), "0 1 2* 3* 4* 5* ");        // fits
  EXPECT_EQ(cut("001111", 5), "0 1 2* 3* 5* ");           // through the turn: its end stays
  EXPECT_EQ(cut("001111", 4), "0 1 2* 5* ");
  EXPECT_EQ(cut("0011110", 5), "0 1 2* 3* 5* ");          // a newline after the end is not the end
  EXPECT_EQ(cut("001111", 3), "");                        // only the end of the turn would be left of it
  EXPECT_EQ(cut("0110000111", 6), "0 1* 2* ");            // through the question: ends with the last whole turn
  EXPECT_EQ(cut("0110000111", 8), "0 1* 2* ");            // after the second header
  EXPECT_EQ(cut("0110000111", 9), "0 1* 2* 3 4 5 6 7* 9* ");
  EXPECT_EQ(cut("0110000111", 3), "0 1* 2* ");            // exactly at the end of a turn
  EXPECT_EQ(cut("000000", 3), "");                        // nothing is trained at all
  EXPECT_EQ(cut("1111", 2), "0* 3* ");
}

TEST(CountLabels, LeavesTheFirstTokenOut) {
  EXPECT_EQ(count_labels(made({1, 2, 3}, "111")), 2);
  EXPECT_EQ(count_labels(made({1}, "1")), 0);
  EXPECT_EQ(count_labels({}), 0);
}

}  // namespace
}  // namespace qkr
