#include "trainer/config/convert.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

// yaml-cpp gives a quoted scalar the tag "!" and a plain one "?".
bool is_plain(const YAML::Node& node) { return node.IsScalar() && node.Tag() != "!"; }

template <class T>
bool from_text(const std::string& text, T* value) {
  const char* const begin = text.data() + (text.size() > 1 && text[0] == '+' && text[1] != '-' ? 1 : 0);
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(begin, end, *value);
  return error == std::errc() && stop == end;
}

// Whether `text` is the allowed word, or the word with a number in the place of its ":A", ":X" or " N".
bool is_word(const std::string& text, const std::string& word) {
  const bool share = ends_with(word, ":A"), count = ends_with(word, " N");
  if (!share && !count && !ends_with(word, ":X")) return text == word;
  const size_t stem = word.size() - 1;
  if (!starts_with(text, word.substr(0, stem))) return false;
  int64_t integer = 0;
  if (count) return from_text(text.substr(stem), &integer) && integer >= 1;
  double number = 0;
  return from_text(text.substr(stem), &number) && number >= 0 && (share ? number <= 1 : std::isfinite(number));
}

bool has_leading_zero(const std::string& text) {
  const size_t first = !text.empty() && (text[0] == '-' || text[0] == '+') ? 1 : 0;
  return text.size() > first + 1 && text[first] == '0' && std::isdigit(static_cast<unsigned char>(text[first + 1]));
}

// nullopt: not a finite decimal number.
std::optional<double> number_of(const YAML::Node& node) {
  double value = 0;
  if (!is_plain(node) || has_leading_zero(node.Scalar())) return std::nullopt;
  if (!from_text(node.Scalar(), &value) || !std::isfinite(value)) return std::nullopt;
  return value;
}

// Reads one scalar of a type. `what` is what the message asks for.
struct ScalarReader {
  const Rule& rule;
  const OnProblem& problem;

  bool refuse(const YAML::Node& node, const std::string& what, const std::string& hint = "") const {
    problem(node, "must be " + what + ", got " + node_text(node) + hint);
    return false;
  }

  bool in_range(const YAML::Node& node, double value) const {
    const bool low = rule.min_open ? value <= rule.min : value < rule.min;
    return low || value > rule.max ? refuse(node, rule_text(rule)) : true;
  }

  bool read(const YAML::Node& node, bool* value) const {
    if (is_plain(node) && (node.Scalar() == "true" || node.Scalar() == "false")) {
      *value = node.Scalar() == "true";
      return true;
    }
    return refuse(node, "true or false");
  }

  bool read(const YAML::Node& node, int64_t* value) const {
    int64_t number = 0;
    if (!is_plain(node) || has_leading_zero(node.Scalar()) || !from_text(node.Scalar(), &number)) {
      const std::optional<double> as_float = number_of(node);
      const bool exact = as_float && std::trunc(*as_float) == *as_float && std::abs(*as_float) < 9e15;
      const std::string hint = exact ? "; write " + std::to_string(static_cast<int64_t>(*as_float)) : "";
      return refuse(node, "an integer", hint);
    }
    if (!in_range(node, static_cast<double>(number))) return false;
    *value = number;
    return true;
  }

  bool read(const YAML::Node& node, double* value) const {
    const std::optional<double> number = number_of(node);
    if (!number) return refuse(node, "a number");
    if (!in_range(node, *number)) return false;
    *value = *number;
    return true;
  }

  bool read(const YAML::Node& node, std::string* value) const {
    if (rule.logits_scaling) return read_scaling(node, value);
    if (!node.IsScalar() && !node.IsNull()) return refuse(node, "a string");
    const std::string text = node.IsNull() ? "" : node.Scalar();
    if (!is_utf8(text)) return refuse(node, "UTF-8");  // yaml-cpp makes \_ and \N one byte each
    const std::vector<std::string>& words = rule.one_of;
    const auto allows = [&](const std::string& word) { return is_word(text, word); };
    if (!words.empty() && std::none_of(words.begin(), words.end(), allows)) {
      return refuse(node, rule_text(rule), text.empty() ? "" : did_you_mean(text, words));
    }
    *value = text;
    return true;
  }

