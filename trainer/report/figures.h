// Pictures as inline SVG that needs no script: the depth maps and the interval marks of the difference tables.
#pragma once

#include <string>
#include <vector>

#include "trainer/report/headline.h"
#include "trainer/report/recall.h"

namespace qkr {

// Lengths as columns, depth bands as rows and all depths under them; each cell hits/n, coloured by the rate, with the interval on hover.
std::string depth_map(const Recall& recall, size_t stage, const std::string& task);

// The same cells, each the paired difference in points: "*" where McNemar's p is below .05 by itself, an outline where it is by Holm's
// rule over the cells of the map.
std::string difference_map(const Recall& recall, const Comparison& pair, const std::string& task);

// The colours' keys: 0% … 100%, and −100 … +100 points.
std::string recall_key();
std::string difference_key();

// A difference and its interval on −100 … +100 points. `css` is "up", "down" or "flat".
std::string interval_svg(const Change& pair, const std::string& css);

// #F0496E at 0, #EBB839 at one half, #0CD79F at 1: the colours in which needle maps are commonly drawn.
std::string recall_colour(double rate);

// Which of the p-values are below 0.05 by Holm's rule: all at once, with a chance of 5% at most that any is so by accident.
std::vector<bool> holm(const std::vector<double>& p_values);

// 4096 -> "4K", 1000 -> "1,000".
std::string short_length(int64_t length);

std::string capital(std::string text);  // "after SFT" -> "After SFT"

}  // namespace qkr
