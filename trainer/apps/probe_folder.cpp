#include "trainer/apps/probe_folder.h"

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/hooks/head_probe.h"
#include "trainer/io/file_lock.h"
#include "trainer/io/json_lines.h"
#include "trainer/io/safetensors.h"
#include "trainer/probe/auto_samples.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/engine.h"
#include "trainer/probe/generator.h"
#include "trainer/probe/prompt_file.h"
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

std::unique_ptr<FileLock> lock_of(const std::string& output) {
  return std::make_unique<FileLock>(output, output + ": --output must be of one probe at a time, got one that another process is at work on");
}

// What an earlier process left in the output.
std::vector<ItemResult> earlier_rows(const ProbeFolderOptions& options) {
  if (options.output.empty() || !fs::exists(options.output)) return {};
  if (!options.resume) fail(options.output, ": --output must not exist yet (--resume goes on with it)");
  return read_rows(options.output, /*allow_torn_end=*/true);
}

// {"prompt": ..., "answer": ...} a line.
std::vector<NeedleItem> own_items(const ProbeFolderOptions& options, const TextCodec& codec) {
  if (options.reading != "generate") fail("--reading must be generate beside --prompts, got ", options.reading);
  std::vector<OwnPrompt> prompts;
  JsonLinesReader reader(options.prompts);
  while (reader.next()) {
    const auto text = [&](const char* key) {
      const nlohmann::json& row = reader.row();
      if (!row.is_object() || !row.contains(key) || !row[key].is_string()) {
        fail(options.prompts, ":", reader.line(), ": must be an object with the strings \"prompt\" and \"answer\", got no ", quoted(key));
      }
      return row[key].get<std::string>();
    };
    prompts.push_back({text("prompt"), text("answer")});
  }
  std::vector<NeedleItem> items = prompt_items(prompts, fs::path(options.prompts).stem().string(), options.section.mode, codec);
  if (options.prompt_limit > 0 && options.prompt_limit < static_cast<int64_t>(items.size())) items.resize(static_cast<size_t>(options.prompt_limit));
  return items;
}

ProbeOptions run_options(const ProbeFolderOptions& options, const Decoder& decoder) {
  ProbeOptions run;
  run.stage = options.stage;
  run.mode = options.section.mode;
  run.max_new_tokens = options.section.max_new_tokens;
  run.dtype = options.dtype;
  run.tokenizer = tokenizer_digest(options.model);
  run.model = weights_digest(decoder.weights(), options.logits_scaling);
  for (const int64_t id : decoder.architecture().eos_ids) run.eos_ids.push_back(static_cast<int32_t>(id));
  return run;
}

// Prompts by every reading that is asked for, those apart that an earlier process has measured.
class FolderProbe {
 public:
  FolderProbe(const ProbeFolderOptions& options, const Decoder& decoder, const TextCodec& codec, Console& console, std::vector<ItemResult> earlier,
              std::unique_ptr<FileLock> lock)
      : options_(options), decoder_(decoder), codec_(codec), console_(console), base_(run_options(options, decoder)), results_(std::move(earlier)),
        lock_(std::move(lock)) {}

  void measure(const std::vector<NeedleItem>& items) {
    for (const std::string& reading : readings_of(options_.reading)) {
      const std::vector<NeedleItem> left = items_left(items, results_, with(reading), options_.output);
      say(concat(left.size(), " prompts", left.size() < items.size() ? concat(" of ", items.size(), ", the others are in ", options_.output) : "", ", ",
                 limit_text(reading)));
      EngineUse use;
      run(left, reading, &use);
      if (!left.empty()) console_.line(use_text(use));
    }
  }

  // The prompts that it came to.
  std::vector<NeedleItem> measure_until_narrow(ItemPool pool) {
    ProbeConfigSection section = options_.section;
    section.reading = options_.reading;
    std::vector<std::string> limits;
    for (const std::string& reading : readings_of(options_.reading)) limits.push_back(limit_text(reading));
    say(concat("batches of ", kSampleBatch, " prompts a cell until its interval is at most ", fixed(section.width, 1), " points wide, ",
               section.max_samples, " at most, ", join(limits, " and ")));
    const size_t earlier = results_.size();
    EngineUse use;
    const std::vector<NeedleItem> items = measure_until_settled(section, pool, results_, [&](const std::vector<NeedleItem>& batch) {
      for (const std::string& reading : readings_of(options_.reading)) run(items_left(batch, results_, with(reading), options_.output), reading, &use);
    });
    for (const std::string& reading : readings_of(options_.reading)) items_left(items, results_, with(reading), options_.output);
    if (results_.size() > earlier) console_.line(use_text(use));
    return items;
  }

  const std::string& model() const { return base_.model; }  // digest
  std::vector<ItemResult> take() { return std::move(results_); }

 private:
  ProbeOptions with(const std::string& reading) const {
    ProbeOptions run = base_;
    run.reading = reading;
    return run;
  }

  std::string limit_text(const std::string& reading) const {
    return reading == "generate" ? concat("greedy, at most ", base_.max_new_tokens, " new tokens") : "teacher-forced";
  }

