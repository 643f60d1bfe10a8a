#include "trainer/hooks/auto_choice.h"

#include <algorithm>

#include "trainer/core/error.h"

namespace qkr {
namespace {

int64_t count(const std::vector<bool>& found) { return std::count(found.begin(), found.end(), true); }

bool holds_zero(const Interval& interval) { return interval.low <= 0 && interval.high >= 0; }

bool is_in(const Judgement& judgement) {
  return judgement.standing != Standing::kRefused && judgement.standing != Standing::kLossTooHigh;
}

}  // namespace

Paired pair_up(const std::vector<bool>& first, const std::vector<bool>& second) {
  Paired counts;
  for (size_t i = 0; i < first.size(); ++i) {
    ++(first[i] ? (second.at(i) ? counts.both : counts.only_first) : (second.at(i) ? counts.only_second : counts.neither));
  }
  return counts;
}

AutoChoice choose_candidate(const std::vector<Trial>& trials, double max_loss_increase) {
  if (trials.empty() || trials[0].name != "none" || !trials[0].refusal.empty()) fail("auto: the first candidate must be none, and tried");
  AutoChoice choice;
  for (const Trial& trial : trials) {
    Judgement& one = choice.judgements.emplace_back();
    if (!trial.refusal.empty()) continue;
    one.n = static_cast<int64_t>(trial.found.size());
    one.hits = count(trial.found);
    one.recall = wilson(one.hits, one.n);
    one.loss_increase = trial.loss / trials[0].loss - 1;
    // none is what the others are measured by, whatever its loss
    const bool fits = choice.judgements.size() == 1 || trial.loss <= trials[0].loss * (1 + max_loss_increase);
    one.standing = fits ? Standing::kWorse : Standing::kLossTooHigh;
    if (fits && one.recall.low > choice.judgements[choice.best].recall.low) choice.best = choice.judgements.size() - 1;
  }
  choice.chosen = choice.best;
  for (size_t i = trials.size(); i-- > 0;) {
    Judgement& one = choice.judgements[i];
    if (one.standing == Standing::kRefused) continue;
    const Paired counts = pair_up(trials[i].found, trials[choice.best].found);
    one.difference = counts.difference();
    one.difference_interval = newcombe_paired(counts);
    if (!is_in(one) || (i != choice.best && !holds_zero(one.difference_interval))) continue;
    one.standing = Standing::kTied;
    choice.chosen = i;
  }
  choice.judgements[choice.chosen].standing = Standing::kChosen;
  return choice;
}

}  // namespace qkr
