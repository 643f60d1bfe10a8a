#include "trainer/probe/runner.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tmpdir.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"

namespace qkr {
namespace {

// One byte a token; 1000 ends a text and would show, 1001 is special and decodes to nothing.
TextCodec byte_codec() {
  TextCodec codec;
  codec.encode = [](std::string_view text) {
    return std::vector<int32_t>(text.begin(), text.end());
  };
  codec.decode = [](const std::vector<int32_t>& ids) {
    std::string text;
    for (const int32_t id : ids) {
      if (id < 1000) text.push_back(static_cast<char>(id));
      if (id == 1000) text += "<end>";
    }
    return text;
  };
  return codec;
}

NeedleItem item_of(const std::string& value, int64_t index = 0) {
  NeedleItem item;
  item.id = "niah_single_1/512/" + std::to_string(index);
  item.length = 512;
  item.index = index;
  item.key = "old-oar";
  item.value = value;
  item.ids = {1, 2, 3};
  item.prompt_tokens = 3;
  item.haystack = "noise";
  return item;
}

// Says `text` token by token until it is told to stop or has no more.
Generator says(const std::vector<int32_t>& text) {
  return [text](const std::vector<int32_t>& prompt, const StopRule& stop) {
    EXPECT_EQ(prompt, (std::vector<int32_t>{1, 2, 3}));
    std::vector<int32_t> out;
    for (const int32_t id : text) {
      out.push_back(id);
      if (stop(out)) break;
    }
    return out;
  };
}

std::vector<int32_t> bytes(const std::string& text) { return {text.begin(), text.end()}; }

ItemResult probe_one(const std::vector<int32_t>& text, int64_t max_new_tokens = 128,
                     const std::string& value = "1234567") {
  ProbeOptions options;
  options.stage = "start";
  options.max_new_tokens = max_new_tokens;
  options.eos_ids = {1000};
  return run_probe({item_of(value)}, says(text), byte_codec(), options).at(0);
}

TEST(Runner, StopsOnceTheValueHasAppeared) {
  const ItemResult result = probe_one(bytes(" It is 91234567 and so on"));
  EXPECT_EQ(result.prediction, " It is 91234567");
  EXPECT_EQ(result.stopped, "value");
  EXPECT_EQ(result.generated_tokens, 15);
  EXPECT_EQ(result.score, 100);
  EXPECT_TRUE(result.hit);
  EXPECT_FALSE(result.is_null);
  const std::string uuid = "3f2b8c1e-9d4a-4f6b-8e2c-0a1b2c3d4e5f";
  EXPECT_EQ(
      probe_one(bytes(std::string(60, 'x') + "3F2B8C1E-9D4A-4F6B-8E2C-0A1B2C3D4E5F."), 128, uuid)
          .stopped,
      "value");
}

TEST(Runner, StopsAtTheEndTokenAndLeavesItOut) {
  std::vector<int32_t> text = bytes(" 123");
  text.push_back(1000);
  const ItemResult result = probe_one(text);
  EXPECT_EQ(result.prediction, " 123");
  EXPECT_EQ(result.stopped, "eos");
  EXPECT_EQ(result.generated_tokens, 5);
  EXPECT_FALSE(result.hit);
  const ItemResult empty = probe_one({1001, 1000});
  EXPECT_TRUE(empty.is_null);
  EXPECT_EQ(empty.score, 0);
}

TEST(Runner, StopsAtTheLimit) {
  const ItemResult result = probe_one(bytes("abcdefghijklmnop"), 5);
  EXPECT_EQ(result.prediction, "abcde");
  EXPECT_EQ(result.stopped, "length");
  EXPECT_EQ(probe_one(bytes("x1234567"), 8).stopped,
            "value");  // the last token of all completes it
  EXPECT_EQ(probe_one(bytes("x1234567"), 7).hit, false);
  EXPECT_EQ(probe_one(bytes("ab")).stopped, "generator");
  EXPECT_EQ(probe_one({}).stopped, "generator");
}

TEST(Runner, SeveralAnswersAreScoredByTheirShare) {
  NeedleItem item = item_of("1111111");
  item.other_values = {"2222222", "3333333", "4444444"};
  ProbeOptions options;
  options.eos_ids = {1000};
  const auto probe = [&](const std::string& text) {
    return run_probe({item}, says(bytes(text)), byte_codec(), options).at(0);
  };
  const ItemResult all = probe(" 4444444, 1111111, and" + std::string(60, ' ') + "3333333 2222222 5");
  EXPECT_EQ(all.stopped, "value");  // once the last of them has appeared, however far the first lies back
  EXPECT_EQ(all.generated_tokens, 22 + 60 + 15);
  EXPECT_EQ(all.score, 100);
  EXPECT_TRUE(all.hit);
  const ItemResult some = probe(" 4444444, 1111111, 3333333");
  EXPECT_EQ(some.stopped, "generator");
  EXPECT_EQ(some.score, 75);
  EXPECT_FALSE(some.hit);
  EXPECT_EQ(some.outputs, (std::vector<std::string>{"1111111", "2222222", "3333333", "4444444"}));
  item.max_new_tokens = 10;  // the task's own limit, which the options' does not widen
  EXPECT_EQ(probe(std::string(50, 'x')).generated_tokens, 10);
  EXPECT_EQ(probe("x").max_new_tokens, 10);
}

TEST(Runner, ReportsEveryItem) {
  std::vector<std::string> seen;
  ProbeOptions options;
  options.stage = "end";
  options.step = 7;
  const auto results =
      run_probe({item_of("12", 0), item_of("34", 1)}, says(bytes("12")), byte_codec(), options,
                [&](const ItemResult& r, int64_t done, int64_t total) {
                  seen.push_back(r.id + " " + std::to_string(done) + "/" + std::to_string(total));
                });
  EXPECT_EQ(seen, (std::vector<std::string>{"niah_single_1/512/0 1/2", "niah_single_1/512/1 2/2"}));
  EXPECT_TRUE(results[0].hit);
  EXPECT_FALSE(results[1].hit);
  EXPECT_EQ(results[1].step, 7);
  EXPECT_GE(results[0].seconds, 0);
  options.max_new_tokens = 0;
  EXPECT_EQ(QKR_MESSAGE_OF(run_probe({}, says({}), byte_codec(), options)),
            "probe.max_new_tokens: must be at least 1, got 0");
}

TEST(Record, KeepsItsKeysAndComesBack) {
  ItemResult result = probe_one(bytes(" \"1234567"));
  result.seconds = 1.23456;
  result.model = "m";
  result.tokenizer = "t";
  result.dtype = "d";
  const nlohmann::ordered_json row = to_json(result);
  EXPECT_EQ(
      row.dump(),
      R"({"stage":"start","step":0,"id":"niah_single_1/512/0","task":"niah_single_1","length":512,"index":0,"depth":0.0,)"
      R"("prompt_tokens":3,"key":"old-oar","value":"1234567","outputs":["1234567"],"prediction":" \"1234567","score":100.0,)"
      R"("hit":true,"null":false,"generated_tokens":9,"stopped":"value","seconds":1.235,"mode":"base","reading":"generate",)"
      R"("haystack":"noise","haystack_sha256":"","sentence_rule":"","max_new_tokens":128,"model":"m","tokenizer":"t","dtype":"d"})");
  EXPECT_EQ(to_json(item_result_from_json(row, "p")).dump(), row.dump());
  nlohmann::ordered_json older = row;  // of before the settings were kept
  for (const char* key : {"max_new_tokens", "model", "tokenizer", "dtype"}) older.erase(key);
  EXPECT_EQ(item_result_from_json(older, "p").tokenizer, "");
  nlohmann::ordered_json bad = row;
  bad["hit"] = 1;
  EXPECT_EQ(QKR_MESSAGE_OF(item_result_from_json(bad, "probe.jsonl:3")),
            "probe.jsonl:3: \"hit\" has the wrong type, got number");
  bad.erase("step");
  EXPECT_EQ(QKR_MESSAGE_OF(item_result_from_json(bad, "probe.jsonl:3")),
            "probe.jsonl:3: must have the key \"step\"");
}

std::vector<ItemResult> results_of(const std::string& stage, const std::string& hits,
                                   int64_t length = 4096) {
  std::vector<ItemResult> results;
  for (size_t i = 0; i < hits.size(); ++i) {
    ItemResult r;
    r.stage = stage;
    r.task = "niah_single_2";
    r.length = length;
    r.id = "niah_single_2/" + std::to_string(length) + "/" + std::to_string(i);
    r.hit = hits[i] == '1';
    r.score = r.hit ? 100 : 0;
    r.is_null = hits[i] == '-';
    r.seconds = 2;
    results.push_back(r);
  }
  return results;
}

std::vector<ItemResult> together(std::initializer_list<std::vector<ItemResult>> parts) {
  std::vector<ItemResult> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

const std::string kStart = std::string(22, '1') + "00-";
const std::string kEnd = std::string(8, '1') + std::string(17, '0');

TEST(Summary, OneStage) {
  const std::vector<ItemResult> results = results_of("start", kStart);
  const std::vector<CellSummary> cells = summarise(results);
  ASSERT_EQ(cells.size(), 1u);
  EXPECT_EQ(cells[0].n, 25);
  EXPECT_EQ(cells[0].hits, 22);
  EXPECT_EQ(cells[0].nulls, 1);
  EXPECT_EQ(cells[0].score, 88);
  EXPECT_EQ(cells[0].mean_seconds, 2);
  EXPECT_EQ(probe_table(results), "niah_single_2  4096  n=25  88.0%  [70.0, 95.8]\n");
  EXPECT_EQ(probe_table({}), "");
}

TEST(Summary, AnswersFoundInPartShowInTheScore) {
  std::vector<ItemResult> results = results_of("start", "1100");
  results[2].score = 75;
  EXPECT_EQ(probe_table(results), "niah_single_2  4096  n=4  50.0%  [15.0, 85.0] score 68.75\n");
}

TEST(Summary, StagesSideBySide) {
  const std::vector<ItemResult> results =
      together({results_of("start", kStart), results_of("start", "1111", 32768),
                results_of("end", kEnd), results_of("restored", std::string(21, '1') + "0000")});
  EXPECT_EQ(
      probe_table(results),
      "task           length  n     start                  end                  restored\n"
      "niah_single_2    4096  n=25  88.0%  [70.0, 95.8]    32.0%  [17.2, 51.6]  84.0%  [65.3, 93.6]\n"
      "niah_single_2   32768  n=4   100.0%  [51.0, 100.0]  -                    -\n"
      "\n"
      "niah_single_2  4096  start -> end       -56.0 points  [-71.9, -31.1]  n=25 paired  p<0.001\n"
      "niah_single_2  4096  end -> restored    +52.0 points  [+27.5, +68.1]  n=25 paired  p<0.001\n"
      "niah_single_2  4096  start -> restored  -4.0 points   [-18.5, +9.4]   n=25 paired  p=1.000\n");
}

TEST(Summary, ComparisonsArePairedByItem) {
  // Both right 8, only before 14, only after 0, both wrong 3; one item of each stage has no
  // partner.
  std::vector<ItemResult> results =
      together({results_of("start", kStart), results_of("end", kEnd)});
  results.push_back(results_of("start", "1").front());
  results.back().id = "alone";
  const std::vector<CellComparison> cells = compare(results, "start", "end");
  ASSERT_EQ(cells.size(), 1u);
  EXPECT_EQ(cells[0].counts.both, 8);
  EXPECT_EQ(cells[0].counts.only_first, 0);
  EXPECT_EQ(cells[0].counts.only_second, 14);
  EXPECT_EQ(cells[0].counts.neither, 3);
  EXPECT_NEAR(cells[0].difference, -14.0 / 25, 1e-12);
  EXPECT_LT(cells[0].interval.high, -0.2);
  EXPECT_NEAR(cells[0].p, 2 * std::pow(0.5, 14), 1e-12);
  EXPECT_TRUE(compare(results, "start", "nothing").empty());
}

}  // namespace
}  // namespace qkr
