#include "trainer/probe/items.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/parallel.h"
#include "trainer/core/text.h"
#include "trainer/probe/sizing.h"

namespace qkr {
namespace {

constexpr int64_t kManyWords =
    1000;  // a haystack of so many words without a second sentence has no depths
constexpr int64_t kExampleTokens = 500;  // vt: of the solved example, as RULER sizes it

// RULER's limit for the task where it has one below its usual 128, and there is nothing to think about first.
int64_t task_limit(const ProbeConfigSection& config, NeedleTask task) {
  return config.mode == "chat" ? 0 : std::min(config.max_new_tokens, traits_of(task).max_new_tokens);
}

// Ascending shares of `count` lines as lines, no two the same.
std::vector<int64_t> lines_at(const std::vector<double>& shares, int64_t count) {
  std::vector<int64_t> lines;
  const int64_t free = count - static_cast<int64_t>(shares.size()) + 1;
  for (size_t i = 0; i < shares.size(); ++i) {
    const int64_t line = static_cast<int64_t>(shares[i] * static_cast<double>(free));
    lines.push_back(std::min(line, free - 1) + static_cast<int64_t>(i));
  }
  return lines;
}

// One candidate after another for an item, the largest that fitted kept.
class ItemBuilder {
 public:
  ItemBuilder(const ProbeConfigSection& config, NeedleTask task, int64_t length, int64_t index,
              const Haystack* haystack, const TextCodec& codec)
      : seed_(config.seed), length_(length), index_(index), mode_(config.mode), haystack_(haystack),
        codec_(codec), limit_(task_limit(config, task)), draw_(draw_needle(config.seed, task, length, index)) {
    fields_.task = task;
    fields_.asked = {draw_.key};
    if (traits_of(task).queries > 1)
      for (const Needle& other : draw_.others) fields_.asked.push_back(other.key);
    if (is_chain()) {
      fields_.chain = draw_.chain;
      size_example();
    }
  }

  // The fewest lines or words that the task can have.
  int64_t least() const { return is_chain() ? kChainLength : 1; }

  // Tokens of the whole input with so many lines or words.
  int64_t measure(int64_t count, int64_t budget) {
    place(count);
    Prompt prompt = build_prompt(fields_, haystack_);
    const std::string input = input_text(prompt);
    std::vector<int32_t> ids = mode_ == "base" ? codec_.input_prefix : std::vector<int32_t>();
    const std::vector<int32_t> text = codec_.encode(input);
    ids.insert(ids.end(), text.begin(), text.end());
    const int64_t tokens = static_cast<int64_t>(ids.size());
    if (tokens <= budget) {  // the search goes up from what fits
      best_ = std::move(prompt);
      best_count_ = count;
      best_ids_ = std::move(ids);
    }
    return tokens;
  }

  // Tokens of lines or words [first, last) by themselves.
  int64_t part(int64_t first, int64_t last) {
    std::string text;
    switch (traits_of(fields_.task).haystack) {
      case HaystackKind::kText:
        text = " " + haystack_->join_words(first, last);
        break;
      case HaystackKind::kNoise:
        for (int64_t line = first; line < last; ++line) text.append(kNoiseLine).push_back('\n');
        break;
      case HaystackKind::kNeedles:
        draw_distractors(last);
        for (int64_t line = first; line < last; ++line)
          text.append(needle_text(fields_.task, fields_.distractors[static_cast<size_t>(line)])).push_back('\n');
    }
    return static_cast<int64_t>(codec_.encode(text).size());
  }

