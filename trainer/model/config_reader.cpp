#include "trainer/model/config_reader.h"

#include <charconv>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/io/json_text.h"

namespace qkr {

using Json = nlohmann::ordered_json;

ConfigReader::ConfigReader(std::string_view text, std::string where) : where_(std::move(where)) {
  json_ = parse_json<Json>(text, where_);
  if (!json_.is_object()) fail(where_, ": must be a JSON object, got ", json_.type_name());
}

ConfigReader::ConfigReader(Json object, std::string where) : json_(std::move(object)), where_(std::move(where)) {
  if (!json_.is_object()) fail(where_, ": must be a JSON object, got ", json_.type_name());
}

bool ConfigReader::has(const std::string& key) const {
  const auto place = json_.find(key);
  return place != json_.end() && !place->is_null();
}

const Json& ConfigReader::raw(const std::string& key) {
  static const Json kNull;
  used_.insert(key);
  const auto place = json_.find(key);
  return place == json_.end() ? kNull : *place;
}

void ConfigReader::refuse(const std::string& key, const std::string& rule) const {
  const auto place = json_.find(key);
  const std::string got = place == json_.end() ? "nothing" : place->dump();
  fail(where_, ": ", key, " must be ", rule, ", got ", shown_words(got, 80));
}

int64_t ConfigReader::integer(const std::string& key, int64_t fallback) {
  const Json& value = raw(key);
  if (value.is_null()) return fallback;
  if (!value.is_number_integer()) refuse(key, "an integer");
  return value.get<int64_t>();
}

double ConfigReader::number(const std::string& key, double fallback) {
  const Json& value = raw(key);
  if (value.is_null()) return fallback;
  if (value.is_number()) return value.get<double>();
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    double parsed = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), parsed);
    if (error == std::errc() && end == text.data() + text.size()) return parsed;
  }
  refuse(key, "a number");
}

bool ConfigReader::boolean(const std::string& key, bool fallback) {
  const Json& value = raw(key);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) refuse(key, "true or false");
  return value.get<bool>();
}

std::string ConfigReader::string(const std::string& key, const std::string& fallback) {
  const Json& value = raw(key);
  if (value.is_null()) return fallback;
  if (!value.is_string()) refuse(key, "a string");
  return value.get<std::string>();
}

std::vector<std::string> ConfigReader::strings(const std::string& key) {
  const Json& value = raw(key);
  if (value.is_null()) return {};
  if (!value.is_array()) refuse(key, "a list of strings");
  std::vector<std::string> items;
  for (const Json& item : value) {
    if (!item.is_string()) refuse(key, "a list of strings");
    items.push_back(item.get<std::string>());
  }
  return items;
}

std::vector<int64_t> ConfigReader::integers(const std::string& key) {
  const Json& value = raw(key);
  if (value.is_null()) return {};
  if (value.is_number_integer()) return {value.get<int64_t>()};
  if (!value.is_array()) refuse(key, "an integer or a list of them");
  std::vector<int64_t> items;
  for (const Json& item : value) {
    if (!item.is_number_integer()) refuse(key, "an integer or a list of them");
    items.push_back(item.get<int64_t>());
  }
  return items;
}

std::optional<ConfigReader> ConfigReader::object(const std::string& key) {
  const Json& value = raw(key);
  if (value.is_null()) return std::nullopt;
  if (!value.is_object()) refuse(key, "an object or null");
  return ConfigReader(value, where_ + ": " + key);
}

int64_t ConfigReader::size(const std::string& key, int64_t fallback) {
  const int64_t value = integer(key, fallback);
  // Far above any model, and small enough that products of two of them stay within int64.
  if (value < 1 || value > (int64_t{1} << 31)) refuse(key, "a positive integer");
  return value;
}

void ConfigReader::refuse_unknown(const std::vector<std::string>& harmless) const {
  for (const auto& [key, value] : json_.items()) {
    if (used_.count(key) != 0) continue;
    bool known = false;
    for (const std::string& pattern : harmless) {
      known = known || pattern == key ||
              (ends_with(pattern, "*") && starts_with(key, std::string_view(pattern).substr(0, pattern.size() - 1)));
    }
    if (!known) {
      std::vector<std::string> names(used_.begin(), used_.end());
      fail(where_, ": key ", shown_name(key), " is not known to this program, so the model may mean something else than what would run",
           did_you_mean(key, names));
    }
  }
}

}  // namespace qkr
