#include "trainer/probe/items.h"

#include <algorithm>
#include <utility>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/random.h"
#include "trainer/probe/sizing.h"
#include "trainer/probe/words.h"

namespace qkr {
namespace {

constexpr int64_t kManyWords =
    1000;  // a haystack of so many words without a second sentence has no depths

std::string draw_uuid(SplitMix64* random) {
  uint64_t high = random->next(), low = random->next();
  high = (high & ~0xF000ull) | 0x4000ull;    // version 4
  low = (low & ~(3ull << 62)) | 1ull << 63;  // the variant of RFC 9562
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (int i = 0; i < 32; ++i) {
    if (i == 8 || i == 12 || i == 16 || i == 20) text.push_back('-');
    text.push_back(kDigits[(i < 16 ? high >> (60 - 4 * i) : low >> (124 - 4 * i)) & 15]);
  }
  return text;
}

// Which of the 40 places the item takes: a new order for every 40 items of a cell.
size_t draw_place(int64_t seed, NeedleTask task, int64_t length, int64_t index) {
  const size_t count = depth_points().size();
  const uint64_t round = static_cast<uint64_t>(index) / count;
  SplitMix64 random({static_cast<uint64_t>(seed), static_cast<uint64_t>(task),
                     static_cast<uint64_t>(length), round, 1});
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) {
    const size_t j = random.below(i + 1);
    order[i] = order[j];
    order[j] = i;
  }
  return order[static_cast<size_t>(index) % count];
}

// One candidate after another for an item, the largest that fitted kept.
class ItemBuilder {
 public:
  ItemBuilder(NeedleTask task, const NeedleDraw& draw, const Haystack* haystack,
              const TextCodec& codec)
      : draw_(draw), haystack_(haystack), codec_(codec) {
    fields_.task = task;
    fields_.key = draw.key;
    fields_.value = draw.value;
    fields_.depth = draw.depth;
  }

  // Tokens of the whole input with so many units.
  int64_t measure(int64_t units, int64_t budget) {
    fields_.num_haystack = units;
    fields_.insert_line =
        std::min(units - 1, static_cast<int64_t>(draw_.fraction * static_cast<double>(units)));
    Prompt prompt = build_prompt(fields_, haystack_);
    std::vector<int32_t> ids = codec_.input_prefix;
    const std::vector<int32_t> text = codec_.encode(prompt.prompt + prompt.answer_prefix);
    ids.insert(ids.end(), text.begin(), text.end());
    const int64_t tokens = static_cast<int64_t>(ids.size());
    if (tokens <= budget) {  // the search goes up from what fits
      best_ = std::move(prompt);
      best_fields_ = fields_;
      best_ids_ = std::move(ids);
    }
    return tokens;
  }

  // Tokens of units [first, last) by themselves.
  int64_t part(int64_t first, int64_t last) const {
    std::string text;
    if (fields_.task != NeedleTask::kSingle1) {
      text = " " + haystack_->join_words(first, last);
    } else {
      for (int64_t line = first; line < last; ++line) text.append(kNoiseLine).push_back('\n');
    }
    return static_cast<int64_t>(codec_.encode(text).size());
  }

  NeedleItem finish(int64_t length, int64_t index) {
    NeedleItem item;
    const bool noise = fields_.task == NeedleTask::kSingle1;
    item.task = fields_.task;
    item.length = length;
    item.index = index;
    item.num_haystack = best_fields_.num_haystack;
    item.insert_line = noise ? best_fields_.insert_line : 0;
    item.depth = noise ? 100.0 * static_cast<double>(item.insert_line) /
                             static_cast<double>(item.num_haystack)
                       : fields_.depth;
    item.insert_sentence = best_.insert_sentence;
    item.sentences = best_.sentences;
    item.key = fields_.key;
    item.value = fields_.value;
    const std::vector<int32_t> before =
        codec_.encode(std::string_view(best_.prompt).substr(0, best_.value_byte));
    item.answer_token_position = static_cast<int64_t>(codec_.input_prefix.size() + before.size());
    item.prompt = std::move(best_.prompt);
    item.answer_prefix = std::move(best_.answer_prefix);
    item.ids = std::move(best_ids_);
    item.prompt_tokens = static_cast<int64_t>(item.ids.size());
    item.haystack = noise ? "noise" : haystack_->name();
    item.haystack_sha256 = noise ? "" : haystack_->digest();
    item.sentence_rule = noise ? "" : haystack_->rule();
    const std::string digest = Sha256().add(item.prompt).add(item.answer_prefix).hex();
    item.id =
        concat(needle_task_name(item.task), "/", length, "/", index, "#", digest.substr(0, 8));
    return item;
  }

