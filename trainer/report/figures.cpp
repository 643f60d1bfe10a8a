#include "trainer/report/figures.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/grid.h"
#include "trainer/report/html.h"

namespace qkr {

namespace {

const std::vector<std::string> kRecallStops = {"#F0496E", "#EBB839", "#0CD79F"};
const std::vector<std::string> kDifferenceStops = {"#F0496E", "#ECE9E3", "#0CD79F"};

Grid empty_grid(const Recall& recall) {
  Grid grid;
  for (const int64_t length : recall.lengths()) grid.columns.push_back(short_length(length));
  for (int band = 0; band < recall.bands(); ++band) grid.rows.push_back(recall.band_label(band));
  grid.rows.emplace_back("all");
  grid.axis = "length in tokens";
  grid.last_row_apart = true;
  return grid;
}

std::string where_text(const Recall& recall, const std::string& task, int64_t length, const std::optional<int>& band) {
  return concat(task, ", ", group_digits(length), " tokens, ", band ? "depth " + recall.band_label(*band) : "all depths", ": ");
}

// Calls visit(where, words) for each cell, row by row.
template <class Visit>
void each_cell(const Recall& recall, const std::string& task, const Visit& visit) {
  for (int row = 0; row <= recall.bands(); ++row) {
    const std::optional<int> band = row < recall.bands() ? std::optional<int>(row) : std::nullopt;
    for (const int64_t length : recall.lengths()) visit(Recall::Where{task, length, band}, where_text(recall, task, length, band));
  }
}

std::string difference_words(const Change& pair, bool holds) {
  if (pair.n() == 0) return "no prompt at both times";
  return concat(html::points(pair.difference), " points over ", pair.n(), pair.n() == 1 ? " prompt" : " prompts", " (", pair.lost, " lost, ", pair.gained,
                " gained, 95% interval ", html::points(pair.low), " to ", html::points(pair.high), ", McNemar p ", html::p_value(pair.p),
                holds ? ", significant over all cells of the map)" : pair.significant() ? ", significant by itself)" : ")");
}

}  // namespace

std::string recall_colour(double rate) { return mixed_colour(rate, kRecallStops); }

std::string short_length(int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? concat(length / 1024, "K") : group_digits(length);
}

std::string capital(std::string text) {
  if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
  return text;
}

std::vector<bool> holm(const std::vector<double>& p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<bool> holds(p_values.size(), false);
  for (size_t i = 0; i < order.size() && p_values[order[i]] * static_cast<double>(order.size() - i) < 0.05; ++i) holds[order[i]] = true;
  return holds;
}

std::string depth_map(const Recall& recall, size_t stage, const std::string& task) {
  Grid grid = empty_grid(recall);
  const std::string& label = recall.stages()[stage].label;
  const Rate all = recall.rate(stage, {task, {}, {}});
  grid.label = concat("Recall of ", task, " by length and depth, ", label, ": ", all.hits, " of ", all.n, " found");
  each_cell(recall, task, [&](const Recall::Where& where, const std::string& words) {
    const Rate rate = recall.rate(stage, where);
    GridCell cell;
    cell.fill = rate.n == 0 ? "" : recall_colour(rate.rate);
    cell.text = rate.n == 0 ? "–" : where.band ? concat(rate.hits, "/", rate.n) : html::percent(rate.rate);
    cell.title = words + (rate.n == 0 ? std::string("no prompt")
                                      : concat(rate.hits, " of ", rate.n, " found (", html::percent(rate.rate), ", 95% interval ",
                                               html::percent(rate.low), " to ", html::percent(rate.high), ")"));
    grid.cells.push_back(std::move(cell));
  });
  return grid_figure(capital(label), grid);
}

std::string difference_map(const Recall& recall, const Comparison& pair, const std::string& task) {
  Grid grid = empty_grid(recall);
  grid.label = concat("Difference in recall of ", task, " by length and depth, ", pair.label);
  std::vector<Change> changes;
  std::vector<double> p_values;  // of the cells that have prompts, without the row that sums them up
  each_cell(recall, task, [&](const Recall::Where& where, const std::string&) {
    changes.push_back(recall.paired(pair.from, pair.to, where));
    if (where.band && changes.back().n() > 0) p_values.push_back(changes.back().p);
  });
  const std::vector<bool> holds = holm(p_values);
  size_t index = 0, tested = 0;
  each_cell(recall, task, [&](const Recall::Where& where, const std::string& words) {
    const Change& change = changes[index++];
    GridCell cell;
    if (where.band && change.n() > 0) cell.ring = holds[tested++];
    cell.text = "–";
    if (change.n() > 0) {
      cell.fill = mixed_colour((1 + change.difference) / 2, kDifferenceStops);
      const int64_t points = std::llround(100 * change.difference);
      cell.text = concat(points > 0 ? "+" : points < 0 ? "−" : "", std::abs(points), change.significant() ? "*" : "");
    }
    cell.title = words + difference_words(change, cell.ring);
    grid.cells.push_back(std::move(cell));
  });
  return grid_figure(capital(pair.label), grid);
}

std::string recall_key() { return key_svg("Colours: red 0%, yellow 50%, green 100%", "0%", "100%", kRecallStops); }

std::string difference_key() {
  return key_svg("Colours: red 100 points lost, grey no change, green 100 points gained", "−100", "+100", kDifferenceStops);
}

std::string interval_svg(const Change& pair, const std::string& css) {
  const auto place = [](double share) { return fixed(60 + 56 * share, 1); };
  return concat("<svg class=\"interval ", css, "\" viewBox=\"0 0 120 14\" width=\"120\" height=\"14\" aria-hidden=\"true\">",
                "<path class=\"zero\" d=\"M60 0V14\"/><path class=\"span\" d=\"M", place(pair.low), " 7H", place(pair.high),
                "\"/><circle cx=\"", place(pair.difference), "\" cy=\"7\" r=\"3.5\"/></svg>");
}

}  // namespace qkr
