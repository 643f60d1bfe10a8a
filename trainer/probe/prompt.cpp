#include "trainer/probe/prompt.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/unicode.h"

namespace qkr {
namespace {

struct Line {
  int64_t before = 0;  // line of the haystack
  std::string text;
};

// Lines of the haystack, each of `put_in` before its line, all joined by newlines.
template <class LineOf>
std::string lines_context(NeedleTask task, int64_t count, const std::vector<Line>& put_in,
                          LineOf&& line_of) {
  const std::string_view name = needle_task_name(task);
  const int64_t least = std::max<int64_t>(1, static_cast<int64_t>(put_in.size()));
  if (count < least) {
    fail(name, ": num_haystack must be at least ", least, least == 1 ? " line" : " lines",
         ", got ", count);
  }
  int64_t floor = 0;
  for (const Line& line : put_in) {
    if (line.before < floor || line.before >= count) {
      fail(name, ": insert_line must be in ", floor, " .. ", count - 1, ", got ", line.before);
    }
    floor = line.before + 1;
  }
  std::string text;
  auto next = put_in.begin();
  for (int64_t i = 0; i < count; ++i) {
    if (next != put_in.end() && next->before == i) text.append((next++)->text).push_back('\n');
    text.append(line_of(i));
    if (i + 1 < count) text.push_back('\n');
  }
  return text;
}

std::vector<Line> chain_lines(NeedleTask task, const VariableChain& chain) {
  if (chain.names.size() != kChainLength || chain.lines.size() != kChainLength) {
    fail(needle_task_name(task), ": a chain must have ", kChainLength, " variables and lines, got ",
         chain.names.size(), " and ", chain.lines.size());
  }
  std::vector<Line> lines;
  for (size_t i = 0; i < chain.names.size(); ++i) {
    const std::string got = i == 0 ? chain.value : concat("VAR ", chain.names[i - 1], " ");
    lines.push_back({chain.lines[i], concat("VAR ", chain.names[i], " = ", got)});
  }
  return lines;
}

// Question and prefix about one chain.
Prompt chain_question(const VariableChain& chain, int64_t num_haystack) {
  const NeedleTask task = NeedleTask::kVariableTracking;
  Prompt out;
  out.prompt =
      concat("Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
             lines_context(task, num_haystack, chain_lines(task, chain),
                           [](int64_t) { return kNoiseLine; }),
             "\nQuestion: Find all variables that are assigned the value ", chain.value,
             " in the text above.");
  out.answer_prefix =
      concat(" Answer: According to the chain(s) of variable assignment in the text above, ",
             kChainLength, " variables are assigned the value ", chain.value, ", they are: ");
  return out;
}

// As RULER: over prompt and prefix together. The whole begins with a letter; the prefix begins with
// a space, which stands inside the whole and so stays, and may end with one, which goes.
void remove_newlines_and_tabs(Prompt* prompt, std::string* first) {
  const auto squeezed = [](std::string_view text) {
    std::string out = collapse_white_space(text);
    while (!out.empty() && out.back() == ' ') out.pop_back();
    return out;
  };
  const std::string whole = squeezed(prompt->prompt + prompt->answer_prefix);
  prompt->answer_prefix = squeezed(prompt->answer_prefix);
  prompt->prompt = whole.substr(0, whole.size() - prompt->answer_prefix.size());
  *first = squeezed(*first);
}

const Needle& first_asked(const PromptFields& fields) {
  const NeedleTaskTraits& traits = traits_of(fields.task);
  if (static_cast<int>(fields.needles.size()) != traits.keys * traits.values ||
      static_cast<int>(fields.asked.size()) != traits.queries) {
    fail(traits.name, ": must have ", traits.keys * traits.values, " needles and ", traits.queries,
         " keys asked for, got ", fields.needles.size(), " and ", fields.asked.size());
  }
  for (const std::string& key : fields.asked) {
    if (std::none_of(fields.needles.begin(), fields.needles.end(), [&](const Needle& n) { return n.key == key; })) {
      fail(traits.name, ": a needle must have the key ", quoted(key), ", got none");
    }
  }
  return *std::find_if(fields.needles.begin(), fields.needles.end(),
                       [&](const Needle& n) { return n.key == fields.asked[0]; });
}

std::string needle_context(const PromptFields& fields, const Haystack* haystack, int64_t* sentences) {
  const HaystackKind kind = traits_of(fields.task).haystack;
  if (kind == HaystackKind::kText) {
    if (haystack == nullptr) fail(needle_task_name(fields.task), ": needs a haystack text");
    std::vector<DepthText> parts;
    for (const Needle& needle : fields.needles)
      parts.push_back({needle.depth, needle_text(fields.task, needle)});
    Context context = haystack->with_needles(fields.num_haystack, parts);
    *sentences = context.sentences;
    return std::move(context.text);
  }
  std::vector<Line> put_in;
  for (const Needle& needle : fields.needles)
    put_in.push_back({needle.line, needle_text(fields.task, needle)});
  if (kind == HaystackKind::kNoise) {
    return lines_context(fields.task, fields.num_haystack, put_in,
                         [](int64_t) { return kNoiseLine; });
  }
  if (static_cast<int64_t>(fields.distractors.size()) < fields.num_haystack) {
    fail(needle_task_name(fields.task), ": must have a distractor for each of ",
         fields.num_haystack, " lines, got ", fields.distractors.size());
  }
  return lines_context(fields.task, fields.num_haystack, put_in, [&](int64_t i) {
    return needle_text(fields.task, fields.distractors[static_cast<size_t>(i)]);
  });
}

// The singular is what RULER's replacements in the plural template come to.
Prompt needle_question(const PromptFields& fields, const Haystack* haystack) {
  const NeedleTaskTraits& traits = traits_of(fields.task);
  const bool one = traits.answers() == 1;
  const std::string kind = concat(traits.uuid_value ? "uuid" : "number", one ? "" : "s");
  const std::string asked = concat("special magic ", kind, " for ", listed(fields.asked),
                                   " mentioned in the provided text");
  Prompt out;
  const std::string context = needle_context(fields, haystack, &out.sentences);
  out.prompt = concat(one ? "A" : "Some", " special magic ", kind, one ? " is" : " are",
                      " hidden within the following text. Make sure to memorize it. I will quiz you about the ",
                      kind, " afterwards.\n", context, "\nWhat ", one ? "is" : "are all", " the ", asked, "?");
  out.answer_prefix = concat(" The ", asked, one ? " is" : " are");
  return out;
}

}  // namespace

const std::string_view kNoiseLine =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";

std::string listed(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i) {
    if (i > 0) text += i + 1 == words.size() ? ", and " : ", ";
    text += words[i];
  }
  return text;
}