 private:
  NeedleDraw draw_;
  const Haystack* haystack_;
  const TextCodec& codec_;
  PromptFields fields_, best_fields_;
  Prompt best_;
  std::vector<int32_t> best_ids_;
};

}  // namespace

const std::vector<int>& depth_points() {
  static const std::vector<int> points = {0,  3,  5,  8,  10, 13, 15, 18, 21, 23, 26, 28, 31, 33,
                                          36, 38, 41, 44, 46, 49, 51, 54, 56, 59, 62, 64, 67, 69,
                                          72, 74, 77, 79, 82, 85, 87, 90, 92, 95, 97, 100};
  return points;
}

NeedleDraw draw_needle(int64_t seed, NeedleTask task, int64_t length, int64_t index) {
  SplitMix64 random({static_cast<uint64_t>(seed), static_cast<uint64_t>(task),
                     static_cast<uint64_t>(length), static_cast<uint64_t>(index), 0});
  NeedleDraw draw;
  const std::string_view adjective =
      distinct_adjectives()[random.below(distinct_adjectives().size())];
  const std::string_view noun = nouns()[random.below(nouns().size())];
  draw.key = concat(adjective, "-", noun);
  draw.value = task == NeedleTask::kSingle3 ? draw_uuid(&random)
                                            : std::to_string(1000000 + random.below(9000000));
  const size_t place = draw_place(seed, task, length, index);
  if (task == NeedleTask::kSingle1) {
    draw.fraction =
        (static_cast<double>(place) + random.unit()) / static_cast<double>(depth_points().size());
  } else {
    draw.depth = depth_points()[place];
  }
  return draw;
}

NeedleItem draw_item(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                     int64_t index, const Haystack* haystack, const TextCodec& codec,
                     int64_t guess) {
  const bool noise = task == NeedleTask::kSingle1;
  if (!noise && haystack == nullptr)
    fail("probe.haystack: ", needle_task_name(task), " needs a text");
  ItemBuilder builder(task, draw_needle(config.seed, task, length, index), haystack, codec);
  Sizing sizing;
  sizing.budget = length - config.max_new_tokens;
  sizing.guess = guess;
  int64_t smallest = 0;  // tokens with one unit, for the message
  sizing.whole = [&](int64_t units) {
    const int64_t tokens = builder.measure(units, sizing.budget);
    if (units == 1) smallest = tokens;
    return tokens;
  };
  sizing.part = [&](int64_t first, int64_t last) { return builder.part(first, last); };
  if (largest_that_fits(sizing) == 0) {
    fail("probe.lengths: ", length, " is too short for ", needle_task_name(task), ": one ",
         noise ? "line" : "word", " of haystack takes ", smallest, " tokens and max_new_tokens ",
         config.max_new_tokens);
  }
  NeedleItem item = builder.finish(length, index);
  if (!noise && item.sentences < 2 && item.num_haystack >= kManyWords) {
    fail(haystack->name(), ": must have sentences that end in . ! or ? and a space, got one in ",
         item.num_haystack, " words");
  }
  return item;
}

std::vector<NeedleItem> draw_items(const ProbeConfigSection& config, const Haystack* haystack,
                                   const TextCodec& codec) {
  std::vector<NeedleItem> items;
  for (const std::string& name : config.tasks) {
    const NeedleTask task = parse_needle_task(name);
    for (const int64_t length : config.lengths) {
      int64_t guess = 0;  // the first item's size is near the others'
      for (int64_t index = 0; index < config.samples; ++index) {
        items.push_back(draw_item(config, task, length, index, haystack, codec, guess));
        if (index == 0) guess = items.back().num_haystack;
      }
    }
  }
  return items;
}

}  // namespace qkr
