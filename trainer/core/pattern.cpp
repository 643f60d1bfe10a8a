#include "trainer/core/pattern.h"

#include <fnmatch.h>

#include <algorithm>
#include <numeric>

namespace qkr {
namespace {

// What stands for one character, or the *: "a", "?", "[0-5]", "\\*", "*".
std::vector<std::string> tokens_of(const std::string& pattern) {
  std::vector<std::string> tokens;
  for (size_t at = 0; at < pattern.size();) {
    size_t length = 1;
    const size_t closing = pattern[at] == '[' ? pattern.find(']', at + 2) : std::string::npos;
    if (closing != std::string::npos) length = closing - at + 1;
    if (pattern[at] == '\\' && at + 1 < pattern.size()) length = 2;
    tokens.push_back(pattern.substr(at, length));
    at += length;
  }
  return tokens;
}

bool stands_for(const std::string& token, char c) {
  if (token.size() == 1 && token != "?") return token[0] == c;
  return matches_pattern(token, std::string(1, c));
}

// Levenshtein distance between the name and the nearest text that the pattern matches.
int pattern_distance(const std::vector<std::string>& tokens, const std::string& name) {
  std::vector<int> row(name.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (const std::string& token : tokens) {
    const bool star = token == "*";
    int diagonal = row[0];  // the value up and to the left of row[j]
    row[0] += star ? 0 : 1;
    for (size_t j = 1; j <= name.size(); ++j) {
      const int above = row[j];
      row[j] = star ? std::min(above, row[j - 1])
                    : std::min({above + 1, row[j - 1] + 1, diagonal + (stands_for(token, name[j - 1]) ? 0 : 1)});
      diagonal = above;
    }
  }
  return row[name.size()];
}

std::string asked(const std::vector<std::string>& meant) {
  std::string text = "; did you mean " + meant[0];
  for (size_t i = 1; i < meant.size(); ++i) text += (i + 1 == meant.size() ? " or " : ", ") + meant[i];
  return text + "?";
}

}  // namespace

bool matches_pattern(const std::string& pattern, const std::string& name) { return fnmatch(pattern.c_str(), name.c_str(), 0) == 0; }

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) { return matches_pattern(pattern, name); });
}

std::string near_matches(const std::string& pattern, const std::vector<std::string>& names) {
  if (pattern.empty()) return "";
  for (const std::string& wider : {pattern + "*", "*" + pattern, "*" + pattern + "*"}) {
    if (std::any_of(names.begin(), names.end(), [&](const std::string& name) { return matches_pattern(wider, name); })) return asked({wider});
  }
  const std::vector<std::string> tokens = tokens_of(pattern);
  int least = std::max<int>(2, static_cast<int>(tokens.size()) / 3);
  std::vector<std::string> nearest;
  for (const std::string& name : names) {
    const int distance = pattern_distance(tokens, name);
    if (distance < least) nearest.clear();
    if (distance <= least && (distance < least || nearest.size() < 3)) nearest.push_back(name);
    least = std::min(least, distance);
  }
  return nearest.empty() ? "" : asked(nearest);
}

}  // namespace qkr
