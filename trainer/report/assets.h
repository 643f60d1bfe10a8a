// The files that every page carries inside itself, as the build embeds them (cmake/embed.cmake): no page asks a network.
#pragma once

#include <string_view>

namespace qkr {

extern const std::string_view uplot_js;   // third_party/uplot/uPlot.iife.min.js, MIT
extern const std::string_view uplot_css;  // third_party/uplot/uPlot.min.css
extern const std::string_view page_css;   // trainer/report/page/page.css
extern const std::string_view page_js;    // trainer/report/page/page.js

}  // namespace qkr
