#include <set>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/figures.h"
#include "trainer/report/headline.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using html::Cell;
using html::escape;
using html::Heading;

constexpr size_t kMissedRows = 200;         // a stage's list of missed prompts
constexpr size_t kPredictionCharacters = 160;

Cell num(std::string text, std::string css = {}) { return {.html = std::move(text), .numeric = true, .css = std::move(css)}; }

void add_rate(std::vector<Cell>& cells, const Rate& rate) {
  if (rate.n == 0) {
    cells.insert(cells.end(), {num("–", "first"), num("0"), num("–")});
    return;
  }
  cells.push_back({.html = html::percent_fixed(rate.rate), .numeric = true, .css = "first strong",
                   .title = concat(rate.hits, " of ", rate.n, " found")});
  cells.push_back(num(group_digits(rate.n)));
  cells.push_back(num(concat(fixed(100 * rate.low, 1), "–", fixed(100 * rate.high, 1)), "soft"));
}

// The two leading cells of a row: the task spans its lengths.
std::vector<Cell> row_names(const Recall& recall, const std::string& task, size_t length_index) {
  std::vector<Cell> cells;
  if (length_index == 0) {
    cells.push_back({.html = escape(task), .heading = true, .rows = static_cast<int>(recall.lengths().size()), .css = "task"});
  }
  cells.push_back(num(group_digits(recall.lengths()[length_index])));
  return cells;
}

std::string rate_table(const Recall& recall) {
  html::Table table("Recall by task and length", "rates");
  std::vector<Heading> top = {{.html = "Task", .rows = 2}, {.html = "Length", .numeric = true, .rows = 2}}, second;
  for (const size_t stage : recall.main_stages()) {
    top.push_back({.html = escape(capital(recall.stages()[stage].label)), .columns = 3});
    second.insert(second.end(), {{.html = "found", .numeric = true}, {.html = "n", .numeric = true}, {.html = "95%", .numeric = true}});
  }
  table.head(top);
  table.head(second);
  for (const std::string& task : recall.tasks()) {
    for (size_t i = 0; i < recall.lengths().size(); ++i) {
      std::vector<Cell> cells = row_names(recall, task, i);
      for (const size_t stage : recall.main_stages()) add_rate(cells, recall.rate(stage, {task, recall.lengths()[i], {}}));
      table.row(cells, i == 0 ? "group" : "");
    }
  }
  std::vector<Cell> total = {{.html = "All", .heading = true}, num("all")};
  for (const size_t stage : recall.main_stages()) add_rate(total, recall.rate(stage, {}));
  table.row(total, "total");
  return table.html();
}

void add_paired(std::vector<Cell>& cells, const Change& pair) {
  cells.push_back(num(group_digits(pair.n())));
  if (pair.n() == 0) {
    cells.insert(cells.end(), {num("–"), num("–"), num("–"), Cell{.html = ""}, num("–"), num("–")});
    return;
  }
  const std::string css = direction(pair);
  cells.push_back(num(group_digits(pair.lost)));
  cells.push_back(num(group_digits(pair.gained)));
  cells.push_back(num(html::points(pair.difference), "strong " + css));
  cells.push_back({.html = interval_svg(pair, css)});
  cells.push_back(num(concat(html::points(pair.low), " … ", html::points(pair.high)), "soft"));
  cells.push_back(num(escape(html::p_value(pair.p)), css == "flat" ? "soft" : "strong"));
}

std::string paired_table(const Recall& recall, const Comparison& pair) {
  html::Table table(concat("Paired difference, ", pair.label), "paired");
  table.head({{.html = "Task"}, {.html = "Length", .numeric = true}, {.html = "n", .numeric = true},
              {.html = "lost", .numeric = true}, {.html = "gained", .numeric = true}, {.html = "points", .numeric = true},
              {.html = "<span class=\"scale\"><span>−100</span><span>+100</span></span>"}, {.html = "95%", .numeric = true},
              {.html = "p", .numeric = true}});
  for (const std::string& task : recall.tasks()) {
    for (size_t i = 0; i < recall.lengths().size(); ++i) {
      std::vector<Cell> cells = row_names(recall, task, i);
      add_paired(cells, recall.paired(pair.from, pair.to, {task, recall.lengths()[i], {}}));
      table.row(cells, i == 0 ? "group" : "");
    }
  }
  std::vector<Cell> total = {{.html = "All", .heading = true}, num("all")};
  add_paired(total, recall.paired(pair.from, pair.to, {}));
  table.row(total, "total");
  return table.html();
}

