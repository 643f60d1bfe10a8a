// Contradictions between keys: what no single value shows.
#pragma once

#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

struct Contradiction {
  std::string path;  // the key to change
  std::string text;  // "must ..., got ..."
};

// Only what cannot be meant; a combination that merely does nothing (freeze_qk with a restore) is left alone.
std::vector<Contradiction> find_contradictions(const RunConfig& config);

}  // namespace qkr
