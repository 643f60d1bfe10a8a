// A configured run, put together: what is read and checked before the first step, then the parts that the loop needs.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config/run_config.h"
#include "trainer/data/dataset.h"
#include "trainer/hooks/console.h"
#include "trainer/hooks/probe_hook.h"
#include "trainer/hooks/script.h"
#include "trainer/io/file_lock.h"
#include "trainer/loop/plan.h"
#include "trainer/loop/run.h"
#include "trainer/model/folder.h"
#include "trainer/probe/items.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// Everything that can be known without loading a weight. Made by prepare(), which refuses what no run could do.
struct Prepared {
  RunConfig config;
  c10::Device device = c10::kCPU;
  ModelSource source;
  TextModel text;
  Dataset dataset;
  std::vector<int64_t> held_out;  // samples that are not trained on: qk_restore.method auto scores its candidates on them
  std::vector<Row> rows;          // of the others
  std::optional<BatchPlan> plan;
  std::vector<NeedleItem> items;
  std::vector<std::string> frozen;  // names of the weights that are not trained
  std::vector<Script> scripts;  // of config.hooks, compiled
  std::optional<std::filesystem::path> resume_from;  // a checkpoint
  bool resuming = false;                             // --resume was given and the folder holds an earlier start
  std::unique_ptr<FileLock> lock;                    // of the output folder, from the moment that it is this run's
};

// Reads and checks: model folder, tokenizer and vocabulary, data, packing, probe prompts, hooks, output folder, disk. Says how far it has
// come where the data takes long.
Prepared prepare(const RunConfig& config, bool resume, Console& console);

// The part of it that the data needs (for --inspect): config, text, dataset.
Prepared prepare_data(const RunConfig& config, Console& console);

// Error if the tokenizer has tokens that the model has no row for.
void check_vocabulary(const ModelSource& source, const TextModel& text);

// What the start-up says: model, kernels, data, plan, memory, probe. One string of lines.
std::string describe(const Prepared& prepared);

// Of a model, in the order of its forward pass.
std::vector<std::string> weight_names(const Architecture& architecture);

// Of weights and activations.
at::ScalarType model_dtype(const RunConfig& config);

// Hooks of a program that embeds the trainer. They act after config.hooks' scripts and before the log, the restore, the checkpoint and the
// probe of a step; `requests` is what they may set, to be carried out after the same step.
struct OwnHooks {
  std::vector<std::unique_ptr<Hook>> hooks;
  Requests& requests;
};

// The whole run. Returns how it ended. On an Error the run's folder holds summary.json and a report of what there was; a gate that stopped
// the run, or was broken at its end, is one too (exit code 3).
RunEnd train(Prepared prepared, Console& console, OwnHooks own);

// The probe's text side: haystack and items of a configuration.
// With samples auto the first batch of each cell, and the pool has the others.
std::vector<NeedleItem> make_items(const ProbeConfigSection& config, const TextModel& text);
ItemPool make_pool(const ProbeConfigSection& config, const TextModel& text);

// 16 hex digits of a model folder's tokenizer.json, as the rows of a probe name it.
std::string tokenizer_digest(const std::string& model_folder);

}  // namespace qkr
