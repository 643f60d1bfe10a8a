#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"
#include "trainer/report/sections.h"

namespace qkr {
namespace {

using html::escape;
using Points = std::vector<std::pair<int64_t, std::optional<double>>>;

constexpr size_t kCurves = 48, kMostPoints = 300;  // of one curve: more than it has pixels is of no use
// User units of a drawing.
constexpr double kLeft = 64, kRight = 244, kTop = 8, kBottom = 62;
constexpr int kWidth = 250, kHeight = 80;

struct Extent {
  double low = 0, high = 0;
  int64_t values = 0;
};

Extent extent_of(const Points& points) {
  Extent extent;
  for (const auto& [step, value] : points) {
    if (!value) continue;
    extent.low = extent.values == 0 ? *value : std::min(extent.low, *value);
    extent.high = extent.values == 0 ? *value : std::max(extent.high, *value);
    ++extent.values;
  }
  return extent;
}

// Every nth, and the last.
Points thinned(const Points& points) {
  if (points.size() <= kMostPoints) return points;
  Points few;
  for (size_t i = 0; i < kMostPoints; ++i) few.push_back(points[i * (points.size() - 1) / (kMostPoints - 1)]);
  return few;
}

// A stroke for each stretch without a gap; the round ends make a stretch of one point a dot.
std::string strokes(const Points& points, const Extent& extent) {
  const double first = static_cast<double>(points.front().first), steps = static_cast<double>(points.back().first) - first;
  std::string path;
  bool open = false;
  for (const auto& [step, value] : thinned(points)) {
    if (value) {
      const double across = steps > 0 ? (static_cast<double>(step) - first) / steps : 0.5;
      const double height = extent.high / 2 - extent.low / 2, up = height > 0 ? (*value / 2 - extent.low / 2) / height : 0.5;
      path += concat(open ? "L" : "M", fixed(kLeft + across * (kRight - kLeft), 1), " ", fixed(kBottom - up * (kBottom - kTop), 1), open ? "" : "h0");
    }
    open = value.has_value();
  }
  return path;
}

std::string label(double x, double y, const char* anchor, const std::string& text) {
  return concat("<text class=\"axis\" fill=\"#62666e\" x=\"", fixed(x, 0), "\" y=\"", fixed(y, 0), "\" text-anchor=\"", anchor, "\">", text, "</text>");
}

std::string curve_svg(const HookCurve& curve, const Extent& extent, const std::string& words) {
  std::string svg = concat("<svg class=\"curve\" viewBox=\"0 0 ", kWidth, " ", kHeight, "\" width=\"", kWidth, "\" height=\"", kHeight,
                           "\" font-family=\"system-ui, sans-serif\" font-size=\"11\" role=\"img\" aria-label=\"", words, "\"><title>", words,
                           "</title><path class=\"base\" stroke=\"#c9c6bf\" d=\"M", fixed(kLeft, 0), " ", fixed(kBottom + 4, 0), "H", fixed(kRight, 0),
                           "\"/>");
  svg += concat("<path class=\"line\" fill=\"none\" stroke=\"#2b5fc4\" stroke-width=\"1.5\" stroke-linejoin=\"round\" stroke-linecap=\"round\" d=\"",
                strokes(curve.points, extent), "\"/>");
  if (extent.high > extent.low) {
    svg += label(kLeft - 6, kTop + 4, "end", html::number(extent.high)) + label(kLeft - 6, kBottom + 4, "end", html::number(extent.low));
  } else {
    svg += label(kLeft - 6, (kTop + kBottom) / 2 + 4, "end", html::number(extent.low));
  }
  const int64_t first = curve.points.front().first, last = curve.points.back().first;
  if (first == last) return concat(svg, label((kLeft + kRight) / 2, kHeight - 3, "middle", "step " + group_digits(first)), "</svg>");
  return concat(svg, label(kLeft, kHeight - 3, "start", "step " + group_digits(first)), label(kRight, kHeight - 3, "end", group_digits(last)), "</svg>");
}

std::string curve_figure(const HookCurve& curve) {
  const Extent extent = extent_of(curve.points);
  const std::string name = escape(curve.name);
  const auto last = std::find_if(curve.points.rbegin(), curve.points.rend(), [](const auto& point) { return point.second.has_value(); });
  const std::string now = last == curve.points.rend() ? "" : html::number(*last->second);
  const std::string caption = concat("<figcaption>", name, now.empty() ? "" : concat(" <span class=\"soft\">", now, "</span>"), "</figcaption>\n");
  if (extent.values == 0) return concat("<figure>", caption, "<p class=\"hint\">Never a number.</p></figure>\n");
  const std::string words = concat(name, ": ", group_digits(extent.values), extent.values == 1 ? " value, " : " values, ", html::number(extent.low), " to ",
                                   html::number(extent.high), ", the last ", now, " at step ", group_digits(last->first));
  return concat("<figure>", caption, curve_svg(curve, extent, words), "</figure>\n");
}

}  // namespace

std::string hook_curves(const std::vector<HookCurve>& curves) {
  if (curves.empty()) return "";
  std::string part = "<h3>What hooks measured</h3>\n<div class=\"maps curves\">\n";
  for (size_t i = 0; i < std::min(curves.size(), kCurves); ++i) part += curve_figure(curves[i]);
  part += "</div>\n";
  if (curves.size() > kCurves) part += concat("<p class=\"hint\">", curves.size() - kCurves, " more are in log.jsonl.</p>\n");
  return part;
}

}  // namespace qkr
