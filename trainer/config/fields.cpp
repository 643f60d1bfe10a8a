#include "trainer/config/fields.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <utility>

#include "trainer/core/text.h"

namespace qkr {
namespace {

// The argument that the visit() functions call: with or without a rule.
class Collector {
 public:
  Collector(std::vector<Field>& fields, std::string section) : fields_(fields), section_(std::move(section)) {}

  template <class T>
  void operator()(const char* key, T& value, const char* help, Rule rule = {}) {
    fields_.push_back({section_, key, &value, help, std::move(rule)});
  }

 private:
  std::vector<Field>& fields_;
  std::string section_;
};

// Near enough to be a slip: one edit, a third of a longer word, or the same letters in another order.
bool is_slip(const std::string& word, const std::string& name) {
  const int limit = std::max(1, static_cast<int>(word.size()) / 3);
  if (edit_distance(word, name) <= limit) return true;
  return word.size() == name.size() && std::is_permutation(word.begin(), word.end(), name.begin());
}

std::string nearest_slip(const std::string& word, const std::vector<std::string>& names) {
  std::vector<std::string> near;
  std::copy_if(names.begin(), names.end(), std::back_inserter(near),
               [&](const std::string& name) { return is_slip(word, name); });
  if (near.empty()) return "";
  return *std::min_element(near.begin(), near.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(word, a) < edit_distance(word, b);
  });
}

}  // namespace

std::vector<Field> list_fields(RunConfig& config) {
  std::vector<Field> fields;
  config.visit([&](const char* name, auto& section) { section.visit(Collector(fields, name)); },
               Collector(fields, ""));
  return fields;
}

std::string type_name(const Field& field) {
  static const char* const kNames[] = {"string",          "true or false",    "integer", "number",
                                       "list of strings", "list of integers", "word or list of integers",
                                       "number or null"};
  return kNames[field.value.index()];
}

std::string number_text(double value, bool as_float) {
  char text[64];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  std::string result(text, end);
  const bool whole = result.find_first_of(".e") == std::string::npos;
  return as_float && whole && std::isfinite(value) ? result + ".0" : result;
}

std::string rule_text(const Rule& rule) {
  if (rule.logits_scaling) return "null, checkpoint, \"hype A\" with a number A >= 2, or a factor > 0 such as 2.0";
  if (!rule.one_of.empty()) return (rule.one_of.size() > 1 ? "one of " : "") + join(rule.one_of);
  std::string text;
  if (std::isfinite(rule.min)) text = (rule.min_open ? "> " : ">= ") + number_text(rule.min);
  if (std::isfinite(rule.max)) text += (text.empty() ? "" : " and ") + ("<= " + number_text(rule.max));
  return text;
}

bool is_section(const std::vector<Field>& fields, const std::string& name) {
  return !name.empty() && std::any_of(fields.begin(), fields.end(), [&](const Field& f) { return f.section == name; });
}

const Field* find_field(const std::vector<Field>& fields, const std::string& path) {
  const auto found = std::find_if(fields.begin(), fields.end(), [&](const Field& f) { return f.path() == path; });
  return found == fields.end() ? nullptr : &*found;
}

std::string nearest_section(const std::vector<Field>& fields, const std::string& name) {
  std::vector<std::string> names;
  for (const Field& field : fields) {
    if (!field.section.empty()) names.push_back(field.section);
  }
  return nearest_slip(name, names);
}

std::string nearest_path(const std::vector<Field>& fields, const std::string& section, const std::string& key) {
  std::vector<std::string> here, everywhere, paths;
  for (const Field& field : fields) {
    if (field.key == key) return field.path();
    if (field.section == section) here.push_back(field.key);
    everywhere.push_back(field.key);
    paths.push_back(field.path());
  }
  if (const std::string near = nearest_slip(key, here); !near.empty()) {
    return section.empty() ? near : section + "." + near;
  }
  if (section.empty()) {
    if (const std::string near = nearest_section(fields, key); !near.empty()) return near;
  }
  if (const std::string near = nearest_slip(key, everywhere); !near.empty()) {
    return paths[std::find(everywhere.begin(), everywhere.end(), near) - everywhere.begin()];
  }
  return nearest_slip(section.empty() ? key : section + "." + key, paths);
}

}  // namespace qkr
