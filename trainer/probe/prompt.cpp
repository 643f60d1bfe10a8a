#include "trainer/probe/prompt.h"

#include <iterator>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/unicode.h"

namespace qkr {
namespace {

constexpr std::string_view kTaskNames[] = {"niah_single_1", "niah_single_2", "niah_single_3"};

std::string noise_context(const PromptFields& fields, std::string_view needle, size_t* needle_at) {
  if (fields.num_haystack < 1)
    fail("niah_single_1: num_haystack must be at least 1 line, got ", fields.num_haystack);
  if (fields.insert_line < 0 || fields.insert_line >= fields.num_haystack) {
    fail("niah_single_1: insert_line must be in 0 .. ", fields.num_haystack - 1, ", got ",
         fields.insert_line);
  }
  std::string text;
  text.reserve((kNoiseLine.size() + 1) * static_cast<size_t>(fields.num_haystack) + needle.size());
  for (int64_t line = 0; line < fields.num_haystack; ++line) {
    if (line == fields.insert_line) {
      *needle_at = text.size();
      text.append(needle).push_back('\n');
    }
    text.append(kNoiseLine);
    if (line + 1 < fields.num_haystack) text.push_back('\n');
  }
  return text;
}

// As RULER: over prompt and prefix together. There is nothing to strip: the whole begins with "A"
// and ends with "is". The prefix begins with a space, which stands inside the whole and so stays.
void remove_newlines_and_tabs(Prompt* prompt, std::string* needle) {
  const std::string whole = collapse_white_space(prompt->prompt + prompt->answer_prefix);
  prompt->answer_prefix = collapse_white_space(prompt->answer_prefix);
  prompt->prompt = whole.substr(0, whole.size() - prompt->answer_prefix.size());
  *needle = collapse_white_space(*needle);
}

}  // namespace

const std::string_view kNoiseLine =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

NeedleTask parse_needle_task(std::string_view name) {
  for (size_t i = 0; i < std::size(kTaskNames); ++i) {
    if (name == kTaskNames[i]) return static_cast<NeedleTask>(i);
  }
  const std::vector<std::string> known(std::begin(kTaskNames), std::end(kTaskNames));
  fail("probe.tasks: must be of ", join(known), ", got ", quoted(name), did_you_mean(name, known));
}

std::string_view needle_task_name(NeedleTask task) { return kTaskNames[static_cast<size_t>(task)]; }

Prompt build_prompt(const PromptFields& fields, const Haystack* haystack) {
  const bool noise = fields.task == NeedleTask::kSingle1;
  if (!noise && haystack == nullptr) fail(needle_task_name(fields.task), ": needs a haystack text");
  const std::string kind = fields.task == NeedleTask::kSingle3 ? "uuid" : "number";
  std::string needle =
      concat("One of the special magic ", kind, "s for ", fields.key, " is: ", fields.value, ".");
  const std::string asked =
      concat("special magic ", kind, " for ", fields.key, " mentioned in the provided text");

  Prompt out;
  Context context;
  if (noise) {
    context.text = noise_context(fields, needle, &context.needle_at);
  } else {
    context = haystack->with_needle(fields.num_haystack, fields.depth, needle);
  }
  out.sentences = context.sentences;
  out.insert_sentence = context.insert_at;
  out.prompt = concat(
      "A special magic ", kind,
      " is hidden within the following text. Make sure to memorize it. I will quiz you about the ",
      kind, " afterwards.\n");
  size_t needle_byte = out.prompt.size() + context.needle_at;
  out.prompt += context.text;
  out.prompt += "\nWhat is the " + asked + "?";
  out.answer_prefix = " The " + asked + " is";
  if (fields.remove_newline_tab) {
    remove_newlines_and_tabs(&out, &needle);
    needle_byte = out.prompt.find(needle);
  }
  out.needle_char = count_code_points(std::string_view(out.prompt).substr(0, needle_byte));
  out.value_byte = needle_byte + needle.size() - 1 - fields.value.size();
  return out;
}

}  // namespace qkr
