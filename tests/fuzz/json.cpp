// JSON values and lines: trainer/io/json_text.h, json_lines.h, trainer/data/json_members.h.
#include <filesystem>

#include "tests/fuzz/target.h"
#include "trainer/core/error.h"
#include "trainer/data/json_members.h"
#include "trainer/io/json_lines.h"
#include "trainer/io/json_text.h"

namespace qkr::fuzz {
namespace {

// The members of an object as they are written are those that the parser finds.
void check_members(std::string_view line, const nlohmann::json& row) {
  size_t plain_keys = 0;
  for (const auto& [key, text] : json_members(line)) {
    require(row.contains(key), "json_members finds a key that the object has, got " + key);
    require(parse_json(text, "member") == row[key], "json_members finds a member's own text, got another of " + key);
    ++plain_keys;
  }
  require(plain_keys <= row.size() && (plain_keys == row.size() || line.find('\\') != std::string_view::npos),
          "json_members finds every key");
}

void check_value(std::string_view text) {
  nlohmann::json value;
  if (!accepts({"value.json:"}, [&] { value = parse_json(text, "value.json"); })) return;
  require(parse_json(value.dump(), "again") == value, "what is written is read again");
  require(nlohmann::json(parse_json<nlohmann::ordered_json>(text, "value.json")) == value, "both kinds of JSON agree");
  if (value.is_object()) check_members(text, value);
}

// The rows of a file, or nothing if it is refused.
bool read_rows(const std::string& file, bool allow_torn_end, std::vector<nlohmann::json>& rows) {
  return accepts({file + ":"}, [&] {
    JsonLinesReader reader(file, {.allow_torn_end = allow_torn_end});
    while (reader.next()) rows.push_back(reader.row());
  });
}

void check_lines(std::string_view input) {
  const std::string file = write_scratch("rows.jsonl", input);
  std::vector<nlohmann::json> before, after;
  const bool readable = read_rows(file, true, before);
  JsonLinesWriter(file).write_row(nlohmann::json{{"last", true}});
  if (!readable) return;
  require(read_rows(file, false, after), "a file that a row was added to has no torn end");
  require(after.size() == before.size() + 1 && std::equal(before.begin(), before.end(), after.begin()),
          "rows stay as they were when one is added");
  int64_t steps = 0;
  const bool kept_rows = accepts({file + ":"}, [&] {
    steps = keep_lines_while(file, [](const nlohmann::json& row) { return row.value("step", 0.0) < 3; });
  });
  require(!kept_rows || steps <= static_cast<int64_t>(after.size()), "no more rows are kept than there are");
}

}  // namespace

Target json_target() {
  Target target;
  target.name = "json";
  target.seeds = {
      R"({"a": [1, -2.5e-7, "x\n\u00e9", null, true, {"b": {}}], "c": "d"})",
      "{\"step\": 1, \"loss\": 2.5}\n{\"step\": 2, \"loss\": null}\n\n{\"step\": 3, \"loss\": 2.25}\n",
      "{\"step\": 1}\r\n{\"step\": 2}\r\n{\"st",
      R"({ "messages" : [ {"role":"user","content":"a \"quoted\" } ] , text"} ] , )"
      R"("tools":"6\" } , \\", "k\u0065y": 1e-07 })",
      "12",
      "\"text\"",
      "[]"};
  target.run = [](std::string_view input) {
    check_value(input);
    check_lines(input);
  };
  return target;
}

}  // namespace qkr::fuzz
