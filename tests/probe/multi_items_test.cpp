// Items of the tasks with several needles, and of the template modes.
#include <gtest/gtest.h>

#include <set>

#include "tests/support/tmpdir.h"
#include "trainer/core/text.h"
#include "trainer/probe/generated_text.h"
#include "trainer/probe/items.h"

namespace qkr {
namespace {

// One token a word or a line end.
TextCodec word_codec() {
  TextCodec codec;
  codec.encode = [](std::string_view text) {
    std::vector<int32_t> ids;
    std::string word;
    for (const char c : text) {
      if (c != ' ' && c != '\n') {
        word.push_back(c);
        continue;
      }
      ids.push_back(static_cast<int32_t>(std::hash<std::string>()(word) & 0xFFFF));
      word.assign(1, c);
    }
    ids.push_back(static_cast<int32_t>(std::hash<std::string>()(word) & 0xFFFF));
    return ids;
  };
  return codec;
}

ProbeConfigSection config_of(const std::string& task, int64_t length = 1600) {
  ProbeConfigSection config;
  config.tasks = {task};
  config.lengths = {length};
  config.samples = 5;
  return config;
}

std::vector<NeedleItem> items_of(const std::string& task) {
  const Haystack haystack = generated_haystack();
  return draw_items(config_of(task), &haystack, word_codec());
}

int64_t count_of(const std::string& text, const std::string& part) {
  int64_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(MultiItems, HoldWhatTheyAskFor) {
  const struct {
    const char* task;
    size_t needles, answers;
  } cases[] = {{"niah_multikey_1", 4, 1}, {"niah_multikey_2", 1, 1}, {"niah_multikey_3", 1, 1},
               {"niah_multivalue", 4, 4}, {"niah_multiquery", 4, 4}};
  for (const auto& c : cases) {
    for (const NeedleItem& item : items_of(c.task)) {
      SCOPED_TRACE(item.id);
      ASSERT_EQ(item.needles.size(), c.needles);
      EXPECT_EQ(1 + item.other_values.size(), c.answers);
      std::set<std::string> keys, values;
      std::set<double> depths;
      for (const Needle& needle : item.needles) {
        EXPECT_EQ(count_of(item.prompt, needle_text(item.task, needle)), 1);
        keys.insert(needle.key);
        values.insert(needle.value);
        depths.insert(needle.depth);
      }
      EXPECT_EQ(keys.size(), item.task == NeedleTask::kMultiValue ? 1u : c.needles);
      EXPECT_EQ(values.size(), c.needles);
      EXPECT_EQ(depths.size(), c.needles);
      EXPECT_EQ(item.max_new_tokens, 0);
      EXPECT_LE(item.prompt_tokens + 128, item.length);
      EXPECT_GT(item.prompt_tokens + 128, item.length - 30);
      EXPECT_EQ(count_of(item.answer_prefix, item.key), 1);
      // The answers are those of the keys asked for, in their order.
      const auto first = std::find_if(item.needles.begin(), item.needles.end(), [&](const Needle& n) { return n.value == item.value; });
      ASSERT_NE(first, item.needles.end());
      EXPECT_EQ(first->depth, traits_of(item.task).haystack == HaystackKind::kText ? item.depth : 0);
      EXPECT_EQ(item.key.rfind(first->key, 0), 0u);
    }
  }
}

TEST(MultiItems, NeedlesAmongNeedles) {
  for (const NeedleItem& item : items_of("niah_multikey_3")) {
    EXPECT_EQ(item.haystack, "needles");
    EXPECT_EQ(item.haystack_sha256, "");
    EXPECT_EQ(count_of(item.prompt, "One of the special magic uuids for "), item.num_haystack + 1);
    EXPECT_EQ(count_of(item.prompt, item.key), 2);  // the needle and the question
    EXPECT_EQ(count_of(item.answer_prefix, item.key), 1);
    EXPECT_EQ(item.key.size(), 36u);
  }
  // A line is the same in every haystack of the item, long or short.
  EXPECT_EQ(draw_distractor(42, NeedleTask::kMultiKey2, 4096, 0, 7, "x").key,
            draw_distractor(42, NeedleTask::kMultiKey2, 4096, 0, 7, "y").key);
  EXPECT_NE(draw_distractor(42, NeedleTask::kMultiKey2, 4096, 0, 7, "x").key,
            draw_distractor(42, NeedleTask::kMultiKey2, 4096, 0, 8, "x").key);
}

TEST(MultiItems, VariableTracking) {
  for (const NeedleItem& item : items_of("vt")) {
    SCOPED_TRACE(item.id);
    EXPECT_EQ(item.max_new_tokens, 30);
    EXPECT_EQ(item.haystack, "noise");
    EXPECT_LE(item.prompt_tokens + 30, item.length);
    EXPECT_GT(item.prompt_tokens + 30, item.length - 30);
    ASSERT_EQ(item.other_values.size(), 4u);
    std::string before = item.value;
    EXPECT_EQ(count_of(item.prompt, "VAR " + item.value + " = " + item.key + "\n"), 1);
    for (const std::string& name : item.other_values) {
      EXPECT_EQ(count_of(item.prompt, "VAR " + name + " = VAR " + before + " \n"), 1);
      before = name;
    }
    const std::string example = item.prompt.substr(0, item.prompt.find("\n\nMemorize"));
    const size_t tokens = word_codec().encode(example).size();  // with its five answers
    EXPECT_TRUE(tokens > 480 && tokens <= 506) << tokens;
  }
  EXPECT_EQ(QKR_MESSAGE_OF(draw_items(config_of("vt", 600), nullptr, word_codec())).substr(0, 70),
            "probe.lengths: 600 is too short for vt: 5 lines of haystack takes 675 ");
}

TEST(Modes, WrapThePrompt) {
  TextCodec codec = word_codec();
  codec.input_prefix = {-7};
  codec.chat = [](const std::string& message) { return "<user> " + message + " <assistant>"; };
  const Haystack haystack = generated_haystack();
  ProbeConfigSection config = config_of("niah_single_2");
  const auto first = [&](const std::string& mode) {
    config.mode = mode;
    return draw_items(config, &haystack, codec).at(0);
  };
  const NeedleItem base = first("base"), plain = first("default"), chat = first("chat");
  EXPECT_EQ(base.ids[0], -7);
  EXPECT_EQ(plain.ids, codec.encode("<user> " + plain.prompt + " <assistant>" + plain.answer_prefix));
  EXPECT_EQ(chat.ids, codec.encode("<user> " + chat.prompt + " <assistant>"));
  EXPECT_EQ(chat.answer_prefix, "");
  EXPECT_EQ(plain.mode, "default");
  EXPECT_EQ(base.key, chat.key);  // the same needle in every mode
  EXPECT_NE(base.id, plain.id);
  EXPECT_EQ(plain.answer_token_position,
            static_cast<int64_t>(codec.encode("<user> " + plain.prompt.substr(0, plain.prompt.find(plain.value))).size()));
  config.tasks = {"vt"};
  EXPECT_EQ(first("default").max_new_tokens, 30);
  EXPECT_EQ(first("chat").max_new_tokens, 0);
  codec.chat = nullptr;
  EXPECT_EQ(QKR_MESSAGE_OF(first("chat")), "probe.mode: chat needs a model with a chat template, got one without");
}

TEST(Tasks, ConfigurationAndProbeKnowTheSame) {
  std::vector<std::string> known;
  for (const NeedleTask task : needle_tasks()) known.emplace_back(needle_task_name(task));
  ProbeConfigSection section;
  section.visit([&](const char* name, auto&, const char*, const Rule& rule = {}) {
    if (std::string_view(name) == "tasks") {
      EXPECT_EQ(rule.one_of, known);
    }
  });
}

}  // namespace
}  // namespace qkr
