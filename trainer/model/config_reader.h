// Typed access to the keys of config.json. Every key that is read is ticked off; what stays unticked at the end is unknown.
#pragma once

#include <nlohmann/json.hpp>

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

class ConfigReader {
 public:
  // Error if `text` is not a JSON object; `where` names the file.
  ConfigReader(std::string_view text, std::string where);
  ConfigReader(nlohmann::ordered_json object, std::string where);

  // The key's value, or `fallback` where it is absent or null. Error if it has another type.
  int64_t integer(const std::string& key, int64_t fallback);
  double number(const std::string& key, double fallback);  // a string that holds a number is one too: "1e-06"
  bool boolean(const std::string& key, bool fallback);
  std::string string(const std::string& key, const std::string& fallback);
  std::vector<std::string> strings(const std::string& key);
  std::optional<ConfigReader> object(const std::string& key);
  std::vector<int64_t> integers(const std::string& key);  // an integer or a list of them

  // A positive integer; Error if it is absent and `fallback` is 0.
  int64_t size(const std::string& key, int64_t fallback = 0);
  bool has(const std::string& key) const;  // present and not null
  const nlohmann::ordered_json& raw(const std::string& key);

  // Error unless the key is absent, null, or equal to `only`.
  template <class T>
  void must_be(const std::string& key, const T& only) {
    used_.insert(key);
    if (has(key) && json_.at(key) != only) refuse(key, nlohmann::json(only).dump());
  }

  // Error naming the first key that is neither used nor in `harmless` (a trailing * matches any ending).
  void refuse_unknown(const std::vector<std::string>& harmless) const;

  // "<where>: <key> must be <rule>, got <value>".
  [[noreturn]] void refuse(const std::string& key, const std::string& rule) const;
  const std::string& where() const { return where_; }

 private:
  nlohmann::ordered_json json_;
  std::string where_;
  std::set<std::string> used_;
};

}  // namespace qkr
