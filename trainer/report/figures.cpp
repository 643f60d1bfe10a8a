#include "trainer/report/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"

namespace qkr {

namespace {

using html::escape;

// Everything in user units of the drawing, which the page scales.
constexpr int kCellWidth = 58, kCellHeight = 30, kGap = 2, kLeft = 64, kTop = 24, kBottom = 20;

std::string cell_title(const Recall& recall, const std::string& task, int64_t length, int band, const Rate& rate) {
  return concat(task, ", ", group_digits(length), " tokens, depth ", recall.band_label(band), ": ",
                rate.n == 0 ? std::string("no prompt")
                            : concat(rate.hits, " of ", rate.n, " found (", html::percent(rate.rate), ", 95% interval ",
                                     html::percent(rate.low), " to ", html::percent(rate.high), ")"));
}

std::string map_cell(const Recall& recall, size_t stage, const std::string& task, int column, int band) {
  const int64_t length = recall.lengths()[static_cast<size_t>(column)];
  const Rate rate = recall.rate(stage, {task, length, band});
  const int x = kLeft + column * (kCellWidth + kGap), y = kTop + band * (kCellHeight + kGap);
  const std::string fill = rate.n == 0 ? "class=\"empty\"" : concat("fill=\"", recall_colour(rate.rate), "\"");
  const std::string text = rate.n == 0 ? "–" : concat(rate.hits, "/", rate.n);
  return concat("<g><title>", escape(cell_title(recall, task, length, band, rate)), "</title><rect x=\"", x, "\" y=\"", y,
                "\" width=\"", kCellWidth, "\" height=\"", kCellHeight, "\" rx=\"3\" ", fill, "/><text x=\"", x + kCellWidth / 2,
                "\" y=\"", y + kCellHeight / 2, "\" dy=\".35em\" text-anchor=\"middle\" class=\"",
                rate.n == 0 ? "axis" : "value", "\">", text, "</text></g>\n");
}

}  // namespace

std::string recall_colour(double rate) {
  constexpr std::array<std::array<int, 3>, 3> kStops = {{{0xF0, 0x49, 0x6E}, {0xEB, 0xB8, 0x39}, {0x0C, 0xD7, 0x9F}}};
  const double place = 2 * std::min(1.0, std::max(0.0, rate));
  const size_t low = place >= 1 ? 1 : 0;
  const double share = place - static_cast<double>(low);
  std::array<int, 3> mixed{};
  for (size_t i = 0; i < 3; ++i) {
    mixed[i] = static_cast<int>(std::lround(kStops[low][i] + share * (kStops[low + 1][i] - kStops[low][i])));
  }
  char text[8];
  std::snprintf(text, sizeof text, "#%02X%02X%02X", mixed[0] & 0xFF, mixed[1] & 0xFF, mixed[2] & 0xFF);
  return text;
}

std::string short_length(int64_t length) {
  return length >= 1024 && length % 1024 == 0 ? concat(length / 1024, "K") : group_digits(length);
}

std::string depth_map_svg(const Recall& recall, size_t stage, const std::string& task) {
  const int columns = static_cast<int>(recall.lengths().size()), bands = recall.bands();
  const int width = kLeft + std::max(columns, 2) * (kCellWidth + kGap), height = kTop + bands * (kCellHeight + kGap) + kBottom;
  const Rate all = recall.rate(stage, {task, {}, {}});
  std::string svg = concat("<svg class=\"map\" viewBox=\"0 0 ", width, " ", height, "\" width=\"", width, "\" height=\"", height,
                           "\" role=\"img\" aria-label=\"",
                           escape(concat("Recall of ", task, " by length and depth, ", recall.stages()[stage].label, ": ", all.hits,
                                         " of ", all.n, " found")),
                           "\">\n");
  for (int column = 0; column < columns; ++column) {
    svg += concat("<text class=\"axis\" x=\"", kLeft + column * (kCellWidth + kGap) + kCellWidth / 2, "\" y=\"", kTop - 8,
                  "\" text-anchor=\"middle\">", short_length(recall.lengths()[static_cast<size_t>(column)]), "</text>\n");
  }
  for (int band = 0; band < bands; ++band) {
    svg += concat("<text class=\"axis\" x=\"", kLeft - 8, "\" y=\"", kTop + band * (kCellHeight + kGap) + kCellHeight / 2,
                  "\" dy=\".35em\" text-anchor=\"end\">", recall.band_label(band), "</text>\n");
    for (int column = 0; column < columns; ++column) svg += map_cell(recall, stage, task, column, band);
  }
  svg += concat("<text class=\"axis\" x=\"", kLeft + columns * (kCellWidth + kGap) / 2, "\" y=\"", height - 4,
                "\" text-anchor=\"middle\">length in tokens</text>\n");
  return svg + "</svg>";
}

std::string colour_key_svg() {
  std::string svg =
      "<svg class=\"key\" viewBox=\"0 0 240 14\" width=\"240\" height=\"14\" role=\"img\" aria-label=\"Colours: red 0%, yellow 50%, "
      "green 100%\">";
  constexpr int kSteps = 20;
  for (int i = 0; i < kSteps; ++i) {
    svg += concat("<rect x=\"", 40 + 8 * i, "\" y=\"1\" width=\"8\" height=\"12\" fill=\"",
                  recall_colour(static_cast<double>(i) / (kSteps - 1)), "\"/>");
  }
  return svg + "<text class=\"axis\" x=\"34\" y=\"11\" text-anchor=\"end\">0%</text><text class=\"axis\" x=\"206\" y=\"11\">100%"
               "</text></svg>";
}

std::string interval_svg(const Change& pair, const std::string& css) {
  const auto place = [](double share) { return fixed(60 + 56 * share, 1); };
  return concat("<svg class=\"interval ", css, "\" viewBox=\"0 0 120 14\" width=\"120\" height=\"14\" aria-hidden=\"true\">",
                "<path class=\"zero\" d=\"M60 0V14\"/><path class=\"span\" d=\"M", place(pair.low), " 7H", place(pair.high),
                "\"/><circle cx=\"", place(pair.difference), "\" cy=\"7\" r=\"3.5\"/></svg>");
}

}  // namespace qkr
