#include "trainer/probe/items.h"

#include <gtest/gtest.h>

#include <cctype>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>
#include <utility>

#include <nlohmann/json.hpp>

#include "tests/support/byte_codec.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/probe/generated_text.h"
#include "trainer/probe/sizing.h"
#include "trainer/probe/words.h"

namespace qkr {
namespace {

// A tokenizer in the manner of BPE ones: a word takes its space along and breaks every 4 letters,
// digits stand alone.
std::vector<std::string> pieces(std::string_view text) {
  std::vector<std::string> out;
  for (const char c : text) {
    const bool letter = std::isalpha(static_cast<unsigned char>(c)) != 0;
    const bool joins =
        letter && !out.empty() && out.back().size() < 5 &&
        (out.back() == " " || std::isalpha(static_cast<unsigned char>(out.back().back())) != 0);
    if (joins) {
      out.back().push_back(c);
    } else {
      out.emplace_back(1, c);
    }
  }
  return out;
}

struct CountingCodec {
  std::vector<size_t> sizes;  // bytes of each text encoded
  TextCodec codec() {
    TextCodec codec;
    codec.encode = [this](std::string_view text) {
      sizes.push_back(text.size());
      std::vector<int32_t> ids;
      for (const std::string& piece : pieces(text))
        ids.push_back(static_cast<int32_t>(std::hash<std::string>()(piece) & 0xFFFF));
      return ids;
    };
    return codec;
  }
};

ProbeConfigSection small_config() {
  ProbeConfigSection config;
  config.lengths = {512, 3000};
  config.samples = 6;
  return config;
}

TEST(Words, AreThoseOfWonderwords) {
  const auto json = nlohmann::json::parse(
      test::read_file(test::source_dir() / "third_party/wonderwords/words.json"));
  const auto same = [](const nlohmann::json& want, const std::vector<std::string_view>& got) {
    return want.get<std::vector<std::string>>() == std::vector<std::string>(got.begin(), got.end());
  };
  EXPECT_TRUE(same(json.at("adjectives"), adjectives()));
  EXPECT_TRUE(same(json.at("nouns"), nouns()));
  EXPECT_EQ(adjectives().size(), 912u);
  EXPECT_EQ(nouns().size(), 6782u);
  // Uniform pairs are uniform keys if no two pairs make one key: "a-b" + "c" and "a" + "b-c".
  const std::vector<std::string_view>& all = distinct_adjectives();
  for (const std::string_view word : all) {
    for (size_t hyphen = word.find('-'); hyphen != std::string_view::npos;
         hyphen = word.find('-', hyphen + 1)) {
      if (std::count(all.begin(), all.end(), word.substr(0, hyphen)) == 0) continue;
      const std::string tail = std::string(word.substr(hyphen + 1)) + "-";
      for (const std::string_view noun : nouns())
        EXPECT_NE(noun.substr(0, tail.size()), tail) << word;
    }
  }
  EXPECT_EQ(distinct_adjectives().size() * nouns().size(), 6171620u);
}

TEST(Draw, IsGolden) {
  const NeedleDraw one = draw_needle(42, NeedleTask::kSingle1, 4096, 0);
  EXPECT_EQ(one.key, "warlike-belligerency");
  EXPECT_EQ(one.value, "2712948");
  EXPECT_NEAR(one.fraction, 0.52234, 1e-5);
  const NeedleDraw two = draw_needle(42, NeedleTask::kSingle2, 4096, 0);
  EXPECT_EQ(two.key, "steady-study");
  EXPECT_EQ(two.value, "2381840");
  EXPECT_EQ(two.depth, 74);
  const NeedleDraw three = draw_needle(42, NeedleTask::kSingle3, 4096, 0);
  EXPECT_EQ(three.key, "proud-embellishment");
  EXPECT_EQ(three.value, "0adae1ef-7369-4b33-81d0-02393f42ade1");
  EXPECT_EQ(three.depth, 69);
}

TEST(Draw, EveryArgumentMatters) {
  std::set<std::string> keys, values;
  for (const int64_t seed : {42, 43}) {
    for (const NeedleTask task :
         {NeedleTask::kSingle1, NeedleTask::kSingle2, NeedleTask::kSingle3}) {
      for (const int64_t length : {4096, 8192}) {
        for (int64_t index = 0; index < 50; ++index) {
          const NeedleDraw draw = draw_needle(seed, task, length, index);
          keys.insert(draw.key);
          values.insert(draw.value);
        }
      }
    }
  }
  EXPECT_GE(keys.size(), 599u);
  EXPECT_GE(values.size(), 599u);
}

TEST(Draw, ValuesHaveTheirForm) {
  std::array<int, 9> first_digits{};
  for (int64_t index = 0; index < 2000; ++index) {
    const std::string number = draw_needle(1, NeedleTask::kSingle2, 4096, index).value;
    ASSERT_EQ(number.size(), 7u);
    ++first_digits.at(static_cast<size_t>(number[0] - '1'));
    const std::string uuid = draw_needle(1, NeedleTask::kSingle3, 4096, index).value;
    ASSERT_EQ(uuid.size(), 36u);
    ASSERT_EQ(uuid[14], '4') << uuid;
    ASSERT_NE(std::string("89ab").find(uuid[19]), std::string::npos) << uuid;
    for (size_t i = 0; i < 36; ++i) {
      const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
      ASSERT_EQ(uuid[i] == '-', dash) << uuid;
      ASSERT_TRUE(dash || std::string("0123456789abcdef").find(uuid[i]) != std::string::npos)
          << uuid;
    }
  }
  for (const int count : first_digits) EXPECT_NEAR(count, 222, 60);
}

// 40 items of a cell stand at the 40 depths, each once, in an order that differs from cell to cell.
TEST(Draw, DepthsCoverTheLength) {
  ASSERT_EQ(depth_points().size(), 40u);
  std::set<double> depths, fractions;
  std::vector<double> order, other;
  for (int64_t index = 40; index < 80; ++index) {
    depths.insert(draw_needle(42, NeedleTask::kSingle2, 4096, index).depth);
    order.push_back(draw_needle(42, NeedleTask::kSingle2, 4096, index).depth);
    other.push_back(draw_needle(42, NeedleTask::kSingle2, 8192, index).depth);
    const double fraction = draw_needle(42, NeedleTask::kSingle1, 4096, index).fraction;
    EXPECT_TRUE(fraction >= 0 && fraction < 1);
    fractions.insert(std::floor(fraction * 40));
  }
  EXPECT_EQ(depths, std::set<double>(depth_points().begin(), depth_points().end()));
  EXPECT_EQ(fractions.size(), 40u);
  EXPECT_NE(order, other);
}

TEST(Items, AreAsLongAsFits) {
  CountingCodec counting;
  const TextCodec codec = counting.codec();
  const Haystack haystack = generated_haystack();
  const ProbeConfigSection config = small_config();
  const std::vector<NeedleItem> items = draw_items(config, &haystack, codec);
  ASSERT_EQ(items.size(), 3u * 2 * 6);
  std::set<std::string> ids;
  for (const NeedleItem& item : items) {
    SCOPED_TRACE(item.id);
    ids.insert(item.id);
    EXPECT_LE(item.prompt_tokens + config.max_new_tokens, item.length);
    EXPECT_EQ(item.ids, codec.encode(item.prompt + item.answer_prefix));
    EXPECT_EQ(item.prompt_tokens, static_cast<int64_t>(item.ids.size()));
    PromptFields fields;
    fields.task = item.task;
    fields.needles = {{item.key, item.value, item.depth, item.insert_line}};
    fields.asked = {item.key};
    fields.num_haystack = item.num_haystack;
    const Prompt same = build_prompt(fields, &haystack);
    EXPECT_EQ(same.prompt, item.prompt);
    EXPECT_EQ(item.answer_token_position,
              static_cast<int64_t>(codec.encode(item.prompt.substr(0, same.value_byte)).size()));
    ++fields.num_haystack;
    const Prompt longer = build_prompt(fields, &haystack);
    EXPECT_GT(static_cast<int64_t>(codec.encode(longer.prompt + longer.answer_prefix).size()) +
                  config.max_new_tokens,
              item.length);
    const bool noise = item.task == NeedleTask::kSingle1;
    EXPECT_EQ(item.haystack, noise ? "noise" : "generated");
    EXPECT_EQ(item.haystack_sha256, noise ? "" : haystack.digest());
    EXPECT_EQ(item.sentence_rule, noise ? "" : "plain");
    EXPECT_TRUE(!noise || item.depth == 100.0 * static_cast<double>(item.insert_line) /
                                            static_cast<double>(item.num_haystack));
  }
  EXPECT_EQ(ids.size(), items.size());
}

TEST(Items, AreTheSameWhateverTheSearchBeganWith) {
  CountingCodec counting;
  const TextCodec codec = counting.codec();
  const Haystack haystack = generated_haystack();
  const ProbeConfigSection config = small_config();
  const std::vector<NeedleItem> items = draw_items(config, &haystack, codec),
                                again = draw_items(config, &haystack, codec);
  for (size_t i = 0; i < items.size(); ++i) {
    const NeedleItem alone =
        draw_item(config, items[i].task, items[i].length, items[i].index, &haystack, codec, 0);
    const NeedleItem far =
        draw_item(config, items[i].task, items[i].length, items[i].index, &haystack, codec, 9000);
    EXPECT_EQ(items[i].id, again[i].id);
    EXPECT_EQ(items[i].id, alone.id);
    EXPECT_EQ(items[i].id, far.id);
    EXPECT_EQ(items[i].ids, alone.ids);
  }
}

TEST(Items, ThreadsAndPartsOfACellGiveTheSame) {
  const TextCodec alone = test::byte_codec();
  std::mutex mutex;
  std::condition_variable another;
  std::set<std::thread::id> threads;
  const bool cores = std::thread::hardware_concurrency() > 1;
  bool waited = false;
  TextCodec many = alone;
  many.many_threads = true;
  many.encode = [&](std::string_view text) {  // nobody gets on before a second thread has come
    std::unique_lock<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
    another.notify_all();
    EXPECT_TRUE(!cores || another.wait_for(lock, std::chrono::seconds(60), [&] { return threads.size() > 1; }));
    lock.unlock();
    return alone.encode(text);
  };
  const Haystack haystack = generated_haystack();
  ProbeConfigSection config = small_config();
  config.lengths = {1500, 6000};
  const std::vector<NeedleItem> want = draw_items(config, &haystack, alone);
  const std::vector<NeedleItem> got = draw_items(config, &haystack, many);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    EXPECT_EQ(got[i].id, want[i].id);
    EXPECT_EQ(got[i].ids, want[i].ids);
  }
  const std::vector<NeedleItem> part = draw_cell(config, want[8].task, want[8].length, 2, 4, &haystack, many);
  ASSERT_EQ(part.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(part[i].id, want[8 + i].id);
  EXPECT_TRUE(draw_cell(config, want[8].task, want[8].length, 2, 0, &haystack, many).empty());
  config.lengths = {6000, 500};
  EXPECT_EQ(QKR_MESSAGE_OF(draw_items(config, &haystack, many)), QKR_MESSAGE_OF(draw_items(config, &haystack, alone)));
  threads.clear();
  many.many_threads = false;  // of a program in one thread
  many.encode = [&](std::string_view text) {
    std::unique_lock<std::mutex> lock(mutex);
    threads.insert(std::this_thread::get_id());
    another.notify_all();
    if (!std::exchange(waited, true)) another.wait_for(lock, std::chrono::milliseconds(100), [&] { return threads.size() > 1; });
    lock.unlock();
    return alone.encode(text);
  };
  config.lengths = {1500};
  EXPECT_EQ(draw_items(config, &haystack, many).size(), 18u);
  EXPECT_EQ(threads.size(), 1u);
}

TEST(Items, LongPromptsAreEncodedSeldom) {
  CountingCodec counting;
  const TextCodec codec = counting.codec();
  const Haystack haystack = generated_haystack();
  ProbeConfigSection config;
  config.lengths = {262144};
  config.samples = 3;
  for (const std::string task : {"niah_single_1", "niah_single_2"}) {
    config.tasks = {task};
    counting.sizes.clear();
    const std::vector<NeedleItem> items = draw_items(config, &haystack, codec);
    const size_t whole = items[0].prompt.size();
    const auto many = std::count_if(counting.sizes.begin(), counting.sizes.end(),
                                    [&](size_t size) { return size > whole * 9 / 10; });
    size_t bytes = 0;
    for (const size_t size : counting.sizes) bytes += size;
    EXPECT_LE(many, 4 * 3)
        << task;  // the search, and the tokens before the value where that stands late
    EXPECT_LE(bytes, 13 * whole) << task;
  }
}

TEST(Items, InputPrefixCounts) {
  CountingCodec counting;
  TextCodec codec = counting.codec();
  codec.input_prefix = {-7};
  ProbeConfigSection config = small_config();
  config.tasks = {"niah_single_1"};
  const std::vector<NeedleItem> items = draw_items(config, nullptr, codec);
  EXPECT_EQ(items[0].ids[0], -7);
  EXPECT_EQ(
      items[0].prompt_tokens,
      static_cast<int64_t>(codec.encode(items[0].prompt + items[0].answer_prefix).size()) + 1);
  EXPECT_LE(items[0].prompt_tokens + config.max_new_tokens, items[0].length);
}

TEST(Items, WrongRequestsAreRefused) {
  CountingCodec counting;
  const TextCodec codec = counting.codec();
  ProbeConfigSection config = small_config();
  config.samples = 1;
  EXPECT_EQ(QKR_MESSAGE_OF(draw_items(config, nullptr, codec)),
            "probe.haystack: niah_single_2 needs a text");
  config.tasks = {"niah_single_4"};
  EXPECT_EQ(
      QKR_MESSAGE_OF(draw_items(config, nullptr, codec)),
      "probe.tasks: must be of niah_single_1, niah_single_2, niah_single_3, niah_multikey_1, niah_multikey_2, niah_multikey_3, "
      "niah_multivalue, niah_multiquery, vt, got 'niah_single_4'; did you mean niah_single_1?");
  config.tasks = {"niah_single_1"};
  config.lengths = {200};
  const std::string message = QKR_MESSAGE_OF(draw_items(config, nullptr, codec));
  EXPECT_EQ(message.find(
                "probe.lengths: 200 is too short for niah_single_1: one line of haystack takes "),
            0u)
      << message;
  config.lengths = {4096};
  config.tasks = {"niah_single_2"};
  const Haystack flat("words without any end", "flat.txt");
  const std::string no_sentence = QKR_MESSAGE_OF(draw_items(config, &flat, codec));
  EXPECT_EQ(no_sentence.find(
                "flat.txt: must have sentences that end in . ! or ? and a space, got one in "),
            0u)
      << no_sentence;
}

TEST(Prompt, PlacesOutsideTheHaystackAreRefused) {
  PromptFields fields;
  fields.needles = {{"old-oar", "1234567", 0, 3}};
  fields.asked = {"old-oar"};
  fields.num_haystack = 3;
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "niah_single_1: insert_line must be in 0 .. 2, got 3");
  fields.num_haystack = 0;
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "niah_single_1: num_haystack must be at least 1 line, got 0");
  fields.task = NeedleTask::kSingle3;
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)), "niah_single_3: needs a haystack text");
}

