#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/core/whole.h"
#include "trainer/report/figures.h"
#include "trainer/report/grid.h"
#include "trainer/report/heads.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {

namespace {

using html::Cell;

const std::vector<std::string> kShareStops = {"#ECE9E3", "#A9BCE6", "#4C78D0", "#173A86"};
constexpr size_t kListed = 24;
constexpr int64_t kLabelEvery = 8;  // of the heads of a narrow map

double largest_share(const HeadMap& map) {
  double most = 0;
  for (size_t stage = 0; stage < map.stages().size(); ++stage) {
    for (size_t layer = 0; layer < map.layers().size(); ++layer) {
      for (size_t head = 0; head < static_cast<size_t>(map.heads()); ++head) most = std::max(most, map.share(stage, layer, head).mean);
    }
  }
  return most;
}

std::string share_words(const MeanShare& share) {
  const std::string interval =
      share.n < 2 ? "" : concat("95% interval ", html::percent(std::max(0.0, share.low)), " to ", html::percent(std::min(1.0, share.high)), ", ");
  return concat(html::percent(share.mean), " of its attention on the needle (", interval, share.n, share.n == 1 ? " prompt)" : " prompts)");
}

// Three of them stand side by side on a wide screen.
Grid empty_grid(const HeadMap& map) {
  Grid grid;
  grid.cell_width = static_cast<int>(std::clamp<int64_t>(320 / std::max<int64_t>(1, map.heads()), 9, 30));
  grid.cell_height = std::clamp(grid.cell_width, 15, 20);
  grid.gap = grid.cell_width >= 18 ? 1 : 0;
  grid.left = 28;
  grid.font = grid.cell_width >= 24 ? 11 : grid.cell_width >= 16 ? 9 : 7;
  grid.axis = "head";
  for (int64_t head = 0; head < map.heads(); ++head) {
    grid.columns.push_back(grid.cell_width >= 16 || head % kLabelEvery == 0 ? std::to_string(head) : "");
  }
  for (const int64_t layer : map.layers()) grid.rows.push_back(concat("L", layer));
  return grid;
}

std::string share_map(const HeadMap& map, size_t stage, double most) {
  Grid grid = empty_grid(map);
  const std::string& label = map.stages()[stage].label;
  grid.label = concat("Attention on the needle by layer and head, ", label);
  for (size_t layer = 0; layer < map.layers().size(); ++layer) {
    for (size_t head = 0; head < static_cast<size_t>(map.heads()); ++head) {
      const MeanShare share = map.share(stage, layer, head);
      GridCell cell;
      cell.title = concat("layer ", map.layers()[layer], ", head ", head, ", ", label, ": ", share.n == 0 ? "no such head" : share_words(share));
      if (share.n > 0) {
        const double place = most > 0 ? share.mean / most : 0;
        const int64_t percent = whole(std::round(100 * share.mean));
        cell.fill = mixed_colour(place, kShareStops);
        cell.light = place > 0.5;
        if (percent > 0) cell.text = std::to_string(percent);
      }
      grid.cells.push_back(std::move(cell));
    }
  }
  return grid_figure(capital(label), grid);
}

Cell num(std::string text, std::string css = {}) { return {.html = std::move(text), .numeric = true, .css = std::move(css)}; }

std::string interval(const MeanShare& change) { return concat(html::points(change.low), " … ", html::points(change.high)); }

std::string whole_percent(double share) {
  const int64_t percent = whole(std::round(100 * share));
  return concat(percent < 0 ? "−" : "", std::abs(percent), "%");
}

size_t index_of(const HeadMap& map, int64_t layer) {
  return static_cast<size_t>(std::find(map.layers().begin(), map.layers().end(), layer) - map.layers().begin());
}

std::string change_table(const HeadMap& map, const std::vector<HeadChange>& lost) {
  html::Table table("Heads that lost the needle", "layers");
  const bool restored = map.restored().has_value();
  std::vector<html::Heading> head = {{.html = "Layer", .numeric = true}, {.html = "Head", .numeric = true}, {.html = "before SFT", .numeric = true},
                                     {.html = "after SFT", .numeric = true}, {.html = "points lost", .numeric = true}, {.html = "95%", .numeric = true}};
  if (restored) {
    head.insert(head.end(), {{.html = "restored", .numeric = true}, {.html = "points regained", .numeric = true}, {.html = "95%", .numeric = true},
                             {.html = "share of the loss", .numeric = true}});
  }
  table.head(head);
  for (size_t i = 0; i < lost.size() && i < kListed; ++i) {
    const HeadChange& one = lost[i];
    const size_t layer = index_of(map, one.layer), column = static_cast<size_t>(one.head);
    std::vector<Cell> cells = {num(std::to_string(one.layer)), num(std::to_string(one.head)),
                               num(html::percent_fixed(map.share(*map.start(), layer, column).mean)),
                               num(html::percent_fixed(map.share(*map.end(), layer, column).mean)), num(html::points(one.lost.mean), "strong down"),
                               num(interval(one.lost), "soft")};
    if (restored) {
      const MeanShare& gained = *one.gained;
      const char* const css = gained.low > 0 ? "strong up" : gained.high < 0 ? "strong down" : "strong";
      cells.insert(cells.end(), {num(html::percent_fixed(map.share(*map.restored(), layer, column).mean)), num(html::points(gained.mean), css),
                                 num(interval(gained), "soft"), num(whole_percent(-gained.mean / one.lost.mean))});
    }
    table.row(cells);
  }
  const std::string more = lost.size() > kListed ? concat("<p class=\"hint\">The first ", kListed, " of them; all are in heads.jsonl.</p>\n") : "";
  return more + table.html();
}

std::string verdict(const HeadMap& map, const std::vector<HeadChange>& lost) {
  if (!map.start() || !map.end()) return "";
  const size_t heads = map.layers().size() * static_cast<size_t>(map.heads());
  if (lost.empty()) return concat("<p>None of ", heads, " heads lost a point or more of its attention on the needle in SFT.</p>\n");
  std::string text = concat("<p>In SFT ", lost.size(), " of ", heads, " heads lost a point or more of their attention on the needle");
  if (map.restored()) {
    const auto regained = std::count_if(lost.begin(), lost.end(), [](const HeadChange& one) { return one.gained && one.gained->low > 0; });
    text += concat("; restored, ", regained, " of these regained some of it");
  }
  return text + ". Each is judged by the 95% interval of its own paired difference, not corrected for the number of heads.</p>\n";
}

}  // namespace

std::string heads_section(const HeadMap& map) {
  if (map.stages().empty()) return "";
  const double most = largest_share(map);
  std::string maps = "<div class=\"maps wide\">\n";
  for (size_t stage = 0; stage < map.stages().size(); ++stage) maps += share_map(map, stage, most);
  const std::vector<HeadChange> lost = map.lost();
  return concat("<section aria-labelledby=\"heads\">\n<h2 id=\"heads\">Which heads find the needle</h2>\n",
                "<p class=\"hint\">Share of each softmax head’s attention that falls on the needle’s tokens while the answer is read: the mean over the "
                "tokens of the answer, then over the prompts. Rows: layers. Columns: heads. Numbers in percent. ",
                key_svg(concat("Colours: grey 0%, blue ", html::percent(most)), "0%", html::percent(most), kShareStops), "</p>\n", maps, "</div>\n",
                verdict(map, lost), lost.empty() ? "" : change_table(map, lost), "</section>\n");
}

}  // namespace qkr
