#include <cmath>
#include <nlohmann/json.hpp>

#include "trainer/config/fields.h"
#include "trainer/config/parse.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

using Json = nlohmann::ordered_json;

Json bounds(Json schema, const Rule& rule, bool integer) {
  const auto number = [&](double value) { return integer ? Json(static_cast<int64_t>(value)) : Json(value); };
  if (std::isfinite(rule.min)) schema[rule.min_open ? "exclusiveMinimum" : "minimum"] = number(rule.min);
  if (std::isfinite(rule.max)) schema["maximum"] = number(rule.max);
  return schema;
}

// What convert.cpp accepts for a field, with its default.
Json field_schema(const Field& field) {
  struct Visitor {
    const Rule& rule;
    Json operator()(const std::string* v) const {
      if (rule.logits_scaling) {
        return {{"type", {"string", "number", "null"}}, {"pattern", "^(checkpoint|hype [0-9.e+]+)$"}, {"exclusiveMinimum", 0}, {"default", *v}};
      }
      if (!rule.one_of.empty()) {
        Json schema = words();
        schema["default"] = *v;
        return schema;
      }
      if (rule.required) return {{"type", "string"}, {"minLength", 1}};
      return {{"type", {"string", "null"}}, {"default", *v}};
    }
    Json operator()(const bool* v) const { return {{"type", "boolean"}, {"default", *v}}; }
    Json operator()(const int64_t* v) const { return bounds({{"type", "integer"}, {"default", *v}}, rule, true); }
    Json operator()(const double* v) const { return bounds({{"type", "number"}, {"default", *v}}, rule, false); }
    Json operator()(const std::vector<std::string>* v) const {
      Json item = {{"type", "string"}};
      if (!rule.one_of.empty()) item = words();
      if (rule.required) return {{"type", "array"}, {"items", item}, {"minItems", 1}};
      return {{"type", "array"}, {"items", item}, {"default", *v}};
    }
    Json operator()(const std::vector<int64_t>* v) const {
      return {{"type", "array"}, {"items", bounds({{"type", "integer"}}, rule, true)}, {"default", *v}};
    }
    Json operator()(const std::optional<double>* v) const {
      return bounds({{"type", {"number", "null"}}, {"default", *v ? Json(**v) : Json(nullptr)}}, rule, false);
    }
    Json operator()(const SampleCount* v) const {
      return {{"anyOf", {{{"const", "auto"}}, bounds({{"type", "integer"}}, rule, true)}}, {"default", v->number}};
    }
    Json operator()(const LayerChoice* v) const {
      Json list = {{"type", "array"}, {"items", {{"type", "integer"}, {"minimum", 0}}}, {"minItems", 1}, {"uniqueItems", true}};
      return {{"anyOf", {{{"type", "string"}, {"enum", rule.one_of}}, list}}, {"default", v->word}};
    }
    // Numbers in a word are checked by convert.cpp; the pattern says how they are written.
    Json words() const {
      Json plain = Json::array(), choices = Json::array();
      const auto has_number = [](const std::string& word) { return ends_with(word, ":A") || ends_with(word, ":X") || ends_with(word, " N"); };
      for (const std::string& word : rule.one_of) {
        if (!has_number(word)) plain.push_back(word);
      }
      choices.push_back({{"enum", plain}});
      for (const std::string& word : rule.one_of) {
        if (has_number(word)) choices.push_back({{"pattern", "^" + word.substr(0, word.size() - 1) + (ends_with(word, " N") ? "[0-9]+$" : "[0-9.eE+-]+$")}});
      }
      if (choices.size() == 1) return {{"type", "string"}, {"enum", plain}};
      return {{"type", "string"}, {"anyOf", choices}};
    }
  };
  Json schema = std::visit(Visitor{field.rule}, field.value);
  schema["description"] = field.help;
  return schema;
}

Json closed_object() {
  return {{"type", "object"}, {"additionalProperties", false}, {"properties", Json::object()}};
}

}  // namespace

std::string config_json_schema() {
  RunConfig defaults;
  Json root = {{"$schema", "https://json-schema.org/draft/2020-12/schema"}, {"title", "qk-restore run"}};
  root.update(closed_object());
  for (const Field& field : list_fields(defaults)) {
    Json& properties = root["properties"];
    if (!field.section.empty() && !properties.contains(field.section)) properties[field.section] = closed_object();
    Json& owner = field.section.empty() ? root : properties[field.section];
    owner["properties"][field.key] = field_schema(field);
    if (!field.rule.required) continue;
    owner["required"].push_back(field.key);
    if (!field.section.empty()) root["required"].push_back(field.section);
  }
  for (const SectionList& list : list_section_lists(defaults)) {
    Json item = closed_object();
    for (const Field& field : list.keys) {
      item["properties"][field.key] = field_schema(field);
      if (field.rule.required) item["required"].push_back(field.key);
    }
    root["properties"][list.name] = {{"type", {"array", "null"}}, {"items", item}, {"default", Json::array()}, {"description", list.help}};
  }
  return root.dump(2) + "\n";
}

}  // namespace qkr
