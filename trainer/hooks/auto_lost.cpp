#include "trainer/hooks/auto_lost.h"

#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

std::string percent(double share) { return fixed(100 * share, 1); }

std::string signed_percent(double share, int digits) { return (share < 0 ? "" : "+") + fixed(100 * share, digits); }

double rate(const std::vector<bool>& found) {
  return static_cast<double>(std::count(found.begin(), found.end(), true)) / static_cast<double>(found.size());
}

std::string cost_text(const std::vector<Trial>& trials, const AutoChoice& choice) {
  std::string text;
  for (size_t i = 1; i < trials.size(); ++i) {
    const double rise = choice.judgements[i].loss_increase;
    if (!trials[i].refusal.empty() || !std::isfinite(rise)) continue;
    text += concat(text.empty() ? "" : ", ", trials[i].name, " ", signed_percent(rise, 2), " %");
  }
  return text.empty() ? "" : "Restoring would change the held-out loss: " + text;
}

}  // namespace

Lost what_was_lost(const std::vector<bool>& before, const std::vector<bool>& after) {
  const Interval interval = newcombe_paired(pair_up(after, before));
  if (interval.high < 0) return Lost::kYes;
  return interval.low >= -kSmallLoss ? Lost::kNo : Lost::kUnknown;
}

std::string lost_text(const AutoReport& report, const std::vector<Trial>& trials, const AutoChoice& choice) {
  if (report.before.empty()) return "";
  const Paired counts = pair_up(report.after, report.before);
  const Interval interval = newcombe_paired(counts);
  const std::string numbers = concat("recall ", percent(rate(report.before)), "% before it and ", percent(rate(report.after)), "% after, ",
                                     signed_percent(counts.difference(), 1), " points [", signed_percent(interval.low, 1), ", ",
                                     signed_percent(interval.high, 1), "] on ", counts.n(), " prompts");
  switch (what_was_lost(report.before, report.after)) {
    case Lost::kYes: return concat("auto: fine-tuning lost recall: ", numbers, "\n");
    case Lost::kNo: return concat("auto: nothing was lost by fine-tuning: ", numbers, ". ", cost_text(trials, choice), "\n");
    case Lost::kUnknown:
      return concat("auto: no loss can be told from none, nor one of ", percent(-interval.low), " points be ruled out: ", numbers, ". ",
                    cost_text(trials, choice), "\n");
  }
  return "";
}

nlohmann::json lost_json(const AutoReport& report, const std::vector<Trial>& trials, const AutoChoice& choice) {
  if (report.before.empty()) return nullptr;
  const Paired counts = pair_up(report.after, report.before);
  const Interval interval = newcombe_paired(counts);
  const Lost lost = what_was_lost(report.before, report.after);
  const std::string text = lost_text(report, trials, choice);
  return {{"verdict", lost == Lost::kYes ? "lost" : lost == Lost::kNo ? "nothing lost" : "unknown"},
          {"before", rate(report.before)},
          {"after", rate(report.after)},
          {"n", counts.n()},
          {"difference", counts.difference()},
          {"low", interval.low},
          {"high", interval.high},
          {"text", text.substr(6, text.size() - 7)}};  // without "auto: " and the newline
}

}  // namespace qkr