std::string needle_text(NeedleTask task, const Needle& needle) {
  return concat("One of the special magic ", traits_of(task).uuid_value ? "uuid" : "number",
                "s for ", needle.key, " is: ", needle.value, ".");
}

std::string chain_example(const VariableChain& example) {
  const Prompt solved = chain_question(example, example.num_haystack);
  std::string text = solved.prompt + solved.answer_prefix;
  for (const std::string& name : example.names) text += " " + name;
  return text + "\n";
}

Prompt build_prompt(const PromptFields& fields, const Haystack* haystack) {
  const bool chain = fields.task == NeedleTask::kVariableTracking;
  Prompt out;
  std::string first, answer;  // the text that holds the first answer, and that
  size_t after = 1;           // bytes of the text from the answer's end on
  if (chain) {
    out = chain_question(fields.chain, fields.num_haystack);
    out.prompt = concat(chain_example(fields.example), "\n", out.prompt);
    answer = fields.chain.names[0];
    first = concat("VAR ", answer, " =");
    after = 2;
  } else {
    const Needle& asked = first_asked(fields);
    answer = asked.value;
    first = needle_text(fields.task, asked);
    out = needle_question(fields, haystack);
    out.insert_sentence = insert_position(out.sentences, asked.depth);
  }
  if (fields.remove_newline_tab) remove_newlines_and_tabs(&out, &first);
  const size_t needle_byte = out.prompt.find(first);
  out.needle_char = count_code_points(std::string_view(out.prompt).substr(0, needle_byte));
  out.value_byte = needle_byte + first.size() - after - answer.size();
  return out;
}

}  // namespace qkr
