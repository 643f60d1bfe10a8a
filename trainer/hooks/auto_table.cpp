#include <algorithm>
#include <cmath>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/hooks/auto_choice.h"
#include "trainer/hooks/auto_lost.h"

namespace qkr {
namespace {

using Json = nlohmann::json;

std::string percent(double share) { return fixed(100 * share, 1); }
std::string signed_percent(double share) { return (share < 0 ? "" : "+") + percent(share); }
std::string interval_text(const Interval& i) { return "[" + percent(i.low) + ", " + percent(i.high) + "]"; }
std::string signed_interval(const Interval& i) { return "[" + signed_percent(i.low) + ", " + signed_percent(i.high) + "]"; }

struct Share {
  explicit Share(const std::vector<bool>& found)
      : hits(std::count(found.begin(), found.end(), true)), n(static_cast<int64_t>(found.size())), interval(wilson(hits, n)) {}
  double rate() const { return n == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(n); }
  std::string text() const { return percent(rate()) + "%  " + interval_text(interval); }
  Json json() const { return {{"hits", hits}, {"n", n}, {"recall", rate()}, {"low", interval.low}, {"high", interval.high}}; }

  int64_t hits, n;
  Interval interval;
};

const char* standing_word(Standing standing) {
  switch (standing) {
    case Standing::kChosen: return "chosen";
    case Standing::kTied: return "tied with the best";
    case Standing::kWorse: return "worse than the best";
    case Standing::kLossTooHigh: return "held-out loss too high";
    case Standing::kRefused: return "refused";
  }
  return "";
}

std::string standing_text(const AutoChoice& choice, size_t i) {
  const Standing standing = choice.judgements[i].standing;
  if (i != choice.best) return standing_word(standing);
  return standing == Standing::kChosen ? "chosen, the best" : "the best, tied with an earlier one";
}

// Columns two blanks apart, each as wide as its widest entry.
std::string in_columns(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i + 1 < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const auto& row : rows) {
    text += " ";
    for (size_t i = 0; i < row.size(); ++i) text += " " + row[i] + (i + 1 < row.size() ? std::string(widths[i] - row[i].size() + 1, ' ') : "");
    text += "\n";
  }
  return text;
}

std::string p_text(double p) { return p < 0.001 ? "p<0.001" : "p=" + fixed(p, 3); }

std::string other_half_text(const std::string& chosen, const AutoReport& report) {
  const std::string n = concat("auto: on the other ", report.none.size(), " prompts, which took no part in the choice: none ");
  if (chosen == "none") return n + Share(report.none).text() + "\n";
  const Paired counts = pair_up(report.chosen, report.none);
  return concat(n, Share(report.none).text(), ", ", chosen, " ", Share(report.chosen).text(), ", ", signed_percent(counts.difference()),
                " points ", signed_interval(newcombe_paired(counts)), " ", p_text(mcnemar_exact(counts.only_first, counts.only_second)), "\n");
}

}  // namespace

std::string auto_table(const std::vector<Trial>& trials, const AutoChoice& choice, const AutoReport& other_half, const AutoScope& scope) {
  const int64_t n = choice.judgements[0].n;
  std::string text = concat("auto: ", trials.size(), " candidates on ", n, " prompts and ", scope.held_out_rows, " held-out rows, whose loss may rise by ",
                            fixed(100 * scope.max_loss_increase, 2), " %\n");
  std::vector<std::vector<std::string>> rows = {{"candidate", "held-out loss", "recall", "against the best", "standing"}};
  for (size_t i = 0; i < trials.size(); ++i) {
    const Judgement& one = choice.judgements[i];
    if (one.standing == Standing::kRefused) continue;
    rows.push_back({trials[i].name, concat(fixed(trials[i].loss, 4), " (", one.loss_increase < 0 ? "" : "+", fixed(100 * one.loss_increase, 2), " %)"),
                    Share(trials[i].found).text(),
                    i == choice.best ? "" : signed_percent(one.difference) + "  " + signed_interval(one.difference_interval), standing_text(choice, i)});
  }
  text += in_columns(rows);
  for (const Trial& trial : trials) {
    if (!trial.refusal.empty()) text += "  " + trial.name + "  refused: " + trial.refusal + "\n";
  }
  text += lost_text(other_half, trials, choice);
  text += other_half_text(trials[choice.chosen].name, other_half);
  return text + (choice.chosen == 0 ? "auto: no candidate beats none, so the tuned weights stay\n" : "auto: chose " + trials[choice.chosen].name + "\n");
}

Json auto_json(const std::vector<Trial>& trials, const AutoChoice& choice, const AutoReport& other_half, const AutoScope& scope) {
  Json candidates = Json::array();
  for (size_t i = 0; i < trials.size(); ++i) {
    const Judgement& one = choice.judgements[i];
    Json row = {{"candidate", trials[i].name}, {"standing", standing_word(one.standing)}};
    if (one.standing == Standing::kRefused) {
      row["reason"] = trials[i].refusal;
    } else {
      row.update(Share(trials[i].found).json());
      row["held_out_loss"] = trials[i].loss;
      row["loss_increase"] = one.loss_increase;
      row["difference"] = one.difference;
      row["difference_low"] = one.difference_interval.low;
      row["difference_high"] = one.difference_interval.high;
    }
    for (auto& value : row) {
      if (value.is_number_float() && !std::isfinite(value.get<double>())) value = nullptr;
    }
    candidates.push_back(std::move(row));
  }
  Json other = {{"none", Share(other_half.none).json()}};
  if (choice.chosen != 0) {
    const Paired counts = pair_up(other_half.chosen, other_half.none);
    const Interval interval = newcombe_paired(counts);
    other["chosen"] = Share(other_half.chosen).json();
    other.update({{"difference", counts.difference()}, {"difference_low", interval.low}, {"difference_high", interval.high},
                  {"p", mcnemar_exact(counts.only_first, counts.only_second)}});
  }
  return {{"chosen", trials[choice.chosen].name}, {"best", trials[choice.best].name}, {"beats_none", choice.chosen != 0},
          {"candidates", std::move(candidates)}, {"other_half", std::move(other)}, {"held_out_rows", scope.held_out_rows},
          {"held_out_tokens", scope.held_out_tokens}, {"max_loss_increase", scope.max_loss_increase},
          {"lost", lost_json(other_half, trials, choice)}};
}

}  // namespace qkr
