// Shell patterns over names: * stands for any characters (dots too), ? for one, [abc] and [0-5] for one of these.
#pragma once

#include <string>
#include <vector>

namespace qkr {

bool matches_pattern(const std::string& pattern, const std::string& name);
bool matches_any(const std::vector<std::string>& patterns, const std::string& name);

// For a pattern that matches none of `names`: "; did you mean X?" with the pattern that has a * at one end more, where that
// matches (the name of a module, a prefix), else with up to three names that fewest edits of the pattern would match, no more
// than a third of its length; else "".
std::string near_matches(const std::string& pattern, const std::vector<std::string>& names);

}  // namespace qkr
