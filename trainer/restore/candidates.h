// What method auto may come to: each candidate as a configuration of its own.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

// `section` with the method that `candidate` names, over the same layers and parts. A number behind a colon is the method's own
// dial: of procrustes the anchor, of the qk-pro forms the ridge; lerp:A is a method as it stands. Throws Error (bad input) if it
// is not a number.
RestoreConfigSection candidate_section(const RestoreConfigSection& section, const std::string& candidate);

// Every way of restoring that `section` may end with: auto's candidates in their order, else itself.
std::vector<RestoreConfigSection> possible_sections(const RestoreConfigSection& section);

}  // namespace qkr
