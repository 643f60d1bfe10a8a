#include "trainer/report/report.h"

#include <nlohmann/json.hpp>

#include "trainer/core/error.h"
#include "trainer/io/atomic.h"
#include "trainer/report/assets.h"
#include "trainer/report/headline.h"
#include "trainer/report/html.h"
#include "trainer/report/recall.h"
#include "trainer/report/run_data.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using Json = nlohmann::ordered_json;

Json log_columns(const std::vector<LogRow>& rows) {
  Json columns = {{"step", Json::array()}, {"loss", Json::array()}, {"grad_norm", Json::array()}, {"lr", Json::array()}};
  const auto add = [&](const char* name, const std::optional<double>& value) {
    columns[name].push_back(value ? Json(*value) : Json(nullptr));
  };
  for (const LogRow& row : rows) {
    columns["step"].push_back(row.step);
    add("loss", row.loss);
    add("grad_norm", row.grad_norm);
    add("lr", row.lr);
  }
  return columns;
}

Json rate_json(const Rate& rate) {
  return {{"hits", rate.hits}, {"n", rate.n}, {"rate", rate.rate}, {"low", rate.low}, {"high", rate.high}};
}

Json paired_json(const Change& pair) {
  return {{"n", pair.n()}, {"both", pair.both}, {"lost", pair.lost}, {"gained", pair.gained}, {"neither", pair.neither},
          {"difference", pair.difference}, {"low", pair.low}, {"high", pair.high}, {"p", pair.p}};
}

// Each cell of the grid and, with task and length null, all of it.
template <class Visit>
void each_cell(const Recall& recall, const Visit& visit) {
  for (const std::string& task : recall.tasks()) {
    for (const int64_t length : recall.lengths()) visit(Json{{"task", task}, {"length", length}}, Recall::Where{task, length, {}});
  }
  visit(Json{{"task", nullptr}, {"length", nullptr}}, Recall::Where{});
}

Json recall_json(const Recall& recall) {
  Json stages = Json::array(), cells = Json::array(), paired = Json::array(), by_task = Json::array();
  for (size_t stage = 0; stage < recall.stages().size(); ++stage) {
    const Stage& at = recall.stages()[stage];
    stages.push_back({{"stage", at.kind}, {"step", at.step}, {"label", at.label}});
    each_cell(recall, [&](Json cell, const Recall::Where& where) {
      cell["stage"] = stage;
      cell.update(rate_json(recall.rate(stage, where)));
      cells.push_back(std::move(cell));
    });
    Json tasks = Json::array();
    for (const std::string& task : recall.tasks()) tasks.push_back(rate_json(recall.rate(stage, {task, {}, {}})));
    by_task.push_back(std::move(tasks));
  }
  for (const Comparison& pair : comparisons(recall)) {
    each_cell(recall, [&](Json cell, const Recall::Where& where) {
      cell["from"] = pair.from;
      cell["to"] = pair.to;
      cell.update(paired_json(recall.paired(pair.from, pair.to, where)));
      paired.push_back(std::move(cell));
    });
  }
  return {{"stages", stages}, {"tasks", recall.tasks()}, {"cells", cells}, {"paired", paired}, {"by_task", by_task}};
}

}  // namespace

std::string render_report(const std::filesystem::path& run_folder) {
  const RunData run = read_run(run_folder);
  const Recall recall(run.probe);
  const Json data = {{"run", run.name}, {"log", log_columns(run.log)}, {"recall", recall_json(recall)}};
  return concat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // The browser itself refuses whatever would ask a network, should a text ever slip through as markup.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">\n<title>",
      html::escape(run.name), " – qk-restore</title>\n<style>\n", uplot_css, "\n", page_css,
      "</style>\n<script>document.documentElement.className = 'js';</script>\n</head>\n<body>\n"
      "<button type=\"button\" id=\"theme\" class=\"scripted\">Theme: auto</button>\n<main>\n",
      masthead(run, recall), recall_section(run, recall), heads_section(HeadMap(run.heads)), training_section(run), restore_section(run), missed_section(recall),
      config_section(run), "</main>\n<script type=\"application/json\" id=\"data\">", html::script_json(data), "</script>\n<script>\n",
      uplot_js, "\n</script>\n<script>\n", page_js, "</script>\n</body>\n</html>\n");
}

std::filesystem::path write_report(const std::filesystem::path& run_folder) {
  const std::filesystem::path target = run_folder / "report.html";
  write_file_atomically(target, render_report(run_folder));
  return target;
}

}  // namespace qkr
