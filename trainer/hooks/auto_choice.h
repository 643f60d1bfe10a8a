// Which candidate of method auto wins, from what each of them scored; and the same as a table. Pure.
//
// The rule: a candidate that could not be tried, or whose held-out loss is too far above that of `none` (the tuned weights), is
// out. Of the others the best is the one with the highest lower 95 % bound of recall (Wilson) on the selection half of the
// prompts. Those whose paired 95 % interval against the best (Newcombe) holds 0 are tied with it, and of them all the first in
// the list is chosen: as `none` is the first, it stays unless something beats it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "trainer/probe/statistics.h"

namespace qkr {

struct Trial {
  std::string name;         // "procrustes:0.1"
  std::string refusal;      // why it could not be tried; then the rest is empty
  double loss = 0;          // mean over the labelled tokens of the held-out rows, nats
  std::vector<bool> found;  // per prompt of the selection half, in the same order for all trials
};

enum class Standing { kChosen, kTied, kWorse, kLossTooHigh, kRefused };

struct Judgement {
  Standing standing = Standing::kRefused;
  double loss_increase = 0;  // loss / loss of none - 1
  int64_t hits = 0, n = 0;
  Interval recall;        // of hits / n
  double difference = 0;  // recall - that of the best, over the same prompts
  Interval difference_interval;
};

struct AutoChoice {
  size_t chosen = 0, best = 0;        // places in the list of trials
  std::vector<Judgement> judgements;  // one a trial
};

// Two measurements of the same prompts, in the same order.
Paired pair_up(const std::vector<bool>& first, const std::vector<bool>& second);

// trials[0] is `none`, and was tried. A loss that is not a number is too high.
AutoChoice choose_candidate(const std::vector<Trial>& trials, double max_loss_increase);

// The half of the prompts that the choice did not see, with the tuned weights and with the chosen ones, in the same order.
struct AutoReport {
  std::vector<bool> none, chosen;
  // All prompts, of both halves: before fine-tuning, if that was measured, and with the tuned weights.
  std::vector<bool> before = {}, after = {};
};

// What the numbers were taken from.
struct AutoScope {
  int64_t held_out_rows = 0, held_out_tokens = 0;  // tokens: labelled
  double max_loss_increase = 0;
};

// Title, a line a candidate, what the other half says, and the sentence that says what was chosen.
std::string auto_table(const std::vector<Trial>& trials, const AutoChoice& choice, const AutoReport& other_half, const AutoScope& scope);

// What restore.json holds under "auto".
nlohmann::json auto_json(const std::vector<Trial>& trials, const AutoChoice& choice, const AutoReport& other_half, const AutoScope& scope);

}  // namespace qkr
