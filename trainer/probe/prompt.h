// RULER's needle and variable-tracking prompts, byte for byte, from explicit fields.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "trainer/probe/haystack.h"
#include "trainer/probe/tasks.h"

namespace qkr {

struct Needle {
  std::string key, value;
  double depth = 0;  // in a text: percent
  int64_t line = 0;  // among lines: it stands before this line of the haystack, 0 .. num_haystack-1
};

// A chain of assignments among copies of the noise line (vt).
struct VariableChain {
  std::vector<std::string> names;  // kChainLength of them; the first gets the value
  std::string value;
  std::vector<int64_t> lines;  // ascending: where each assignment stands
  int64_t num_haystack = 0;    // lines
};

struct PromptFields {
  NeedleTask task = NeedleTask::kSingle1;
  int64_t num_haystack = 0;      // lines or words
  std::vector<Needle> needles;   // in the order in which they stand, depths and lines ascending
  std::vector<std::string> asked;  // keys, in the order of the question
  std::vector<Needle> distractors;  // multikey_2 and 3: the haystack's lines, num_haystack or more
  VariableChain chain, example;     // vt; num_haystack of the chain is the one above
  bool remove_newline_tab =
      false;  // RULER's switch: white space runs of the whole to one space, ends stripped
};

struct Prompt {
  std::string prompt;
  std::string answer_prefix;    // the model's input is prompt + answer_prefix
  int64_t needle_char = 0;      // code points before the first asked needle
  size_t value_byte = 0;        // bytes before its value (vt: before the first variable)
  int64_t sentences = 0;        // in a text: of the haystack
  int64_t insert_sentence = 0;  // in a text: that needle stands before this one
};

// `haystack` may be null where the task needs no text. Error: no haystack, num_haystack too small, a
// place outside the haystack, a key asked for that no needle has, a wrong number of needles.
Prompt build_prompt(const PromptFields& fields, const Haystack* haystack);

// "One of the special magic numbers for old-oar is: 1234567."
std::string needle_text(NeedleTask task, const Needle& needle);

// The solved example that a vt prompt begins with: question and answers, a newline at its end.
std::string chain_example(const VariableChain& example);

// "a", "a, and b", "a, b, and c": keys in a question.
std::string listed(const std::vector<std::string>& words);

// The line that fills niah_single_1 and vt.
extern const std::string_view kNoiseLine;

}  // namespace qkr