  bool read(const YAML::Node& node, std::optional<double>* value) const {
    if (node.IsNull()) {
      value->reset();
      return true;
    }
    double number = 0;
    if (!read(node, &number)) return false;
    *value = number;
    return true;
  }

  bool read(const YAML::Node& node, SampleCount* value) const {
    if (node.IsScalar() && node.Scalar() == "auto") {
      *value = SampleCount(0);
      return true;
    }
    int64_t number = 0;
    if (!number_of(node)) return refuse(node, "an integer or auto", node.IsScalar() ? did_you_mean(node.Scalar(), {"auto"}) : "");
    if (!read(node, &number)) return false;
    *value = number;
    return true;
  }

  bool read(const YAML::Node& node, LayerChoice* value) const {
    LayerChoice choice;
    if (node.IsScalar()) {
      if (!read(node, &choice.word)) return false;
    } else {
      if (!node.IsSequence() || node.size() == 0) return refuse(node, rule_text(rule) + " or a list of layer numbers");
      choice.word = "";
      for (const YAML::Node& item : node) {
        int64_t layer = 0;
        if (!read(item, &layer)) return false;
        if (layer < 0) return refuse(item, ">= 0");
        const bool again = std::find(choice.list.begin(), choice.list.end(), layer) != choice.list.end();
        if (again) {
          problem(item, concat("must not be named twice, got ", layer));
          return false;
        }
        choice.list.push_back(layer);
      }
    }
    *value = std::move(choice);
    return true;
  }

  bool read_scaling(const YAML::Node& node, std::string* value) const;
};

// Kept as written. An integer is what the official class cannot take (hypenet.md 1.3), so it is refused here too.
bool ScalarReader::read_scaling(const YAML::Node& node, std::string* value) const {
  const std::string text = node.IsNull() ? "null" : node.IsScalar() ? node.Scalar() : "";
  int64_t integer = 0;
  double number = 0;
  if (from_text(text, &integer)) {
    problem(node, concat("must be a factor with a decimal point, got ", text, "; write ", text, ".0"));
    return false;
  }
  const bool hype = starts_with(text, "hype ") && from_text(text.substr(5), &number) && number >= 2;
  const bool factor = is_plain(node) && from_text(text, &number) && number > 0;
  const bool known = text == "null" || text == "checkpoint" || ((hype || factor) && std::isfinite(number));
  if (!known) return refuse(node, rule_text(rule));
  *value = text;
  return true;
}

template <class T>
void read_list(const Field& field, const YAML::Node& node, const OnProblem& problem, std::vector<T>* list) {
  if (!node.IsSequence() && !node.IsNull()) {
    const std::string hint = node.IsScalar() ? "; write [" + node.Scalar() + "]" : "";
    problem(node, "must be a " + type_name(field) + ", got " + node_text(node) + hint);
    return;
  }
  std::vector<T> items;
  bool good = true;
  for (const YAML::Node& item : node) {
    T value{};
    if constexpr (std::is_same_v<T, std::string>) {
      if (item.IsNull() || (item.IsScalar() && item.Scalar().empty())) {
        problem(item, "items must not be empty");
        good = false;
        continue;
      }
    }
    good = ScalarReader{field.rule, problem}.read(item, &value) && good;
    items.push_back(std::move(value));
  }
  if (good) *list = std::move(items);
}

}  // namespace

std::string node_text(const YAML::Node& node) {
  if (node.IsScalar()) return is_plain(node) ? quoted(node.Scalar()) : "the string " + quoted(node.Scalar());
  if (node.IsSequence()) return "a list";
  return node.IsMap() ? "a map" : "null";
}

void read_value(const Field& field, const YAML::Node& node, const OnProblem& problem) {
  std::visit(
      [&](auto* value) {
        using T = std::remove_pointer_t<decltype(value)>;
        if constexpr (std::is_same_v<T, std::vector<std::string>> || std::is_same_v<T, std::vector<int64_t>>) {
          read_list(field, node, problem, value);
        } else {
          ScalarReader{field.rule, problem}.read(node, value);
        }
      },
      field.value);
}

}  // namespace qkr
