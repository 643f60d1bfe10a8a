// What a run needs, small enough for seconds on one core: a random hybrid in the shape of examples/tiny, its tokenizer, its data.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/e2e/program.h"

namespace qkr::test {

// A model folder with float32 weights, made once for the process by the library's own writer. Not to be written to.
const std::filesystem::path& base_model();

// `source` with all its files, as `target`.
void copy_folder(const std::filesystem::path& source, const std::filesystem::path& target);

// A configuration of 6 steps in two micro-batches each, over 1.5 epochs of 8 packed rows, without a probe.
std::string small_config(const std::filesystem::path& model, const std::filesystem::path& output);

// The command sft-train --config <folder>/run.yaml ... over small_config(base_model(), folder/"out").
std::vector<std::string> small_command(const TmpDir& folder, std::vector<std::string> more = {});

// What --set adds for a probe of 2 prompts a task at 256 tokens.
std::vector<std::string> with_probe();

// The probe's arguments for niah-probe that measure the same prompts.
std::vector<std::string> probe_arguments();

std::vector<nlohmann::json> read_rows(const std::filesystem::path& jsonl);
std::vector<nlohmann::json> rows_of(const std::filesystem::path& jsonl);  // read_rows, without how long each took
nlohmann::json read_json(const std::filesystem::path& json);

// Names of the files below `folder`, sorted.
std::vector<std::string> files_below(const std::filesystem::path& folder);

// A finished run, made once for the process: procrustes, probe at start, end and restored, save_sft_model.
struct FinishedRun {
  TmpDir folder;
  Outcome outcome;
  std::filesystem::path out() const { return folder / "out"; }
};
const FinishedRun& finished_run();

// The same steps with qk_restore.method plain and no probe.
const FinishedRun& plain_run();

}  // namespace qkr::test
