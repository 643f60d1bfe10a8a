// Run folders for the report's tests, and the page taken apart again.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "tests/support/tmpdir.h"
#include "trainer/report/report.h"

namespace qkr::test {

using Json = nlohmann::json;

inline const char* const kConfig = "model:\n  path: models/tiny\nqk_restore:\n  method: procrustes\noutput: runs/x\n";

inline std::string lines(const std::vector<Json>& rows) {
  std::string text;
  for (const Json& row : rows) text += row.dump() + "\n";
  return text;
}

inline Json probe_row(const std::string& stage, int64_t step, const std::string& task, int64_t length, int index, bool hit) {
  return {{"stage", stage}, {"step", step}, {"id", task + "-" + std::to_string(length) + "-" + std::to_string(index)},
          {"task", task}, {"length", length}, {"index", index}, {"depth", (index * 37) % 101}, {"prompt_tokens", length - 130},
          {"key", "calm-lens"}, {"value", "7654321"}, {"outputs", {"7654321"}}, {"prediction", hit ? " 7654321." : " I do not know"},
          {"score", hit ? 100 : 0}, {"hit", hit}, {"null", false}, {"generated_tokens", 9}, {"stopped", hit ? "value" : "length"},
          {"seconds", 0.5}, {"mode", "base"}, {"reading", "generate"}, {"haystack", "book.txt"},
          {"haystack_sha256", std::string(64, 'a')}, {"sentence_rule", "punkt"}};
}

// `n` prompts of one cell measured at a stage; hit(index) says which are found.
inline void add_cell(std::vector<Json>& rows, const std::string& stage, int64_t step, const std::string& task, int64_t length, int n,
                     const std::function<bool(int)>& hit) {
  for (int index = 0; index < n; ++index) rows.push_back(probe_row(stage, step, task, length, index, hit(index)));
}

inline std::vector<Json> log_rows(int steps) {
  std::vector<Json> rows;
  for (int step = 1; step <= steps; ++step) {
    rows.push_back({{"step", step}, {"loss", 2.0 / step + 0.1234567890123}, {"grad_norm", 1.0 + 1.0 / (7 * step)}, {"lr", 1e-5 / step},
                    {"tokens", 1000 + step}, {"tokens_seen", 1000 * step}, {"trained_tokens", 400 * step}, {"seconds", 0.25},
                    {"tokens_per_second", 4000.5}, {"memory_bytes", 123456789}});
  }
  return rows;
}

// The JSON that the page carries.
inline Json data_of(const std::string& page) {
  const std::string start = "<script type=\"application/json\" id=\"data\">";
  const size_t at = page.find(start);
  if (at == std::string::npos) throw std::runtime_error("the page has no data");
  const size_t begin = at + start.size();
  return Json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

// The page without its scripts and styles: what a reader sees.
inline std::string body_of(const std::string& page) {
  const size_t begin = page.find("<main>"), end = page.find("</main>");
  return page.substr(begin, end - begin);
}

inline size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

inline const Json& cell_of(const Json& list, const std::function<bool(const Json&)>& is_it) {
  for (const Json& cell : list) {
    if (is_it(cell)) return cell;
  }
  throw std::runtime_error("no such cell");
}

}  // namespace qkr::test
