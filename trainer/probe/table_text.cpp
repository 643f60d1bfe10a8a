#include "trainer/probe/table_text.h"

#include <algorithm>

#include "trainer/core/text.h"

namespace qkr {

std::string text_columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string pad(widths[i] - row[i].size(), ' ');
      line += (i > 0 ? "  " : "") + (i == 1 ? pad + row[i] : row[i] + pad);
    }
    while (!line.empty() && line.back() == ' ') line.pop_back();
    text += line + "\n";
  }
  return text;
}

std::string percent_text(double share) { return fixed(share * 100, 1); }

std::string points_text(double difference) {
  const std::string text = percent_text(difference);
  return (text[0] == '-' ? "" : "+") + text;
}

std::string p_value_text(double p) { return p < 0.001 ? "p<0.001" : "p=" + fixed(p, 3); }

}  // namespace qkr
