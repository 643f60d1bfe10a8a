// Golden RULER data: rows of the fixtures, the book they were made from.
#pragma once

#include <algorithm>
#include <memory>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "tests/support/fixtures.h"
#include "trainer/probe/haystack.h"
#include "trainer/probe/prompt.h"

namespace qkr::test {

inline fs::path ruler_dir() { return fixtures_dir() / "ruler"; }
inline fs::path book_path() { return assets_dir() / "haystack" / "war-and-peace.txt"; }

inline std::vector<nlohmann::json> read_rows(const fs::path& path) {
  std::vector<nlohmann::json> rows;
  std::istringstream lines(read_file(path));
  for (std::string line; std::getline(lines, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

struct RulerRow {
  std::string file;
  nlohmann::json row;
};

// Rows of niah_*.jsonl, edge_*.jsonl and forced.jsonl: those of single_1, or those that need the
// book.
inline std::vector<RulerRow> ruler_rows(bool noise) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(ruler_dir())) {
    const std::string name = entry.path().filename().string();
    const bool prompts =
        name.rfind("niah_", 0) == 0 || name.rfind("edge_", 0) == 0 || name == "forced.jsonl";
    if (prompts && entry.path().extension() == ".jsonl") files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  std::vector<RulerRow> rows;
  for (const fs::path& file : files) {
    for (nlohmann::json& row : read_rows(file)) {
      if ((row.at("task") == "niah_single_1") == noise)
        rows.push_back({file.filename().string(), std::move(row)});
    }
  }
  return rows;
}

inline PromptFields fields_of(const nlohmann::json& row) {
  PromptFields fields;
  fields.task = parse_needle_task(row.at("task").get<std::string>());
  fields.needles = {{row.at("key"), row.at("value"), row.value("depth", 0.0), row.value("insert_line", int64_t{0})}};
  fields.asked = {row.at("key")};
  fields.num_haystack = row.at("num_haystack");
  fields.remove_newline_tab = row.at("remove_newline_tab");
  return fields;
}

inline VariableChain chain_of(const nlohmann::json& row, const std::vector<std::string>& names) {
  VariableChain chain;
  chain.names = names;
  chain.value = row.at("value");
  chain.lines = row.at("lines").get<std::vector<int64_t>>();
  chain.num_haystack = row.at("num_haystack");
  return chain;
}

// A row of multi_tasks.jsonl.
inline PromptFields multi_fields_of(const nlohmann::json& row) {
  PromptFields fields;
  fields.task = parse_needle_task(row.at("task").get<std::string>());
  fields.num_haystack = row.at("num_haystack");
  fields.remove_newline_tab = row.at("remove_newline_tab");
  if (fields.task == NeedleTask::kVariableTracking) {
    fields.chain = chain_of(row, row.at("outputs").get<std::vector<std::string>>());
    const nlohmann::json& example = row.at("example");
    fields.example = chain_of(example, example.at("names").get<std::vector<std::string>>());
    return fields;
  }
  for (const nlohmann::json& n : row.at("needles"))
    fields.needles.push_back({n.at("key"), n.at("value"), n.value("depth", 0.0), n.value("line", int64_t{0})});
  for (const nlohmann::json& d : row.value("distractors", nlohmann::json::array()))
    fields.distractors.push_back({d.at(0), d.at(1), 0, 0});
  fields.asked = row.at("queries").get<std::vector<std::string>>();
  return fields;
}

struct SentenceData {
  std::vector<int64_t> starts;  // code points
  std::string haystack_sha256;
  int64_t glued = 0;
};

inline SentenceData read_sentences() {
  const auto json = nlohmann::json::parse(read_file(ruler_dir() / "sentences.json"));
  SentenceData data;
  data.starts = json.at("start_deltas").get<std::vector<int64_t>>();
  std::partial_sum(data.starts.begin(), data.starts.end(), data.starts.begin());
  data.haystack_sha256 = json.at("haystack_sha256");
  data.glued = static_cast<int64_t>(json.at("glued").size());
  return data;
}

}  // namespace qkr::test
