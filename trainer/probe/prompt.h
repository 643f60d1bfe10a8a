// RULER's niah_single_1/2/3 prompts, byte for byte, from explicit fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "trainer/probe/haystack.h"

namespace qkr {

enum class NeedleTask {
  kSingle1,  // a number among copies of one line
  kSingle2,  // a number in a text
  kSingle3,  // a uuid in a text
};

// "niah_single_1" and so on. Error for any other name, with the nearest one.
NeedleTask parse_needle_task(std::string_view name);
std::string_view needle_task_name(NeedleTask task);

struct PromptFields {
  NeedleTask task = NeedleTask::kSingle1;
  std::string key;           // "adjective-noun"
  std::string value;         // the answer
  int64_t num_haystack = 0;  // lines (single_1) or words (single_2, single_3)
  int64_t insert_line = 0;   // single_1: the needle stands before this line, 0 .. num_haystack-1
  double depth = 0;          // single_2, single_3: percent
  bool remove_newline_tab =
      false;  // RULER's switch: white space runs of the whole to one space, ends stripped
};

struct Prompt {
  std::string prompt;
  std::string answer_prefix;    // the model's input is prompt + answer_prefix
  int64_t needle_char = 0;      // code points before the needle
  size_t value_byte = 0;        // bytes before the value
  int64_t sentences = 0;        // single_2, single_3: of the haystack
  int64_t insert_sentence = 0;  // single_2, single_3: the needle stands before this one
};

// `haystack` may be null for single_1 alone. Error: no haystack, num_haystack below 1, a place
// outside the haystack.
Prompt build_prompt(const PromptFields& fields, const Haystack* haystack);

// The line that fills niah_single_1.
extern const std::string_view kNoiseLine;

}  // namespace qkr
