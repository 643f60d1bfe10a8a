#include "trainer/report/grid.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "trainer/core/error.h"
#include "trainer/report/html.h"

namespace qkr {

namespace {

using html::escape;

// In user units of the drawing, which the page scales. Colours are attributes, so that a saved picture keeps them; the page's style
// sheet, which knows dark from light, wins over attributes.
constexpr int kApart = 6;
constexpr const char* kSoft = "#62666e";
constexpr const char* kDark = "#1d1f23";

std::string axis_text(int x, int y, const char* anchor, const std::string& text) {
  return concat("<text class=\"axis\" fill=\"", kSoft, "\" x=\"", x, "\" y=\"", y, "\" text-anchor=\"", anchor, "\">", escape(text), "</text>\n");
}

struct Layout {
  const Grid& grid;
  int columns() const { return static_cast<int>(grid.columns.size()); }
  int rows() const { return static_cast<int>(grid.rows.size()); }
  int top() const { return grid.font * 2; }
  int x(int column) const { return grid.left + column * (grid.cell_width + grid.gap); }
  int y(int row) const { return top() + row * (grid.cell_height + grid.gap) + (grid.last_row_apart && row + 1 == rows() ? kApart : 0); }
  int width() const { return std::max(x(columns()), 184); }
  int height() const { return y(rows() - 1) + grid.cell_height + grid.gap + (grid.axis.empty() ? 0 : grid.font + 8); }
};

std::string cell_svg(const Layout& at, int column, int row) {
  const Grid& grid = at.grid;
  const GridCell& cell = grid.cells[static_cast<size_t>(row * at.columns() + column)];
  const int x = at.x(column), y = at.y(row);
  const std::string fill = cell.fill.empty() ? "class=\"empty\" fill=\"#ece9e3\"" : concat("fill=\"", cell.fill, "\"");
  std::string svg = concat("<g><title>", escape(cell.title), "</title><rect x=\"", x, "\" y=\"", y, "\" width=\"", grid.cell_width, "\" height=\"",
                           grid.cell_height, "\"", grid.gap > 0 ? " rx=\"3\" " : " ", fill, "/>");
  if (cell.ring) {
    svg += concat("<rect class=\"ring\" x=\"", x + 1, "\" y=\"", y + 1, "\" width=\"", grid.cell_width - 2, "\" height=\"", grid.cell_height - 2,
                  "\" rx=\"2\" fill=\"none\" stroke=\"", kDark, "\" stroke-width=\"2\"/>");
  }
  if (!cell.text.empty()) {
    const char* const css = cell.fill.empty() ? "axis" : cell.light ? "value light" : "value";
    svg += concat("<text x=\"", x + grid.cell_width / 2, "\" y=\"", y + grid.cell_height / 2, "\" dy=\".35em\" text-anchor=\"middle\" class=\"", css,
                  "\" fill=\"", cell.fill.empty() ? kSoft : cell.light ? "#fff" : kDark, "\">", escape(cell.text), "</text>");
  }
  return svg + "</g>\n";
}

}  // namespace

std::string grid_svg(const Grid& grid) {
  const Layout at{grid};
  std::string svg = concat("<svg class=\"map\" viewBox=\"0 0 ", at.width(), " ", at.height(), "\" width=\"", at.width(), "\" height=\"", at.height(),
                           "\" font-family=\"system-ui, sans-serif\" font-size=\"", grid.font, "\" role=\"img\" aria-label=\"", escape(grid.label),
                           "\" data-columns=\"", at.columns(), "\">\n");
  for (int column = 0; column < at.columns(); ++column) {
    const std::string& name = grid.columns[static_cast<size_t>(column)];
    if (!name.empty()) svg += axis_text(at.x(column) + grid.cell_width / 2, at.top() - 7, "middle", name);
  }
  for (int row = 0; row < at.rows(); ++row) {
    svg += axis_text(grid.left - 7, at.y(row) + grid.cell_height / 2 + grid.font / 3, "end", grid.rows[static_cast<size_t>(row)]);
    for (int column = 0; column < at.columns(); ++column) svg += cell_svg(at, column, row);
  }
  if (!grid.axis.empty()) svg += axis_text((grid.left + at.x(at.columns())) / 2, at.height() - 4, "middle", grid.axis);
  return svg + "</svg>";
}

std::string grid_figure(const std::string& caption, const Grid& grid) {
  return concat("<figure><figcaption>", escape(caption), "</figcaption>\n<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"",
                escape(grid.label), "\">", grid_svg(grid), "</div></figure>\n");
}

std::string mixed_colour(double share, const std::vector<std::string>& stops) {
  const double place = std::clamp(share, 0.0, 1.0) * static_cast<double>(stops.size() - 1);
  const size_t low = std::min(static_cast<size_t>(place), stops.size() - 2);
  const double part = place - static_cast<double>(low);
  const auto channel = [&](size_t stop, size_t i) { return static_cast<double>(std::strtol(stops[stop].substr(1 + 2 * i, 2).c_str(), nullptr, 16)); };
  std::string text = "#";
  for (size_t i = 0; i < 3; ++i) {
    char two[4];
    std::snprintf(two, sizeof two, "%02X", static_cast<unsigned>(std::lround(channel(low, i) + part * (channel(low + 1, i) - channel(low, i)))) & 0xFFU);
    text += two;
  }
  return text;
}

std::string key_svg(const std::string& label, const std::string& low, const std::string& high, const std::vector<std::string>& stops) {
  std::string svg = concat("<svg class=\"key\" viewBox=\"0 0 270 14\" width=\"270\" height=\"14\" font-family=\"system-ui, sans-serif\" font-size=\"12\" "
                           "role=\"img\" aria-label=\"", escape(label), "\">");
  constexpr int kSteps = 20, kStep = 8, kBegin = 54;
  for (int i = 0; i < kSteps; ++i) {
    svg += concat("<rect x=\"", kBegin + kStep * i, "\" y=\"1\" width=\"", kStep, "\" height=\"12\" fill=\"",
                  mixed_colour(static_cast<double>(i) / (kSteps - 1), stops), "\"/>");
  }
  return svg + axis_text(kBegin - 6, 11, "end", low) + axis_text(kBegin + kStep * kSteps + 6, 11, "start", high) + "</svg>";
}

}  // namespace qkr
