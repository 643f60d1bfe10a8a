#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/hf/chat_template.h"

namespace qkr {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 100;  // the value is walked and destroyed recursively

Json parse_object(std::string_view text, const std::string& name) {
  if (!is_utf8(text)) fail(name, ": must be UTF-8");
  Json json;
  try {
    json = Json::parse(text, [&](int depth, Json::parse_event_t, Json&) {
      if (depth > kMaxDepth) fail(name, ": must not be nested more than ", kMaxDepth, " deep");
      return true;
    });
  } catch (const Json::exception& error) {
    fail(name, ": must be JSON, got an error: ", shown_words(error.what(), 300));
  }
  if (!json.is_object()) fail(name, ": must be a JSON object, got ", json.type_name());
  return json;
}

// A token is written as a string, or as an object with its content and flags.
std::string token_text(const Json& token, const std::string& place) {
  if (token.is_string()) return token.get<std::string>();
  if (token.is_object()) {
    const auto content = token.find("content");
    if (content != token.end() && content->is_string()) return content->get<std::string>();
  }
  fail(place, ": must be a string or an object with content, got ", quoted(token.dump()));
}

std::string template_text(const Json& given, const std::string& place) {
  if (given.is_null()) return "";
  if (given.is_string()) return given.get<std::string>();
  if (!given.is_array()) fail(place, ": must be a string or a list of named templates, got ", given.type_name());
  std::vector<std::string> names;
  for (const Json& entry : given) {
    const bool named = entry.is_object() && entry.contains("name") && entry.contains("template") &&
                       entry["name"].is_string() && entry["template"].is_string();
    if (!named) fail(place, ": each entry must have a name and a template, got ", quoted(entry.dump()));
    if (entry["name"] == "default") return entry["template"].get<std::string>();
    names.push_back(entry["name"].get<std::string>());
  }
  fail(place, ": one of the templates must be named default, got ", names.empty() ? "none" : shown_names(names));
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view text, const std::string& name) {
  const Json json = parse_object(text, name);
  TokenizerConfig config;
  if (json.contains("chat_template")) {
    config.chat_template = template_text(json["chat_template"], name + ": chat_template");
  }
  Json special = Json::object();
  for (const char* key :
       {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"}) {
    const auto token = json.find(key);
    if (token != json.end() && !token->is_null()) special[key] = token_text(*token, name + ": " + key);
  }
  const auto more = json.find("additional_special_tokens");
  if (more != json.end() && !more->is_null()) {
    const std::string place = name + ": additional_special_tokens";
    if (!more->is_array()) fail(place, ": must be a list, got ", more->type_name());
    Json texts = Json::array();
    for (const Json& token : *more) texts.push_back(token_text(token, place));
    special["additional_special_tokens"] = texts;
  }
  config.special_tokens_json = special.dump();
  config.bos_token = special.value("bos_token", "");
  config.eos_token = special.value("eos_token", "");
  return config;
}

}  // namespace qkr
