// niah-probe --model DIR --lengths 4096 8192: RULER's needle tasks on a model folder, without a run; --compare A B: two models or two files.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <regex>

#include "trainer/apps/command_line.h"
#include "trainer/apps/probe_folder.h"
#include "trainer/apps/process.h"
#include "trainer/config/fields.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/probe/comparison.h"
#include "trainer/probe/tasks.h"

namespace {

struct Options {
  qkr::ProbeFolderOptions probe;
  std::vector<std::string> compare;
  std::string haystack, mode = "base";
  std::vector<std::string> tasks = {"niah_single_1", "niah_single_2", "niah_single_3"};
  std::vector<int64_t> lengths = {4096};
  std::string samples = "50";
  bool samples_given = false;
  double width = 20;
  int64_t max_samples = 500, seed = 42, max_new_tokens = 128, prefill_chunk = 32768;
};

// "--set probe.max_new_tokens=0: probe.max_new_tokens: must ..." in the words of this program: "--max-new-tokens: must ...".
std::string as_flags(const std::string& problems) {
  static const std::regex kPlace("(^|\n)(--set [^\n]*?)?: (?=probe\\.)"), kKey("probe\\.(\\w+)");
  const std::string text = std::regex_replace(problems, kPlace, "$1");
  std::string flags;
  auto rest = text.begin();
  for (std::sregex_iterator found(text.begin(), text.end(), kKey), end; found != end; ++found) {
    std::string key = (*found)[1];
    std::replace(key.begin(), key.end(), '_', '-');
    flags.append(rest, (*found)[0].first).append("--" + key);
    rest = (*found)[0].second;
  }
  return flags.append(rest, text.end());
}

// The options as the probe section of a configuration, so that the same rules check them.
qkr::ProbeConfigSection probe_section(const Options& o) {
  const auto list = [](const auto& values) {
    std::ostringstream text;
    text << "[";
    for (size_t i = 0; i < values.size(); ++i) text << (i == 0 ? "" : ", ") << values[i];
    text << "]";
    return text.str();
  };
  const auto number = [](const char* key, int64_t value) { return std::string("probe.") + key + "=" + std::to_string(value); };
  std::vector<std::string> set = {"model.path=none", "data.train=[none]", "output=nowhere", "probe.tasks=" + list(o.tasks),
                                  "probe.lengths=" + list(o.lengths), "probe.samples=" + o.samples, "probe.width=" + qkr::number_text(o.width),
                                  number("max_samples", o.max_samples), number("seed", o.seed),
                                  number("max_new_tokens", o.max_new_tokens), number("prefill_chunk", o.prefill_chunk),
                                  "probe.mode=" + o.mode};
  if (!o.haystack.empty()) set.push_back("probe.haystack=" + o.haystack);
  try {
    return qkr::parse_config("", "", set).probe;
  } catch (const qkr::Error& error) {
    throw qkr::Error(error.code(), as_flags(error.what()));
  }
}

int run(Options options) {
  qkr::Console console(std::cout, "auto");
  if (options.compare.empty()) {
    if (options.probe.model.empty()) qkr::fail("--model is required");
    options.probe.section = probe_section(options);
    if (!options.probe.prompts.empty() && options.samples_given) {
      if (options.probe.section.samples.is_auto()) qkr::fail("--samples must be a number beside --prompts, got auto");
      options.probe.prompt_limit = options.probe.section.samples.number;
    }
    const std::vector<qkr::ItemResult> results = qkr::probe_folder(options.probe, console);
    console.line("\n" + qkr::results_text(results));
    return 0;
  }
  if (!options.probe.model.empty()) qkr::fail("--model must not stand beside --compare, which names what is compared");
  if (std::all_of(options.compare.begin(), options.compare.end(), [](const std::string& path) { return std::filesystem::is_directory(path); }))
    options.probe.section = probe_section(options);
  const auto [first, second] = qkr::compared_results(options.probe, options.compare[0], options.compare[1], console);
  console.line(qkr::comparison_table(first, second));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  qkr::ProbeFolderOptions& p = o.probe;
  std::vector<std::string> known;
  for (const qkr::NeedleTask task : qkr::needle_tasks()) known.emplace_back(qkr::needle_task_name(task));
  CLI::App app{"RULER's needle-in-a-haystack tasks and variable tracking on a Hugging Face model folder: greedy decoding, string match."};
  app.set_version_flag("--version", "qk-restore " QKR_VERSION);
  app.add_option("--model", p.model, "model folder");
  app.add_option("--compare", o.compare,
                 "two result files, or two model folders: paired differences over the prompts that they share. FILE:STAGE picks a stage of a "
                 "run's probe.jsonl")
      ->expected(2);
  app.add_option("--tasks", o.tasks, qkr::join(known));
  app.add_option("--lengths", o.lengths, "prompt lengths in tokens, the new ones included");
  app.add_option("--samples", o.samples, "prompts a cell, or auto: until its interval is narrow enough; of --prompts the first so many, else all");
  app.add_option("--width", o.width, "--samples auto: full width of a cell's 95 % interval, points");
  app.add_option("--max-samples", o.max_samples, "--samples auto: prompts a cell at most");
  app.add_option("--prompts", p.prompts,
                 "JSON lines {\"prompt\": ..., \"answer\": ...} instead of needles: found if the greedy text holds the answer. --mode base or chat")
      ->excludes(app.get_option("--tasks"), app.get_option("--lengths"));
  app.add_option("--haystack", o.haystack, "text file for the tasks that hide needles in a text; without one, text made by a grammar");
  app.add_option("--mode", o.mode, "base: raw text; default: a user's turn, the prefix begins the answer; chat: no prefix");
  app.add_option("--reading", p.reading,
                 "generate: greedy decoding, RULER's score; teacher_forced: one prefill, found if every token of the answer is the most likely "
                 "one; both: and how they agree")
      ->check(CLI::IsMember({"generate", "teacher_forced", "both"}));
  app.add_option("--output", p.output, "JSON lines, one a prompt");
  app.add_option("--heads", p.heads,
                 "JSON lines, one a prompt: the share of each softmax head's attention that falls on the needle while the answer is read, by one more "
                 "prefill");
  app.add_flag("--resume", p.resume, "go on with --output: skip the prompts that it holds; another model, tokenizer, haystack or setting is refused");
  app.add_option("--seed", o.seed, "of keys, values and places");
  app.add_option("--max-new-tokens", o.max_new_tokens, "RULER: 128 (vt: 30)");
  app.add_option("--prefill-chunk", o.prefill_chunk, "tokens of one prefill call at most");
  app.add_option("--batch", p.batch, "prompts that are decoded together; without it as many as fit, 32 at most")->check(CLI::Range(1, 1024));
  app.add_option("--device", p.device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--dtype", p.dtype, "bfloat16 or float32")->check(CLI::IsMember({"bfloat16", "float32"}));
  app.add_option("--attn-logits-scaling", p.logits_scaling, "HypeNet: checkpoint, null, \"hype A\" or a factor");
  app.footer("Exit codes: 0 done, 1 failed, 2 usage or input.");
  return qkr::parse_and_run(app, "niah-probe", argc, argv, [&] {
    o.samples_given = app.count("--samples") > 0;
    return run(o);
  });
}