  NeedleItem finish() {
    place(best_count_);  // the last one measured may not have fitted
    NeedleItem item;
    item.task = fields_.task;
    item.length = length_;
    item.index = index_;
    item.mode = mode_;
    item.num_haystack = best_count_;
    item.insert_sentence = best_.insert_sentence;
    item.sentences = best_.sentences;
    item.key = is_chain() ? fields_.chain.value : listed(fields_.asked);
    item.value = draw_.value;
    take_answers(&item);
    take_place(&item);
    item.max_new_tokens = limit_;
    const std::string input = input_text(best_);
    const size_t shift = input.find(best_.prompt);  // of the prompt inside a chat template
    const size_t value = best_.value_byte + (shift == std::string::npos ? 0 : shift);
    const size_t special = mode_ == "base" ? codec_.input_prefix.size() : 0;
    item.answer_token_position = static_cast<int64_t>(
        special + codec_.encode(std::string_view(input).substr(0, value)).size());
    item.prompt = std::move(best_.prompt);
    item.answer_prefix = mode_ == "chat" ? "" : std::move(best_.answer_prefix);
    item.ids = std::move(best_ids_);
    item.prompt_tokens = static_cast<int64_t>(item.ids.size());
    item.id = concat(needle_task_name(item.task), "/", length_, "/", index_, "#",
                     sha256_hex(input).substr(0, 8));
    return item;
  }

 private:
  bool is_chain() const { return fields_.task == NeedleTask::kVariableTracking; }

  std::string input_text(const Prompt& prompt) const {
    if (mode_ == "base") return prompt.prompt + prompt.answer_prefix;
    return codec_.chat(prompt.prompt) + (mode_ == "chat" ? "" : prompt.answer_prefix);
  }

  void draw_distractors(int64_t count) {
    std::vector<Needle>& lines = fields_.distractors;
    while (static_cast<int64_t>(lines.size()) < count)
      lines.push_back(draw_distractor(seed_, fields_.task, length_, index_,
                                      static_cast<int64_t>(lines.size()), draw_.key));
  }

  // Puts the needles into a haystack of `count` lines or words.
  void place(int64_t count) {
    fields_.num_haystack = count;
    if (is_chain()) {
      fields_.chain.lines = lines_at(draw_.chain_at, count);
      return;
    }
    if (traits_of(fields_.task).haystack == HaystackKind::kNeedles) draw_distractors(count);
    const int64_t line = std::min(count - 1, static_cast<int64_t>(draw_.fraction * static_cast<double>(count)));
    fields_.needles = draw_.others;
    fields_.needles.push_back({draw_.key, draw_.value, draw_.depth, line});
    std::sort(fields_.needles.begin(), fields_.needles.end(),
              [](const Needle& a, const Needle& b) { return a.depth < b.depth; });
  }

  void size_example() {
    VariableChain& example = fields_.example = draw_.example;
    const auto tokens = [&](int64_t lines) {
      example.num_haystack = lines;
      example.lines = lines_at(draw_.example_at, lines);
      std::string text = chain_example(example);
      text.pop_back();
      for (const std::string& name : example.names) text.resize(text.size() - name.size() - 1);
      return static_cast<int64_t>(codec_.encode(text).size());
    };
    int64_t lines = kChainLength;
    while (tokens(lines + 1) <= kExampleTokens) ++lines;
    tokens(lines);
  }

  void take_answers(NeedleItem* item) const {
    if (is_chain()) {
      item->other_values.assign(fields_.chain.names.begin() + 1, fields_.chain.names.end());
      return;
    }
    if (traits_of(item->task).answers() > 1)
      for (const Needle& other : draw_.others) item->other_values.push_back(other.value);
    item->needles = fields_.needles;
  }

  void take_place(NeedleItem* item) const {
    const HaystackKind kind = traits_of(item->task).haystack;
    if (kind == HaystackKind::kText) {
      item->depth = draw_.depth;
      item->haystack = haystack_->name();
      item->haystack_sha256 = haystack_->digest();
      item->sentence_rule = haystack_->rule();
      return;
    }
    item->insert_line = is_chain() ? fields_.chain.lines[0] : fields_.needles[0].line;
    item->depth = 100.0 * static_cast<double>(item->insert_line) / static_cast<double>(best_count_);
    item->haystack = kind == HaystackKind::kNoise ? "noise" : "needles";
  }

