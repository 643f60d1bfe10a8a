#include <algorithm>
#include <cmath>
#include <cstdio>

#include "trainer/apps/offline.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"

namespace qkr {
namespace {

std::string cell(const std::string& text, size_t width) { return text.size() < width ? std::string(width - text.size(), ' ') + text : text; }

std::string rotation_of(const LayerReport& report) { return report.rotation ? scientific(*report.rotation, 2) : "-"; }

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1b1b1b;background:#fff}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}th,td{padding:.2rem .6rem;text-align:right;white-space:nowrap}"
    "thead th{border-bottom:1px solid #888}tbody tr:nth-child(even){background:#f4f4f4}.scroll{overflow-x:auto}svg{display:block}"
    ".softmax rect{fill:#b3452c}.linear rect{fill:#3a6ea5}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}tbody tr:nth-child(even){background:#222}}";

// The number over its bar; the longest bar of the page is `most`.
std::string bar(double value, double most) {
  const double width = most > 0 && std::isfinite(value) ? 72 * value / most : 0;
  return concat(html::number(value), "<svg width=\"72\" height=\"6\" aria-hidden=\"true\"><rect width=\"", fixed(width, 1),
                "\" height=\"6\"/></svg>");
}

}  // namespace

std::string offline_table(const OfflineResult& result) {
  std::string text = "layer  mixer  ";
  if (result.has_moved) {
    for (const char* part : kMovedParts) text += cell(part, 10);
  }
  text += cell("|R-I|", 10) + cell("before", 10) + cell("after", 10) + "\n";
  for (const OfflineLayer& layer : result.layers) {
    if (!result.has_moved && !layer.report) continue;
    text += cell(std::to_string(layer.layer), 5) + (layer.softmax ? "  softmax" : "  linear ");
    if (result.has_moved) {
      for (const double moved : layer.moved) text += cell(scientific(moved, 2), 10);
    }
    if (layer.report) {
      text += cell(rotation_of(*layer.report), 10) + cell(scientific(layer.report->residual_before, 2), 10) +
              cell(scientific(layer.report->residual_after, 2), 10);
    }
    text += "\n";
  }
  if (result.has_moved) text += "Q to down: ||tuned - base|| / ||base||.  ";
  return text + "|R-I|: rotation over sqrt(d).  before, after: distance to the tuned weights, of the base's and of the restored ones.\n";
}

std::string offline_page(const OfflineResult& result, const OfflineOptions& options) {
  double most = 0;
  for (const OfflineLayer& layer : result.layers) {
    for (const double moved : layer.moved) most = std::isfinite(moved) ? std::max(most, moved) : most;
  }
  html::Table table("What fine-tuning moved, by layer");
  std::vector<html::Heading> head = {{"layer", true}, {"mixer"}};
  for (const char* part : kMovedParts) head.push_back({part, true});
  for (const char* name : {"|R &minus; I|", "before", "after"}) head.push_back({name, true});
  table.head(head);
  for (const OfflineLayer& layer : result.layers) {
    std::vector<html::Cell> row = {{std::to_string(layer.layer), true, true}, {layer.softmax ? "softmax" : "linear"}};
    for (const double moved : layer.moved) row.push_back({bar(moved, most), true});
    const bool worked = layer.report.has_value();
    row.push_back({worked && layer.report->rotation ? html::number(*layer.report->rotation) : "", true});
    row.push_back({worked ? html::number(layer.report->residual_before) : "", true});
    row.push_back({worked ? html::number(layer.report->residual_after) : "", true});
    table.row(row, layer.softmax ? "softmax" : "linear");
  }
  return concat("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">",
                "<title>What fine-tuning moved</title><style>", kStyle, "</style></head>\n<body><h1>What fine-tuning moved</h1>\n<p>Base ",
                html::escape(options.base), "<br>Tuned ", html::escape(options.tuned), "<br>Method ", html::escape(options.section.method),
                "</p>\n<p>Q to down: ‖tuned − base‖ / ‖base‖. |R − I|: the rotation, over √d. Before, after: distance to the tuned weights, "
                "of the base’s and of the restored ones.</p>\n",
                table.html(), "</body></html>\n");
}

}  // namespace qkr
