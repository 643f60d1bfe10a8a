// How rates and tables of text are written, the same in every table of the probe.
#pragma once

#include <string>
#include <vector>

namespace qkr {

// Rows as columns: each as wide as its widest entry, the last without padding; two blanks between. Entry 1
// is a number: to the right. Every line ends with a newline.
std::string text_columns(const std::vector<std::vector<std::string>>& rows);

std::string percent_text(double share);      // .88 → "88.0"
std::string points_text(double difference);  // .16 → "+16.0"
std::string p_value_text(double p);          // "p=0.039", "p<0.001"

}  // namespace qkr
