// The files of a run's folder, as the report reads them: trainer/report/run_data.h and what it draws from them.
#include "trainer/report/report.h"

#include <filesystem>

#include "tests/fuzz/target.h"
#include "tests/report/run_folder.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::fuzz {
namespace {

using test::Json;

std::string probe_lines() {
  std::vector<Json> rows;
  for (const auto& [stage, step] :
       {std::pair("start", 0), std::pair("step", 5), std::pair("end", 9), std::pair("restored", 9)}) {
    test::add_cell(rows, stage, step, "niah_single_1", 1024, 4, [](int i) { return i % 2 == 0; });
    test::add_cell(rows, stage, step, "vt", 4096, 2, [&](int i) { return i == step % 2; });
  }
  return test::lines(rows);
}

std::string head_lines() {
  std::vector<Json> rows;
  for (const char* stage : {"start", "end", "restored"}) {
    for (int i = 0; i < 3; ++i) {
      rows.push_back({{"stage", stage},
                      {"step", 9},
                      {"id", std::to_string(i)},
                      {"task", "vt"},
                      {"length", 1024},
                      {"layers", {1, 3}},
                      {"mass", {{0.1, 0.5 / (i + 1)}, {0.25, 0.0}}}});
    }
  }
  return test::lines(rows);
}

std::string log_lines() {
  std::vector<Json> rows = test::log_rows(4);
  rows[1]["hook/drift/rotation"] = 0.25;
  rows[2]["hook/drift/rotation"] = nullptr;
  rows.push_back({{"step", 4}, {"event", "hook"}, {"hook/ema/norm", 3.5}});
  return test::lines(rows);
}

std::string restore_text() {
  const Json layer = {{"layer", 1},
                      {"q_change", 0.1},
                      {"residual_after", 0.02},
                      {"mu", 0.01},
                      {"certificate", {{"orthogonality", 1e-9}, {"cholesky", true}, {"kappa", nullptr}}},
                      {"heads", {1, 2}}};
  const Json half = {{"recall", 0.5}, {"low", 0.2}, {"high", 0.8}};
  const Json chosen = {{"chosen", "plain"},
                       {"best", "plain"},
                       {"held_out_rows", 12},
                       {"max_loss_increase", 0.01},
                       {"lost", {{"text", "recall fell"}}},
                       {"candidates",
                        {{{"candidate", "none"},
                          {"recall", 0.4},
                          {"low", 0.1},
                          {"high", 0.7},
                          {"standing", "the tuned weights"},
                          {"held_out_loss", 2.0}}}},
                       {"other_half",
                        {{"none", half},
                         {"chosen", half},
                         {"difference", 0.1},
                         {"difference_low", -0.1},
                         {"difference_high", 0.3},
                         {"p", 0.04}}}};
  return Json({{"method", "procrustes"},
               {"layers", {layer, layer}},
               {"seconds", 1.5},
               {"auto", chosen},
               {"snapshot_bytes", 1024}})
      .dump();
}

std::string summary_text() {
  const Json gate = {{"step", 3},     {"gate", 0},     {"action", "warn"}, {"metric", "probe"},
                     {"bound", 80.0}, {"limit", 78.5}, {"value", 70},      {"reason", "too low"}};
  return Json({{"status", "finished"},
               {"message", ""},
               {"steps", 9},
               {"model", "models/tiny"},
               {"seconds", 63.5},
               {"peak_memory_bytes", 12345},
               {"gates", {gate}},
               {"data", {{"rows", 3}}}})
      .dump();
}

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> kNames = {"config.yaml", "log.jsonl",    "probe.jsonl",
                                                  "heads.jsonl", "restore.json", "summary.json"};
  return kNames;
}

// One page with its own scripts alone, of characters that HTML allows, whatever the files hold.
void check_page(const std::string& page) {
  require(test::count_of(page, "<script") == 4 && test::count_of(page, "</script") == 4,
          "a page has its own scripts alone");
  require(is_utf8(page), "a page is UTF-8");
  require(page.find('\0') == std::string::npos && page.find('\x1b') == std::string::npos,
          "a page has no control characters");
  require(test::data_of(page).is_object(), "a page carries its data");
}

}  // namespace

Target report_target() {
  Target target;
  target.name = "report";
  const std::string config = std::string("=== config.yaml\n") + test::kConfig;
  target.seeds = {config + "=== log.jsonl\n" + log_lines(), config + "=== probe.jsonl\n" + probe_lines(),
                  config + "=== heads.jsonl\n" + head_lines() + "=== probe.jsonl\n" + probe_lines(),
                  config + "=== restore.json\n" + restore_text() + "\n=== summary.json\n" + summary_text() + "\n",
                  config + "=== log.jsonl\n" + log_lines() + "=== restore.json\n" + restore_text() +
                      "\n=== summary.json\n" + summary_text() + "\n=== probe.jsonl\n" + probe_lines()};
  target.words = {"=== probe.jsonl\n",  "=== heads.jsonl\n",   "\"<img src=x onerror=y>\"", "\"-->\"",
                  "\"teacher_forced\"", "\"step-5-restored\"", "\"hook/a/b\":1e308,",       "\"hook/a/b\":-1e308,"};
  target.run = [](std::string_view input) {
    const std::string folder = scratch() + "/run";
    for (const std::string& name : file_names()) std::filesystem::remove(folder + "/" + name);
    std::filesystem::create_directories(folder);
    for (const Part& part : parts_of(input)) {
      if (std::find(file_names().begin(), file_names().end(), part.name) != file_names().end())
        write_scratch("run/" + part.name, part.text);
    }
    accepts({folder}, [&] { check_page(render_report(folder)); });
  };
  return target;
}

}  // namespace qkr::fuzz
