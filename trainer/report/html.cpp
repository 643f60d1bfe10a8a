#include "trainer/report/html.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/core/whole.h"

namespace qkr::html {

namespace {

constexpr size_t kWideFact = 40;  // bytes of a value that gets a line of its own
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

// Bytes of the well-formed UTF-8 sequence at text[at], or 0.
size_t sequence_length(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  const size_t length = lead < 0x80 ? 1 : lead < 0xC2 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 0;
  if (length == 0 || at + length > text.size() || !is_utf8(text.substr(at, length))) return 0;
  return length;
}

void append_character(std::string& out, std::string_view character) {
  const auto lead = static_cast<unsigned char>(character[0]);
  if (character == "&") {
    out += "&amp;";
  } else if (character == "<") {
    out += "&lt;";
  } else if (character == ">") {
    out += "&gt;";
  } else if (character == "\"") {
    out += "&quot;";
  } else if (character == "'") {
    out += "&#39;";
  } else if (lead < 0x20 && lead != '\n' && lead != '\t') {
    out += "\xE2\x90";  // U+2400 + the control's number
    out += static_cast<char>(0x80 + lead);
  } else if (lead == 0x7F) {
    out += "\xE2\x90\xA1";  // U+2421
  } else if (lead == 0xC2 && static_cast<unsigned char>(character[1]) < 0xA0) {
    out += kReplacement;  // U+0080 … U+009F are not allowed in HTML
  } else {
    out += character;
  }
}

std::string trimmed(double value, int digits) {
  std::string text = fixed(value, digits);
  if (text.find('.') == std::string::npos) return text;
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text;
}

// "1.2e-07" with a minus sign, which no line breaks after.
std::string with_minus(std::string text) {
  const size_t at = text.find("e-");
  return at == std::string::npos ? text : text.replace(at + 1, 1, "−");
}

std::string span_attributes(int columns, int rows) {
  return (columns > 1 ? " colspan=\"" + std::to_string(columns) + "\"" : "") +
         (rows > 1 ? " rowspan=\"" + std::to_string(rows) + "\"" : "");
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t at = 0; at < text.size();) {
    const size_t length = sequence_length(text, at);
    if (length == 0) {
      out += kReplacement;
      ++at;
    } else {
      append_character(out, text.substr(at, length));
      at += length;
    }
  }
  return out;
}

std::string script_json(const nlohmann::ordered_json& value) {
  const std::string text = value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::string out;
  out.reserve(text.size());
  for (const char character : text) {
    if (character == '<') {
      out += "\\u003c";
    } else {
      out += character;
    }
  }
  return out;
}

std::string one_line(std::string_view text, size_t limit) {
  std::string out;
  size_t count = 0;
  for (size_t at = 0; at < text.size(); ++count) {
    if (count == limit) return out + "…";
    const size_t length = std::max<size_t>(1, sequence_length(text, at));
    if (text[at] == '\n') {
      out += "⏎";
    } else {
      out += text.substr(at, length);
    }
    at += length;
  }
  return out;
}

std::string percent(double rate) { return trimmed(100 * rate, 1) + "%"; }

std::string percent_fixed(double rate) { return fixed(100 * rate, 1) + "%"; }

std::string points(double difference) {
  const double tenths = std::round(1000 * difference);  // so that −0.0 does not appear
  if (tenths == 0) return "0.0";
  return (tenths > 0 ? "+" : "−") + fixed(std::abs(tenths) / 10, 1);
}

std::string p_value(double p) {
  if (p >= 1) return "1";
  if (p < kSmallestP) return "< 1e−15";
  return p < 0.001 ? with_minus(scientific(p, 1)) : fixed(p, 3);
}

std::string number(double value) {
  if (!std::isfinite(value)) return std::isnan(value) ? "NaN" : value > 0 ? "∞" : "−∞";
  std::string text;
  const double size = std::abs(value);
  if (value == std::floor(value) && size < 1e15) {
    text = group_digits(static_cast<int64_t>(size));
  } else if (size >= 1e3 && size < 1e15) {
    text = group_digits(static_cast<int64_t>(std::llround(size)));
  } else {
    char buffer[32];
    std::snprintf(buffer, sizeof buffer, "%.4g", size);
    text = with_minus(buffer);
  }
  return value < 0 ? "−" + text : text;
}

Shown shown(const nlohmann::ordered_json& value) {
  if (value.is_boolean()) return {value.get<bool>() ? "yes" : "no", "", false};
  if (value.is_null()) return {"–", "", false};
  if (value.is_string()) return {escape(value.get<std::string>()), "", false};
  if (value.is_number()) {
    const std::string text = number(value.get<double>());
    const std::string exact = value.dump();
    return {text, text == exact ? "" : exact, true};
  }
  const std::string text = value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  const std::string cut = one_line(text, 120);
  return {escape(cut), cut == text ? "" : escape(text), false};
}

void Table::head(const std::vector<Heading>& row) {
  head_ += "<tr>";
  for (const Heading& cell : row) {
    head_ += concat("<th scope=\"", cell.columns > 1 ? "colgroup" : "col", "\"", cell.numeric ? " class=\"num\"" : "",
                    span_attributes(cell.columns, cell.rows), ">", cell.html, "</th>");
  }
  head_ += "</tr>\n";
}

void Table::row(const std::vector<Cell>& cells, std::string_view css) {
  body_ += css.empty() ? std::string("<tr>") : concat("<tr class=\"", css, "\">");
  for (const Cell& cell : cells) {
    const char* const tag = cell.heading ? "th" : "td";
    const std::string classes = concat(cell.numeric ? "num" : "", cell.numeric && !cell.css.empty() ? " " : "", cell.css);
    body_ += concat("<", tag, cell.heading ? (cell.rows > 1 ? " scope=\"rowgroup\"" : " scope=\"row\"") : "",
                    classes.empty() ? "" : concat(" class=\"", classes, "\""), span_attributes(1, cell.rows),
                    cell.title.empty() ? "" : concat(" title=\"", cell.title, "\""), ">", cell.html, "</", tag, ">");
  }
  body_ += "</tr>\n";
}

std::string Table::html() const {
  return concat("<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"", escape(label_), "\"><table",
                css_.empty() ? "" : concat(" class=\"", css_, "\""), ">\n<thead>\n", head_, "</thead>\n<tbody>\n", body_,
                "</tbody></table></div>\n");
}

std::string tabs(std::string_view id, std::string_view label, const std::vector<Panel>& panels) {
  std::string buttons, bodies;
  for (size_t i = 0; i < panels.size(); ++i) {
    const std::string tab = concat(id, "-tab-", i), panel = concat(id, "-panel-", i), name = escape(panels[i].name);
    buttons += concat("<button type=\"button\" role=\"tab\" id=\"", tab, "\" aria-controls=\"", panel, "\" aria-selected=\"",
                      i == 0 ? "true" : "false", "\"", i == 0 ? "" : " tabindex=\"-1\"", ">", name, "</button>");
    bodies += concat("<div class=\"panel\" role=\"tabpanel\" id=\"", panel, "\" aria-labelledby=\"", tab,
                     "\">\n<p class=\"panel-name\">", name, "</p>\n", panels[i].html, "</div>\n");
  }
  return concat("<div class=\"tabbed\">\n<div class=\"tabs\" role=\"tablist\" aria-label=\"", escape(label), "\">", buttons,
                "</div>\n", bodies, "</div>\n");
}

std::string spaced(std::string name) {
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

std::string fact(const std::string& name, const std::string& value_html, const std::string& exact) {
  return concat(value_html.size() > kWideFact ? "<div class=\"wide\">" : "<div>", "<dt>", escape(name), "</dt><dd",
                exact.empty() ? "" : concat(" title=\"", exact, "\""), ">", value_html, "</dd></div>\n");
}

std::string json_fact(const std::string& key, const nlohmann::ordered_json& value) {
  if (key == "seconds" && value.is_number()) return fact("time", human_seconds(value.get<double>()), escape(value.dump() + " s"));
  if (ends_with(key, "_bytes") && value.is_number()) {
    return fact(spaced(key.substr(0, key.size() - 6)), human_bytes(whole(value.get<double>())), escape(value.dump()));
  }
  const Shown text = shown(value);
  return fact(spaced(key), text.text, text.exact);
}

std::string details(std::string_view summary_html, std::string_view body_html) {
  return concat("<details><summary>", summary_html, "</summary>\n", body_html, "</details>\n");
}

}  // namespace qkr::html
