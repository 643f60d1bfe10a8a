// What is printed reads back as the same configuration; help and schema know every key.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "tests/support/tmpdir.h"
#include "trainer/config/fields.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"

namespace qkr {
namespace {

// Another value for every field, within its rule; strings without one are any text.
struct Mutate {
  const Field& field;
  std::mt19937& random;

  static std::string any_text(std::mt19937& random) {
    static const std::vector<std::string> kParts = {"a", "Z9", " ", "'", "\"", "\\", "\n", "\t", "\x01", "\x7f", "#", ": ", "- ",
                                                    "é", "日", "null", "on", "~", "[", "}", "&x", "*x", "!", "%", "0x1", "1e5"};
    std::string text;
    for (int i = static_cast<int>(random() % 5) + 1; i > 0; --i) text += kParts[random() % kParts.size()];
    return text;
  }
  double number() const {
    const double low = std::isfinite(field.rule.min) ? field.rule.min : -1;
    const double high = std::isfinite(field.rule.max) ? field.rule.max : low + 1000;
    return std::uniform_real_distribution<double>(std::nextafter(low, high), high)(random);
  }
  std::string text() const {
    static const std::vector<std::string> kScaling = {"null", "checkpoint", "hype 500", "hype 2.5", "2.0", "0.50", "1e3"};
    if (field.rule.logits_scaling) return kScaling[random() % kScaling.size()];
    const auto& words = field.rule.one_of;
    if (words.empty()) return any_text(random);
    const std::string word = words[random() % words.size()];
    if (word == "every N") return "every " + std::to_string(1 + random() % 1000);
    const bool has_number = word.size() > 2 && word[word.size() - 2] == ':';
    return has_number ? word.substr(0, word.size() - 1) + "0." + std::to_string(random() % 1000) : word;
  }

