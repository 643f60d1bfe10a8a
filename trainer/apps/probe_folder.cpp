#include "trainer/apps/probe_folder.h"

#include <algorithm>
#include <filesystem>
#include <memory>

#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/io/json_lines.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/engine.h"
#include "trainer/probe/generator.h"
#include "trainer/probe/record.h"
#include "trainer/probe/summary.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

std::vector<ItemResult> read_rows(const std::string& file, bool allow_torn_end) {
  std::vector<ItemResult> rows;
  JsonLinesReader reader(file, {.allow_torn_end = allow_torn_end});
  while (reader.next()) {
    rows.push_back(item_result_from_json(nlohmann::ordered_json::parse(reader.text()), concat(file, ":", reader.line())));
  }
  return rows;
}

// What an earlier process left in the output.
std::vector<ItemResult> earlier_rows(const ProbeFolderOptions& options) {
  if (options.output.empty() || !fs::exists(options.output)) return {};
  if (!options.resume) fail(options.output, ": --output must not exist yet (--resume goes on with it)");
  return read_rows(options.output, /*allow_torn_end=*/true);
}

ProbeOptions run_options(const ProbeFolderOptions& options, const Decoder& decoder) {
  ProbeOptions run;
  run.stage = options.stage;
  run.mode = options.section.mode;
  run.max_new_tokens = options.section.max_new_tokens;
  run.dtype = options.dtype;
  run.tokenizer = sha256_hex(read_text_file((fs::path(options.model) / "tokenizer.json").string())).substr(0, 16);
  run.model = weights_digest(decoder.weights(), options.logits_scaling);
  for (const int64_t id : decoder.architecture().eos_ids) run.eos_ids.push_back(static_cast<int32_t>(id));
  return run;
}

}  // namespace

std::vector<ItemResult> probe_folder(const ProbeFolderOptions& options, Console& console) {
  std::vector<ItemResult> results = earlier_rows(options);
  make_deterministic();
  const ModelSource source = ModelSource::read(options.model, options.logits_scaling);
  const TextModel text = TextModel::load(options.model, "");
  check_vocabulary(source, text);
  const std::vector<NeedleItem> items = make_items(options.section, text);
  const c10::Device device = choose_device(options.device);
  const Decoder decoder = load_decoder(source, options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat, device);
  const TextCodec codec = text_codec(text);
  const std::vector<ItemResult> earlier = results;
  std::unique_ptr<JsonLinesWriter> rows;
  const auto progress = [&](const ItemResult& result, int64_t done, int64_t total) {
    if (rows) rows->write_row(to_json(result));
    console.status(concat(progress_bar(done, total), " ", done, "/", total, ", last ", result.id, " in ", fixed(result.seconds, 2), "s"));
  };
  for (const std::string reading : {"generate", "teacher_forced"}) {
    if (options.reading != reading && options.reading != "both") continue;
    ProbeOptions run = run_options(options, decoder);
    run.reading = reading;
    const std::vector<NeedleItem> left = items_left(items, earlier, run, options.output);
    const std::string limit = reading == "generate" ? concat("greedy, at most ", run.max_new_tokens, " new tokens") : "teacher-forced";
    console.line(concat("probe ", options.model, " (model ", run.model, ", tokenizer ", run.tokenizer, "): ", left.size(), " prompts",
                        left.size() < items.size() ? concat(" of ", items.size(), ", the others are in ", options.output) : "", ", ", limit));
    if (!options.output.empty() && !rows) rows = std::make_unique<JsonLinesWriter>(options.output);
    const EngineOptions engine{.prefill_chunk = options.section.prefill_chunk, .batch = options.batch};
    EngineUse use;
    const std::vector<ItemResult> fresh = reading == "generate"
                                              ? run_probe(left, text_engine(decoder, engine, &use), codec, run, progress)
                                              : run_teacher_forced(left, read_engine(decoder, engine, &use), codec, run, progress);
    if (!fresh.empty()) console.line(use_text(use));
    results.insert(results.end(), fresh.begin(), fresh.end());
  }
  return results;
}

std::string results_text(const std::vector<ItemResult>& results) {
  const std::string agreement = agreement_table(results);
  return probe_table(results) + (agreement.empty() ? "" : "\nHow the two readings agree:\n" + agreement);
}

NamedResults read_results(const std::string& file) {
  std::string path = file, stage;
  const size_t colon = file.rfind(':');
  if (!fs::exists(file) && colon != std::string::npos) {
    path = file.substr(0, colon);
    stage = file.substr(colon + 1);
  }
  if (!fs::is_regular_file(path)) fail(path, ": must be a result file, got ", fs::exists(path) ? "something else" : "nothing");
  NamedResults results{file, read_rows(path, /*allow_torn_end=*/true)};
  std::vector<std::string> stages;
  for (const ItemResult& r : results.results) {
    if (std::find(stages.begin(), stages.end(), r.stage) == stages.end()) stages.push_back(r.stage);
  }
  if (stages.empty()) fail(path, ": must hold results, got none");
  if (stage.empty() && stages.size() > 1) fail(path, ": holds the stages ", join(stages), "; name one, as in ", path, ":", stages[0]);
  if (!stage.empty()) std::erase_if(results.results, [&](const ItemResult& r) { return r.stage != stage; });
  if (results.results.empty()) fail(path, ": must hold the stage ", quoted(stage), ", got ", join(stages));
  return results;
}

std::pair<NamedResults, NamedResults> compared_results(const ProbeFolderOptions& options, const std::string& first,
                                                       const std::string& second, Console& console) {
  if (fs::is_directory(first) != fs::is_directory(second))
    fail("--compare must name two result files or two model folders, got one of each");
  if (!fs::is_directory(first)) return {read_results(first), read_results(second)};
  if (!options.output.empty()) fail("--output must not stand beside --compare: measure each model with it, then compare the files");
  const auto measure = [&](const std::string& folder) {
    ProbeFolderOptions one = options;
    one.model = folder;
    return NamedResults{folder, probe_folder(one, console)};
  };
  NamedResults before = measure(first);
  return {std::move(before), measure(second)};
}

}  // namespace qkr
