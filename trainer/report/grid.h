// A grid of coloured cells with numbers as inline SVG that needs no script, no style sheet and no page around it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qkr {

struct GridCell {
  std::string title;  // plain text: what the cell is, in words; shown on hover and, by arrow keys, under the grid
  std::string text;   // inside the cell
  std::string fill;   // a colour; "": no measurement
  bool light = false;  // light text, for dark fills
  bool ring = false;   // an outline
};

struct Grid {
  std::string label;                       // plain text, for a screen reader
  std::vector<std::string> columns, rows;  // headings, plain text; "" leaves one out
  std::string axis;                        // under the columns
  std::vector<GridCell> cells;             // row by row
  bool last_row_apart = false;             // it sums the others up
  int cell_width = 58, cell_height = 30, gap = 2, left = 64, font = 12;
};

std::string grid_svg(const Grid& grid);

// The grid in a box that scrolls sideways and takes the keyboard, under its caption.
std::string grid_figure(const std::string& caption, const Grid& grid);

// A colour between the stops, which are "#RRGGBB" at equal distances over 0 … 1.
std::string mixed_colour(double share, const std::vector<std::string>& stops);

// "0% ▇▇▇ 100%": the colours' key.
std::string key_svg(const std::string& label, const std::string& low, const std::string& high, const std::vector<std::string>& stops);

}  // namespace qkr
