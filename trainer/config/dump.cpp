#include <algorithm>
#include <cstdio>
#include <string_view>

#include "trainer/config/fields.h"
#include "trainer/config/parse.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

// A word that YAML reads as itself, whatever its version: letters first, and none of null, yes, on.
bool is_plain_word(const std::string& text) {
  static const std::vector<std::string> kReserved = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"};
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto is_inner = [&](char c) { return is_letter(c) || (c >= '0' && c <= '9') || std::string_view("_-./").find(c) != std::string_view::npos; };
  std::string lower = text;
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return !text.empty() && is_letter(text[0]) && std::all_of(text.begin(), text.end(), is_inner) &&
         std::find(kReserved.begin(), kReserved.end(), lower) == kReserved.end();
}

std::string string_text(const std::string& text) {
  if (is_plain_word(text)) return text;
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += std::string("\\") + c;
    } else if (byte < 0x20 || byte == 0x7f) {
      char code[8];
      std::snprintf(code, sizeof code, "\\x%02x", byte);
      out += c == '\n' ? "\\n" : code;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

template <class T, class Text>
std::string list_text(const std::vector<T>& items, Text&& text) {
  std::vector<std::string> parts;
  for (const T& item : items) parts.push_back(text(item));
  return "[" + join(parts) + "]";
}

std::string value_text(const Field& field) {
  struct Writer {
    const Rule& rule;
    // checkpoint, "hype 500", null and 2.0 are told apart by how they are written.
    std::string operator()(const std::string* v) const {
      const bool quote = !rule.logits_scaling || v->find(' ') != std::string::npos;
      return quote ? string_text(*v) : *v;
    }
    std::string operator()(const bool* v) const { return *v ? "true" : "false"; }
    std::string operator()(const int64_t* v) const { return std::to_string(*v); }
    std::string operator()(const double* v) const { return number_text(*v, true); }
    std::string operator()(const std::vector<std::string>* v) const { return list_text(*v, string_text); }
    std::string operator()(const std::vector<int64_t>* v) const {
      return list_text(*v, [](int64_t item) { return std::to_string(item); });
    }
    std::string operator()(const std::optional<double>* v) const { return *v ? number_text(**v, true) : "null"; }
    std::string operator()(const SampleCount* v) const { return v->is_auto() ? "auto" : std::to_string(v->number); }
    std::string operator()(const LayerChoice* v) const { return v->word.empty() ? (*this)(&v->list) : v->word; }
  };
  return std::visit(Writer{field.rule}, field.value);
}

// "gate: []", or a map an item: "gate:", "  - metric: probe", "    min: 80.0".
std::string list_section_text(const SectionList& list) {
  if (list.size() == 0) return list.name + ": []\n";
  std::string out = list.name + ":\n";
  for (size_t i = 0; i < list.size(); ++i) {
    const char* lead = "  - ";
    for (const Field& field : list.item(i)) {
      out += lead + field.key + ": " + value_text(field) + "\n";
      lead = "    ";
    }
  }
  return out;
}

std::string describe_field(const Field& field) {
  std::string rule = field.rule.required ? "required" : "default " + value_text(field);
  if (const std::string allowed = rule_text(field.rule); !allowed.empty()) rule += "; " + allowed;
  std::string head = field.path();
  head.resize(std::max<size_t>(head.size(), 30), ' ');
  return head + " " + type_name(field) + " (" + rule + "): " + field.help + "\n";
}

}  // namespace

std::string dump_config(const RunConfig& config) {
  RunConfig copy = config;  // the list of fields points into something that could be written to
  std::string out, section;
  for (const Field& field : list_fields(copy)) {
    if (field.section != section) {
      section = field.section;
      if (!section.empty()) out += section + ":\n";
    }
    out += (section.empty() ? "" : "  ") + field.key + ": " + value_text(field) + "\n";
  }
  for (const SectionList& list : list_section_lists(copy)) out += list_section_text(list);
  return out;
}

std::string describe_config() {
  RunConfig defaults;
  std::string out, section;
  for (const Field& field : list_fields(defaults)) {
    if (field.section != section) out += "\n";
    section = field.section;
    out += describe_field(field);
  }
  for (const SectionList& list : list_section_lists(defaults)) {
    std::string head = list.name;
    head.resize(30, ' ');
    out += "\n" + head + " list of maps (default []): " + list.help + "\n";
    for (const Field& field : list.keys) out += describe_field(field);
  }
  return out;
}

}  // namespace qkr