std::string differences(const Recall& recall) {
  std::vector<html::Panel> panels;
  for (const Comparison& pair : comparisons(recall)) panels.push_back({capital(pair.label), paired_table(recall, pair)});
  if (panels.empty()) return "";
  return concat("<h3>Paired differences</h3>\n<p class=\"hint\">The same prompts at both times. “Lost” and “gained” count the "
                "prompts whose answer was found at one time only; the interval is Newcombe’s for paired shares, p is McNemar’s exact test, "
                "two-sided, for one row by itself and not corrected for the number of rows: “All” is the run’s one test.</p>\n",
                html::tabs("paired", "Comparison", panels));
}

std::string depth_maps(const Recall& recall) {
  if (!recall.has_depths() || recall.main_stages().empty()) return "";
  const std::vector<Comparison> pairs = comparisons(recall);
  std::vector<html::Panel> panels;
  for (const std::string& task : recall.tasks()) {
    std::string maps = "<div class=\"maps\">\n";
    for (const size_t stage : recall.main_stages()) maps += depth_map(recall, stage, task);
    maps += "</div>\n";
    if (!pairs.empty()) {
      maps += concat("<p class=\"hint\">Paired differences of the same cells, in points. ", difference_key(), "</p>\n<div class=\"maps\">\n");
      for (const Comparison& pair : pairs) maps += difference_map(recall, pair, task);
      maps += "</div>\n<p class=\"hint\">* McNemar’s p is below 0.05 for the cell by itself; outlined: also by Holm’s rule over all cells of "
              "the map.</p>\n";
    }
    panels.push_back({task, maps});
  }
  return concat("<h3>Where in the text</h3>\n<p class=\"hint\">Rows: how deep the needle lies in the context. Columns: length. Each cell: "
                "found / prompts. ", recall_key(), "</p>\n<p class=\"hint scripted\">Point at a cell, or go through a map with the arrow keys, "
                "for its numbers in words.</p>\n", html::tabs("depth", "Task", panels));
}

std::string during_training(const Recall& recall) {
  html::Table table("Recall during training", "rates");
  std::vector<Heading> head = {{.html = "Step", .numeric = true}, {.html = "When"}};
  for (const std::string& task : recall.tasks()) head.push_back({.html = escape(task), .numeric = true});
  head.push_back({.html = "all", .numeric = true});
  head.push_back({.html = "n", .numeric = true});
  head.push_back({.html = "95%", .numeric = true});
  table.head(head);
  bool any = false;
  for (size_t stage = 0; stage < recall.stages().size(); ++stage) {
    const Stage& at = recall.stages()[stage];
    any = any || (stage != recall.start() && stage != recall.end() && stage != recall.restored());
    std::vector<Cell> cells = {num(group_digits(at.step)), {.html = escape(at.label)}};
    for (const std::string& task : recall.tasks()) {
      const Rate rate = recall.rate(stage, {task, {}, {}});
      cells.push_back(num(rate.n == 0 ? "–" : html::percent_fixed(rate.rate)));
    }
    const Rate all = recall.rate(stage, {});
    cells.push_back(num(html::percent_fixed(all.rate), "strong"));
    cells.push_back(num(group_digits(all.n)));
    cells.push_back(num(concat(fixed(100 * all.low, 1), "–", fixed(100 * all.high, 1)), "soft"));
    table.row(cells);
  }
  if (!any) return "";
  return concat("<h3>During training</h3>\n<div class=\"chart\" id=\"chart-recall\"></div>\n", table.html());
}

// Each way of measuring that the rows name, so that rates of different kinds are not read as one.
std::string how_measured(const RunData& run) {
  std::set<std::string> ways, texts;
  const auto add = [&](const ProbeRow& row) {
    std::vector<std::string> parts;
    if (!row.reading.empty()) parts.push_back("reading " + row.reading);
    if (!row.mode.empty()) parts.push_back("mode " + row.mode);
    if (!parts.empty()) ways.insert(join(parts));
    if (row.haystack.empty()) return;
    const std::string digest = row.haystack_sha256.substr(0, 12);
    texts.insert(concat("haystack ", row.haystack, digest.empty() ? "" : concat(" (SHA-256 ", digest, "…)"),
                        row.sentence_rule.empty() ? "" : ", sentences by " + row.sentence_rule));
  };
  for (const ProbeRow& row : run.probe) add(row);
  for (const ProbeRow& row : run.forced) add(row);
  std::vector<std::string> all(ways.begin(), ways.end());
  all.insert(all.end(), texts.begin(), texts.end());
  return all.empty() ? "" : concat("<p class=\"hint\">Measured by: ", escape(join(all, "; ")), ".</p>\n");
}

