// Text of any origin → text that is safe in HTML; numbers → the way the page shows them; tables.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace qkr::html {

// Safe as element content and inside a double-quoted attribute. Malformed UTF-8 becomes U+FFFD, control characters other than
// newline and tab become their visible pictures (U+2400 …), so any bytes give valid HTML.
std::string escape(std::string_view text);

// JSON for a <script type="application/json">: every '<' as \u003c, so that no text in it can end the element.
std::string script_json(const nlohmann::ordered_json& value);

// At most `limit` code points, with … if something was cut. Newlines become ⏎, so a text stays on one line.
std::string one_line(std::string_view text, size_t limit);

std::string percent(double rate);       // 0.41333 -> "41.3%", 1 -> "100%"
std::string percent_fixed(double rate);  // always one decimal, for columns
std::string points(double difference);  // 0.47 -> "+47.0", -0.5 -> "−50.0": percentage points
inline constexpr double kSmallestP = 1e-15;
std::string p_value(double p);          // "0.031", "2.4e−07", "1", "< 1e−15"
std::string number(double value);       // "1,024", "0.0123", "1.2e−07": four digits

// A JSON scalar as text and whether it is a number; objects and long arrays are cut short.
struct Shown {
  std::string text;      // escaped
  std::string exact;     // escaped, all digits; empty if text has them already
  bool numeric = false;
};
Shown shown(const nlohmann::ordered_json& value);

struct Cell {
  std::string html;         // already escaped
  bool numeric = false;
  bool heading = false;     // <th scope=row>
  int rows = 1;             // rowspan
  std::string css = {};     // further classes
  std::string title = {};   // already escaped
};

struct Heading {
  std::string html;
  bool numeric = false;
  int columns = 1;          // colspan: a heading over several columns
  int rows = 1;
};

// A table inside a box that scrolls sideways by itself, reachable by keyboard. `label` names it for a screen reader.
class Table {
 public:
  explicit Table(std::string label, std::string css = {}) : label_(std::move(label)), css_(std::move(css)) {}
  void head(const std::vector<Heading>& row);
  void row(const std::vector<Cell>& cells, std::string_view css = {});
  std::string html() const;

 private:
  std::string label_, css_, head_, body_;
};

// Tabs over panels. Without scripts all panels show, each under its own name.
struct Panel {
  std::string name;  // plain text
  std::string html;
};
std::string tabs(std::string_view id, std::string_view label, const std::vector<Panel>& panels);

// A name and a value for a <dl class="facts">; `exact`, escaped, shows on hover. json_fact reads the name's unit: "seconds" as
// a time, "…_bytes" as a size.
std::string fact(const std::string& name, const std::string& value_html, const std::string& exact = {});
std::string json_fact(const std::string& key, const nlohmann::ordered_json& value);

std::string spaced(std::string name);  // "gap_bound" -> "gap bound"

std::string details(std::string_view summary_html, std::string_view body_html);

}  // namespace qkr::html