  void say(const std::string& what) const {
    console_.line(concat("probe ", options_.model, " (model ", base_.model, ", tokenizer ", base_.tokenizer, "): ", what));
  }

  void run(const std::vector<NeedleItem>& items, const std::string& reading, EngineUse* use) {
    if (!options_.output.empty() && !rows_) {
      if (!lock_) lock_ = lock_of(options_.output);
      rows_ = std::make_unique<JsonLinesWriter>(options_.output);
    }
    const auto progress = [&](const ItemResult& result, int64_t done, int64_t total) {
      if (rows_) rows_->write_row(to_json(result));
      console_.status(concat(progress_bar(done, total), " ", done, "/", total, ", last ", result.id, " in ", fixed(result.seconds, 2), "s"));
    };
    const EngineOptions engine{.prefill_chunk = options_.section.prefill_chunk, .batch = options_.batch};
    const std::vector<ItemResult> fresh =
        reading == "generate" ? run_probe(items, text_engine(decoder_, engine, use), codec_, with(reading), progress)
                              : run_teacher_forced(items, read_engine(decoder_, engine, use), codec_, with(reading), progress);
    results_.insert(results_.end(), fresh.begin(), fresh.end());
  }

  const ProbeFolderOptions& options_;
  const Decoder& decoder_;
  const TextCodec& codec_;
  Console& console_;
  ProbeOptions base_;
  std::vector<ItemResult> results_;
  std::unique_ptr<FileLock> lock_;  // of the output, from its first row on, or from when an earlier process's were read
  std::unique_ptr<JsonLinesWriter> rows_;
};

}  // namespace

std::vector<ItemResult> probe_folder(const ProbeFolderOptions& options, Console& console) {
  if (!options.heads.empty() && !options.prompts.empty()) fail("--heads must not stand beside --prompts, which have no needles");
  if (!options.heads.empty() && !options.resume && fs::exists(options.heads)) {
    fail(options.heads, ": --heads must not exist yet (--resume goes on with it)");
  }
  std::unique_ptr<FileLock> lock;
  if (options.resume && !options.output.empty() && fs::is_regular_file(options.output)) lock = lock_of(options.output);
  std::vector<ItemResult> results = earlier_rows(options);
  make_deterministic();
  const ModelSource source = ModelSource::read(options.model, options.logits_scaling);
  const TextModel text = TextModel::load(options.model, "");
  check_vocabulary(source, text);
  const TextCodec codec = text_codec(text);
  Lap lap;
  ItemPool pool = options.prompts.empty() ? make_pool(options.section, text) : ItemPool();  // with samples auto
  std::vector<NeedleItem> items = !options.prompts.empty() ? own_items(options, codec)
                                  : pool                   ? pool.items(cell_needs(options.section, {}), /*only_open=*/true)
                                                           : make_items(options.section, text);
  const double making = lap.seconds();
  const c10::Device device = choose_device(options.device);
  const Decoder decoder = load_decoder(source, options.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat, device);
  console.line(concat("made ", items.size(), " prompts in ", fixed(making, 2), " s, loaded ", human_bytes(tensor_bytes(decoder.weights())), " of weights onto ",
                      device, " in ", fixed(lap.seconds(), 2), " s"));
  FolderProbe probe(options, decoder, codec, console, std::move(results), std::move(lock));
  if (pool) {
    items = probe.measure_until_narrow(std::move(pool));
  } else {
    probe.measure(items);
  }
  if (!options.heads.empty()) {
    HeadProbe(decoder, codec, options.heads, options.section.prefill_chunk, console).measure(options.stage, 0, probe.model(), items);
  }
  return probe.take();
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
  if (stage.empty() && stages.size() > 1) {
    fail(path, ": holds the stages ", shown_names(stages), "; name one, as in ", path, ":", shown_name(stages[0]));
  }
  if (!stage.empty()) std::erase_if(results.results, [&](const ItemResult& r) { return r.stage != stage; });
  if (results.results.empty()) fail(path, ": must hold the stage ", quoted(stage), ", got ", shown_names(stages));
  return results;
}

std::pair<NamedResults, NamedResults> compared_results(const ProbeFolderOptions& options, const std::string& first,
                                                       const std::string& second, Console& console) {
  if (fs::is_directory(first) != fs::is_directory(second))
    fail("--compare must name two result files or two model folders, got one of each");
  if (!fs::is_directory(first)) return {read_results(first), read_results(second)};
  if (!options.output.empty() || !options.heads.empty()) fail("--output and --heads must not stand beside --compare: measure each model with it, then compare the files");
  // What is wrong with the second is said before the first has been measured.
  for (const std::string& folder : {first, second}) check_weights(ModelSource::read(folder, options.logits_scaling));
  const auto measure = [&](const std::string& folder) {
    ProbeFolderOptions one = options;
    one.model = folder;
    return NamedResults{folder, probe_folder(one, console)};
  };
  NamedResults before = measure(first);
  return {std::move(before), measure(second)};
}

}  // namespace qkr