TEST(Prompt, FieldsThatDoNotFitTheTaskAreRefused) {
  PromptFields fields;
  fields.num_haystack = 3;
  fields.needles = {{"old-oar", "1234567", 0, 1}};
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "niah_single_1: must have 1 needles and 1 keys asked for, got 1 and 0");
  fields.asked = {"new-oar"};
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "niah_single_1: a needle must have the key 'new-oar', got none");
  fields.task = NeedleTask::kMultiKey2;
  fields.asked = {"old-oar"};
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "niah_multikey_2: must have a distractor for each of 3 lines, got 0");
  fields.task = NeedleTask::kVariableTracking;
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)),
            "vt: a chain must have 5 variables and lines, got 0 and 0");
  fields.chain = {{"A", "B", "C", "D", "E"}, "12345", {0, 1, 2, 2, 4}, 0};
  fields.num_haystack = 6;
  EXPECT_EQ(QKR_MESSAGE_OF(build_prompt(fields, nullptr)), "vt: insert_line must be in 3 .. 5, got 2");
}

// Whatever `part` claims and wherever it begins, the answer is a measured boundary.
TEST(Sizing, EndsAtAMeasuredBoundary) {
  const auto whole = [](int64_t n) { return 40 + 3 * n + (n % 7 == 0 ? 5 : 0); };
  int worst = 0;
  for (const int64_t budget : {10, 42, 43, 48, 100, 3041, 100000}) {
    for (const int64_t guess : {0, 1, 14, 33333, 500000}) {
      for (const double lie : {1.0, 0.0, 0.5, 20.0}) {
        int calls = 0;
        Sizing sizing;
        sizing.budget = budget;
        sizing.guess = guess;
        sizing.whole = [&](int64_t n) { return ++calls, whole(n); };
        sizing.part = [&](int64_t first, int64_t last) {
          return static_cast<int64_t>(lie * 3 * static_cast<double>(last - first));
        };
        const int64_t n = largest_that_fits(sizing);
        EXPECT_TRUE(n == 0 || whole(n) <= budget) << n;
        EXPECT_GT(whole(n + 1), budget);
        worst = std::max(worst, calls);
      }
    }
  }
  EXPECT_LE(worst, 40);
}

}  // namespace
}  // namespace qkr