  int64_t seed_, length_, index_;
  std::string mode_;
  const Haystack* haystack_;
  const TextCodec& codec_;
  int64_t limit_;
  NeedleDraw draw_;
  PromptFields fields_;
  Prompt best_;
  int64_t best_count_ = 0;
  std::vector<int32_t> best_ids_;
};

struct CellOfItems {
  NeedleTask task;
  int64_t length = 0;
};

// Items first .. first + count - 1 of each cell, cell after cell. The first one's size is near the others', so it comes before them.
std::vector<NeedleItem> draw_cells(const ProbeConfigSection& config, const std::vector<CellOfItems>& cells, int64_t first, int64_t count,
                                   const Haystack* haystack, const TextCodec& codec) {
  if (count <= 0) return {};
  std::vector<NeedleItem> items(cells.size() * static_cast<size_t>(count));
  const auto draw = [&](size_t cell, int64_t offset) {
    const size_t begin = cell * static_cast<size_t>(count);
    const int64_t guess = offset == 0 ? 0 : items[begin].num_haystack;
    items[begin + static_cast<size_t>(offset)] = draw_item(config, cells[cell].task, cells[cell].length, first + offset, haystack, codec, guess);
  };
  const auto each = [&](size_t pieces, const std::function<void(size_t)>& work) {
    if (codec.many_threads) return for_all(pieces, work);
    for (size_t i = 0; i < pieces; ++i) work(i);
  };
  const size_t others = static_cast<size_t>(count - 1);
  each(cells.size(), [&](size_t cell) { draw(cell, 0); });
  each(cells.size() * others, [&](size_t i) { draw(i / others, static_cast<int64_t>(i % others) + 1); });
  return items;
}

}  // namespace

NeedleItem draw_item(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                     int64_t index, const Haystack* haystack, const TextCodec& codec,
                     int64_t guess) {
  const bool in_text = traits_of(task).haystack == HaystackKind::kText;
  if (in_text && haystack == nullptr)
    fail("probe.haystack: ", needle_task_name(task), " needs a text");
  if (config.mode != "base" && !codec.chat)
    fail("probe.mode: ", config.mode, " needs a model with a chat template, got one without");
  ItemBuilder builder(config, task, length, index, haystack, codec);
  const int64_t limit = task_limit(config, task), offset = builder.least() - 1;
  const int64_t room = limit > 0 ? limit : config.max_new_tokens;
  Sizing sizing;
  sizing.budget = length - room;
  sizing.guess = std::max<int64_t>(0, guess - offset);
  int64_t smallest = 0;  // tokens with the fewest units, for the message
  sizing.whole = [&](int64_t units) {
    const int64_t tokens = builder.measure(units + offset, sizing.budget);
    if (units == 1) smallest = tokens;
    return tokens;
  };
  sizing.part = [&](int64_t first, int64_t last) { return builder.part(first, last); };
  if (largest_that_fits(sizing) == 0) {
    fail("probe.lengths: ", length, " is too short for ", needle_task_name(task), ": ",
         offset == 0 ? "one" : std::to_string(offset + 1), in_text ? " word" : " line", offset == 0 ? "" : "s",
         " of haystack takes ", smallest, " tokens and max_new_tokens ", room);
  }
  NeedleItem item = builder.finish();
  if (in_text && item.sentences < 2 && item.num_haystack >= kManyWords) {
    fail(haystack->name(), ": must have sentences that end in . ! or ? and a space, got one in ",
         item.num_haystack, " words");
  }
  return item;
}

std::vector<NeedleItem> draw_items(const ProbeConfigSection& config, const Haystack* haystack,
                                   const TextCodec& codec) {
  std::vector<CellOfItems> cells;
  for (const std::string& name : config.tasks) {
    for (const int64_t length : config.lengths) cells.push_back({parse_needle_task(name), length});
  }
  return draw_cells(config, cells, 0, config.samples.number, haystack, codec);
}

std::vector<NeedleItem> draw_cell(const ProbeConfigSection& config, NeedleTask task, int64_t length,
                                  int64_t first, int64_t count, const Haystack* haystack,
                                  const TextCodec& codec) {
  return draw_cells(config, {{task, length}}, first, count, haystack, codec);
}

}  // namespace qkr