  void operator()(std::string* v) const { *v = text(); }
  void operator()(bool* v) const { *v = !*v; }
  void operator()(int64_t* v) const { *v = std::llround(number()) + 1; }
  void operator()(double* v) const { *v = number(); }
  void operator()(std::vector<std::string>* v) const {
    const size_t count = field.rule.required ? 1 + random() % 3 : random() % 3;
    v->clear();
    while (v->size() < count) v->push_back(text());
  }
  void operator()(std::vector<int64_t>* v) const {
    v->resize(random() % 3);
    for (int64_t& item : *v) item = std::llround(number()) + 1;
  }
  void operator()(LayerChoice* v) const {
    v->word = random() % 2 == 0 ? text() : "";
    v->list.clear();
    for (size_t i = 0; v->word.empty() && i <= random() % 3; ++i) v->list.push_back(static_cast<int64_t>(i * 7));
  }
  void operator()(SampleCount* v) const { *v = std::llround(number()) + 1; }
  void operator()(std::optional<double>* v) const { *v = random() % 2 == 0 ? std::optional<double>() : number(); }
};

// Of a configuration and of all items of its lists.
std::vector<Field> all_fields(RunConfig& config) {
  std::vector<Field> fields = list_fields(config);
  for (const SectionList& list : list_section_lists(config)) {
    for (size_t i = 0; i < list.size(); ++i) {
      for (const Field& field : list.item(i)) fields.push_back(field);
    }
  }
  return fields;
}

void expect_equal(RunConfig& a, RunConfig& b) {
  const std::vector<Field> left = all_fields(a), right = all_fields(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    std::visit(
        [&](auto* value) { EXPECT_EQ(*value, *std::get<decltype(value)>(right[i].value)) << left[i].path(); },
        left[i].value);
  }
}

// Makes the random values agree where keys contradict each other otherwise.
void reconcile(RunConfig& config) {
  config.output += "/of a run";
  if (config.qk_restore.method != "plain") config.qk_restore.parts = "qk";
  if (config.qk_restore.method == "auto") config.qk_restore.at = "end";
  if (config.qk_restore.optimizer_state == "rotate") config.qk_restore.optimizer_state = "keep";
  std::set<std::string> candidates(config.qk_restore.candidates.begin(), config.qk_restore.candidates.end());
  candidates.erase("none");
  config.qk_restore.candidates.assign(candidates.begin(), candidates.end());
  config.qk_restore.candidates.insert(config.qk_restore.candidates.begin(), "none");
  config.train.micro_batch_tokens = config.data.max_length;
  config.optim.warmup = 0.123456789012345678;
  config.data.prompt_field = "p\"q";
  config.data.completion_field = "c: d";
  if (config.data.prompt_template == "chat") config.data.separator.clear();
  config.probe.tasks = {"niah_single_3", "niah_single_1"};
  config.probe.lengths = {131072, 70000};
  config.probe.max_new_tokens = 77;
  config.probe.haystack = "h #1.txt";
  config.probe.heads = false;
}

TEST(Dump, RoundTripsEveryField) {
  std::mt19937 random(7);
  const std::string defaults = dump_config(RunConfig{});
  for (int round = 0; round < 200; ++round) {
    RunConfig config;
    for (const Field& field : list_fields(config)) std::visit(Mutate{field, random}, field.value);
    reconcile(config);
    const std::string text = dump_config(config);
    ASSERT_NE(text, defaults);
    RunConfig back;
    ASSERT_NO_THROW(back = parse_config(text, "dump.yaml", {})) << text;
    expect_equal(config, back);
    ASSERT_EQ(dump_config(back), text);
  }
}

TEST(Dump, GoldenSection) {
  RunConfig config;
  config.model.path = "models/base";
  config.data.train = {"a.jsonl", "b c.jsonl"};
  config.data.separator = "\n";
  config.model.attn_logits_scaling = "2.0";
  const std::string text = dump_config(config);
  EXPECT_EQ(text.substr(0, text.find("train:\n  epochs")),
            "model:\n  path: models/base\n  init: checkpoint\n  dtype: bfloat16\n  device: auto\n  allow_slow: false\n"
            "  attn_logits_scaling: 2.0\n  chat_template: \"\"\n"
            "data:\n  train: [a.jsonl, \"b c.jsonl\"]\n  format: messages\n  prompt_field: prompt\n"
            "  completion_field: completion\n  prompt_template: none\n  separator: \"\\n\"\n  text_field: text\n"
            "  max_length: 8192\n  packing: true\n  over_length: drop\n  no_label: error\n  limit: 0\n");
  EXPECT_NE(text.find("  lr: 1e-05\n"), std::string::npos);
  EXPECT_NE(text.find("  epochs: 1.0\n"), std::string::npos);
  EXPECT_NE(text.find("\noutput: \"\"\nsave_sft_model: false\n"), std::string::npos);
}

TEST(Describe, NamesEveryKeyOnALine) {
  const std::string text = describe_config();
  RunConfig config;
  for (const Field& field : list_fields(config)) {
    EXPECT_NE(text.find("\n" + field.path() + " "), std::string::npos) << field.path();
  }
  EXPECT_NE(text.find("\noptim.schedule                 string (default cosine; one of cosine, linear, constant): after the "
                      "warm-up\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("string (required): Hugging Face model folder"), std::string::npos);
}

TEST(Schema, KnowsEveryKeyAndForbidsOthers) {
  const auto schema = nlohmann::json::parse(config_json_schema());
  EXPECT_EQ(schema["additionalProperties"], false);
  EXPECT_EQ(schema["required"], (nlohmann::json{"model", "data", "output"}));
  RunConfig config;
  for (const Field& field : list_fields(config)) {
    const auto& owner = field.section.empty() ? schema : schema["properties"][field.section];
    EXPECT_EQ(owner["additionalProperties"], false);
    ASSERT_TRUE(owner["properties"].contains(field.key)) << field.path();
    EXPECT_EQ(owner["properties"][field.key]["description"], field.help);
  }
  const auto& optim = schema["properties"]["optim"]["properties"];
  EXPECT_EQ(optim["schedule"]["enum"], (nlohmann::json{"cosine", "linear", "constant"}));
  EXPECT_EQ(optim["eps"]["exclusiveMinimum"], 0.0);
  EXPECT_EQ(schema["properties"]["probe"]["properties"]["lengths"]["items"]["minimum"], 64);
}

// Bytes flipped, cut and repeated in a good file: an Error or a configuration, never anything else.
TEST(Fuzz, MutatedFilesGiveAnErrorOrAConfiguration) {
  std::mt19937 random(3);
  RunConfig config;
  config.model.path = "m";
  config.data.train = {"a"};
  config.output = "o";
  const std::string good = dump_config(config);
  static const std::string kOdd = "{}[]:,#&*!|>'\"%@`-? \n\t~<=0";
  for (int round = 0; round < 6000; ++round) {
    std::string text = good;
    for (int edits = static_cast<int>(random() % 4) + 1; edits > 0; --edits) {
      const size_t at = random() % text.size();
      switch (random() % 3) {
        case 0: text[at] = kOdd[random() % kOdd.size()]; break;
        case 1: text.erase(at, random() % 8); break;
        default: text.insert(at, text.substr(random() % text.size(), random() % 40)); break;
      }
      if (text.empty()) text = "x";
    }
    try {
      parse_config(text, "fuzz.yaml", {});
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).rfind("fuzz.yaml", 0), 0u) << error.what();
    }
  }
}

}  // namespace
}  // namespace qkr
