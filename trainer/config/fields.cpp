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

template <class Section>
std::vector<Field> fields_of(Section& section, const std::string& name) {
  std::vector<Field> fields;
  section.visit(Collector(fields, name));
  return fields;
}

}  // namespace

std::vector<Field> list_fields(RunConfig& config) {
  std::vector<Field> fields;
  config.visit([&](const char* name, auto& section) { section.visit(Collector(fields, name)); }, [](const char*, auto&, const char*) {},
               Collector(fields, ""));
  return fields;
}

std::vector<SectionList> list_section_lists(RunConfig& config) {
  std::vector<SectionList> lists;
  const auto add = [&](const std::string& name, auto& items, const char* help) {
    using Section = typename std::decay_t<decltype(items)>::value_type;
    static Section defaults;  // what `keys` points into
    SectionList list;
    list.name = name;
    list.help = help;
    list.size = [&items] { return items.size(); };
    list.resize = [&items](size_t count) { items.resize(count); };
    list.item = [&items, name](size_t i) { return fields_of(items.at(i), name + "[" + std::to_string(i) + "]"); };
    list.keys = fields_of(defaults, name + "[]");
    lists.push_back(std::move(list));
  };
  config.visit([](const char*, auto&) {}, add, [](const char*, auto&, const char*, const Rule& = {}) {});
  return lists;
}

const SectionList* find_list(const std::vector<SectionList>& lists, const std::string& name) {
  const auto found = std::find_if(lists.begin(), lists.end(), [&](const SectionList& list) { return list.name == name; });
  return found == lists.end() ? nullptr : &*found;
}

std::string type_name(const Field& field) {
  static const char* const kNames[] = {"string",          "true or false",    "integer", "number",
                                       "list of strings", "list of integers", "word or list of integers",
                                       "number or null", "integer or auto"};
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

std::string nearest_list(const std::vector<SectionList>& lists, const std::string& name) {
  std::vector<std::string> names;
  for (const SectionList& list : lists) names.push_back(list.name);
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
