#include "trainer/restore/candidates.h"

#include <charconv>

#include "trainer/core/error.h"

namespace qkr {

RestoreConfigSection candidate_section(const RestoreConfigSection& section, const std::string& candidate) {
  RestoreConfigSection one = section;
  one.method = candidate;
  const size_t colon = candidate.find(':');
  if (colon == std::string::npos || candidate.compare(0, colon, "lerp") == 0) return one;
  one.method = candidate.substr(0, colon);
  double number = 0;
  const char* const end = candidate.data() + candidate.size();
  const auto [stop, error] = std::from_chars(candidate.data() + colon + 1, end, number);
  if (stop != end || error != std::errc()) fail("qk_restore.candidates: must have a number behind the colon, got ", candidate);
  if (one.method == "procrustes") {
    one.anchor = number;
  } else {
    one.ridge = number;
  }
  return one;
}

std::vector<RestoreConfigSection> possible_sections(const RestoreConfigSection& section) {
  if (section.method != "auto") return {section};
  std::vector<RestoreConfigSection> all;
  for (const std::string& candidate : section.candidates) all.push_back(candidate_section(section, candidate));
  return all;
}

}  // namespace qkr