std::string mark(const ProbeRow* row) { return row == nullptr ? "–" : row->hit ? "found" : "missed"; }

std::string missed_table(const Recall& recall, size_t stage, const std::vector<const ProbeRow*>& missed) {
  html::Table table(concat("Prompts missed ", recall.stages()[stage].label), "missed");
  std::vector<Heading> head = {{.html = "Prompt"}, {.html = "Task"}, {.html = "Length", .numeric = true},
                               {.html = "Depth", .numeric = true}, {.html = "Expected"}, {.html = "Prediction"}, {.html = "Ended by"}};
  std::vector<size_t> others;
  for (const size_t other : recall.main_stages()) {
    if (other == stage) continue;
    others.push_back(other);
    head.push_back({.html = escape(capital(recall.stages()[other].label))});
  }
  table.head(head);
  for (size_t i = 0; i < missed.size() && i < kMissedRows; ++i) {
    const ProbeRow& row = *missed[i];
    const std::string prediction = concat("<bdi>", escape(html::one_line(row.prediction, kPredictionCharacters)), "</bdi>");
    std::vector<Cell> cells = {{.html = escape(row.id), .css = "mono"}, {.html = escape(row.task)}, num(group_digits(row.length)),
                               num(row.depth ? html::number(*row.depth) + "%" : "–"),
                               {.html = "<bdi>" + escape(row.expected) + "</bdi>", .css = "mono"},
                               {.html = row.prediction.empty() ? "<i>empty</i>" : prediction, .css = "mono prediction"},
                               {.html = escape(row.stopped)}};
    for (const size_t other : others) cells.push_back({.html = mark(recall.row(other, row))});
    table.row(cells);
  }
  return table.html();
}

}  // namespace

std::string recall_section(const RunData& run, const Recall& recall) {
  if (recall.empty()) return "";
  const std::string rates =
      recall.main_stages().empty()
          ? ""
          : concat("<p class=\"hint\">Share of the prompts whose answer was found, with Wilson’s 95% interval (in percent).</p>\n",
                   rate_table(recall));
  const Recall forced(run.forced);
  const std::string second = forced.main_stages().empty()
                                 ? ""
                                 : concat("<h3>By the second reading</h3>\n<p class=\"hint\">The same prompts teacher-forced: found if every token of "
                                          "the answer is the most likely one. It counts nowhere else on this page.</p>\n", rate_table(forced));
  return concat("<section aria-labelledby=\"recall\">\n<h2 id=\"recall\">Recall</h2>\n", how_measured(run), rates,
                differences(recall), depth_maps(recall), second, during_training(recall), "</section>\n");
}

std::string missed_section(const Recall& recall) {
  std::string lists;
  for (const size_t stage : recall.main_stages()) {
    std::vector<const ProbeRow*> missed;
    for (const ProbeRow* row : recall.rows(stage)) {
      if (!row->hit) missed.push_back(row);
    }
    const std::string label = escape(capital(recall.stages()[stage].label));
    const int64_t n = recall.rate(stage, {}).n;
    if (missed.empty()) {
      lists += concat("<p>", label, ": none of ", group_digits(n), ".</p>\n");
      continue;
    }
    const std::string more = missed.size() > kMissedRows
                                 ? concat("<p class=\"hint\">The first ", kMissedRows, " of them; all are in probe.jsonl.</p>\n")
                                 : "";
    lists += html::details(concat(label, ": ", group_digits(static_cast<int64_t>(missed.size())), " of ", group_digits(n)),
                           more + missed_table(recall, stage, missed));
  }
  if (lists.empty()) return "";
  return concat("<section aria-labelledby=\"missed\">\n<h2 id=\"missed\">Missed prompts</h2>\n", lists, "</section>\n");
}

}  // namespace qkr
