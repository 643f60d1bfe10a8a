// Pictures as inline SVG that needs no script: the depth map and the interval marks of the difference tables.
#pragma once

#include <string>

#include "trainer/report/recall.h"

namespace qkr {

// Lengths as columns, depth bands as rows; each cell hits/n, coloured by the rate, with the interval on hover.
std::string depth_map_svg(const Recall& recall, size_t stage, const std::string& task);

// The colours' key: 0% … 100%.
std::string colour_key_svg();

// A difference and its interval on −100 … +100 points. `css` is "up", "down" or "flat".
std::string interval_svg(const Change& pair, const std::string& css);

// #F0496E at 0, #EBB839 at one half, #0CD79F at 1: the colours in which needle maps are commonly drawn.
std::string recall_colour(double rate);

// 4096 -> "4K", 1000 -> "1,000".
std::string short_length(int64_t length);

}  // namespace qkr
