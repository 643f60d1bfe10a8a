// What the run did to recall, in sentences made from its numbers.
#pragma once

#include <string>
#include <vector>

#include "trainer/report/recall.h"

namespace qkr {

// Two of the main stages, to be compared over the prompts that both measured.
struct Comparison {
  size_t from = 0, to = 0;
  std::string label;  // "after SFT − before SFT"
};

// end − start, restored − end, restored − start: those whose stages were measured.
std::vector<Comparison> comparisons(const Recall& recall);

struct Headline {
  std::string title;                  // "Recall 92% before SFT → 41.3% after SFT → 88% restored"
  std::vector<std::string> verdicts;  // one sentence a comparison; "no significant change" where the test says no more
};

// Plain text, over all tasks and lengths together.
Headline headline(const Recall& recall);

// "up" or "down" if the change is significant, else "flat".
std::string direction(const Change& pair);

// "+46.7 points [+35.1, +57.9] over 75 prompts, McNemar p = 1.2e−07"
std::string evidence(const Change& pair);

}  // namespace qkr
