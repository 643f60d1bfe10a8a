#include "trainer/probe/words.h"

#include <algorithm>

namespace qkr {
namespace {

std::vector<std::string_view> split_list(std::string_view list) {
  std::vector<std::string_view> words;
  for (size_t at = 0; at < list.size();) {
    if (list[at] == '\n') ++at;
    const size_t comma = std::min(list.find(',', at), list.size());
    words.push_back(list.substr(at, comma - at));
    at = comma + 1;
  }
  return words;
}

}  // namespace

const std::vector<std::string_view>& adjectives() {
  static const std::vector<std::string_view> words = split_list(kAdjectiveList);
  return words;
}

const std::vector<std::string_view>& nouns() {
  static const std::vector<std::string_view> words = split_list(kNounList);
  return words;
}

const std::vector<std::string_view>& distinct_adjectives() {
  static const std::vector<std::string_view> words = [] {
    std::vector<std::string_view> once;
    for (const std::string_view word : adjectives()) {
      if (std::find(once.begin(), once.end(), word) == once.end()) once.push_back(word);
    }
    return once;
  }();
  return words;
}

}  // namespace qkr
