// What fine-tuning cost in recall, in a sentence of method auto: whether there was anything to bring back, and what it would have cost. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/hooks/auto_choice.h"

namespace qkr {

enum class Lost {
  kYes,     // the paired 95 % interval (Newcombe) of after - before lies below 0
  kNo,      // it holds 0 or lies above, and rules out a loss of more than kSmallLoss
  kUnknown  // it holds 0, and a larger loss as well: too few prompts
};

inline constexpr double kSmallLoss = 0.05;

// The same prompts before fine-tuning and with the tuned weights, in the same order.
Lost what_was_lost(const std::vector<bool>& before, const std::vector<bool>& after);

// "auto: nothing was lost: ... Restoring would cost ...\n", with the rise of the held-out loss of each candidate that was tried. "" without
// measurements of before.
std::string lost_text(const AutoReport& report, const std::vector<Trial>& trials, const AutoChoice& choice);

// {"verdict": "lost" | "nothing lost" | "unknown", "before": ..., "after": ..., "n", "difference", "low", "high", "text"}, or null.
nlohmann::json lost_json(const AutoReport& report, const std::vector<Trial>& trials, const AutoChoice& choice);

}  // namespace qkr
