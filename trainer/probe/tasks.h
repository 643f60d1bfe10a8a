// RULER's needle tasks: what each hides, where, and what it asks for.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace qkr {

enum class NeedleTask {
  kSingle1,           // a number among copies of one line
  kSingle2,           // a number in a text
  kSingle3,           // a uuid in a text
  kMultiKey1,         // a number in a text, three other keys beside it
  kMultiKey2,         // a number among needles of other keys
  kMultiKey3,         // a uuid under a uuid, among needles of other keys
  kMultiValue,        // four numbers of one key in a text
  kMultiQuery,        // four keys' numbers in a text
  kVariableTracking,  // a chain of five variables among copies of one line, after a solved example
};

enum class HaystackKind {
  kNoise,    // copies of kNoiseLine
  kText,     // the first words of a Haystack
  kNeedles,  // lines that are needles themselves
};

struct NeedleTaskTraits {
  std::string_view name;  // RULER's
  HaystackKind haystack = HaystackKind::kText;
  int keys = 1, values = 1, queries = 1;  // values a key
  bool uuid_key = false, uuid_value = false;
  int64_t max_new_tokens = 0;  // RULER's where it is below its usual 128; 0: not

  int answers() const { return queries * values; }  // more than one: the plural wording
};

// Variables of a chain: one that gets the value, and four that each get the one before.
inline constexpr int kChainLength = 5;

const NeedleTaskTraits& traits_of(NeedleTask task);
std::string_view needle_task_name(NeedleTask task);
const std::vector<NeedleTask>& needle_tasks();  // all, in RULER's order

// "niah_single_1" and so on. Error for any other name: it lists the known ones, with the nearest.
NeedleTask parse_needle_task(std::string_view name);

}  // namespace qkr
