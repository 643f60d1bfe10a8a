// niah-probe --model DIR --lengths 4096 8192: RULER's needle tasks on a model folder, without a run.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <iostream>
#include <regex>

#include "trainer/apps/command_line.h"
#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/summary.h"

namespace {

struct Options {
  std::string model, output, haystack, device = "auto", dtype = "bfloat16", logits_scaling = "checkpoint";
  std::vector<std::string> tasks = {"niah_single_1", "niah_single_2", "niah_single_3"};
  std::vector<int64_t> lengths = {4096};
  int64_t samples = 50, seed = 42, max_new_tokens = 128, prefill_chunk = 32768;
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
                                  "probe.lengths=" + list(o.lengths), number("samples", o.samples), number("seed", o.seed),
                                  number("max_new_tokens", o.max_new_tokens), number("prefill_chunk", o.prefill_chunk)};
  if (!o.haystack.empty()) set.push_back("probe.haystack=" + o.haystack);
  try {
    return qkr::parse_config("", "", set).probe;
  } catch (const qkr::Error& error) {
    throw qkr::Error(error.code(), as_flags(error.what()));
  }
}

int run(const Options& options) {
  if (!options.output.empty() && std::filesystem::exists(options.output)) qkr::fail(options.output, ": --output must not exist yet");
  const qkr::ProbeConfigSection section = probe_section(options);
  qkr::make_deterministic();
  const qkr::ModelSource source = qkr::ModelSource::read(options.model, options.logits_scaling);
  const qkr::TextModel text = qkr::TextModel::load(options.model, "");
  qkr::check_vocabulary(source, text);
  std::vector<qkr::NeedleItem> items = qkr::make_items(section, text);
  const c10::Device device = qkr::choose_device(options.device);
  const qkr::Decoder decoder = qkr::load_decoder(source, options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat, device);
  qkr::Console console(std::cout, "auto");
  qkr::RecallProbe probe(section, decoder, qkr::text_codec(text), std::move(items), options.output, 0, console);
  probe.measure("probe", 0);
  console.line("\n" + qkr::probe_table(probe.results()));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  CLI::App app{"RULER's needle-in-a-haystack tasks (niah_single_1, 2, 3) on a Hugging Face model folder: greedy decoding, string match."};
  app.set_version_flag("--version", "qk-restore " QKR_VERSION);
  app.add_option("--model", o.model, "model folder")->required();
  app.add_option("--tasks", o.tasks, "niah_single_1, niah_single_2, niah_single_3");
  app.add_option("--lengths", o.lengths, "prompt lengths in tokens, the new ones included");
  app.add_option("--samples", o.samples, "prompts a cell");
  app.add_option("--haystack", o.haystack, "text file for niah_single_2 and 3; without one, text made by a grammar");
  app.add_option("--output", o.output, "JSON lines, one a prompt");
  app.add_option("--seed", o.seed, "of keys, values and places");
  app.add_option("--max-new-tokens", o.max_new_tokens, "RULER: 128");
  app.add_option("--prefill-chunk", o.prefill_chunk, "tokens of one prefill call");
  app.add_option("--device", o.device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.add_option("--dtype", o.dtype, "bfloat16 or float32")->check(CLI::IsMember({"bfloat16", "float32"}));
  app.add_option("--attn-logits-scaling", o.logits_scaling, "HypeNet: checkpoint, null, \"hype A\" or a factor");
  app.footer("Exit codes: 0 done, 1 failed, 2 usage or input.");
  return qkr::parse_and_run(app, "niah-probe", argc, argv, [&] { return run(o); });
}
