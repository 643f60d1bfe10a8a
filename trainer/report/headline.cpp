#include "trainer/report/headline.h"

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/report/html.h"

namespace qkr {

namespace {

std::string sft_verdict(const Change& sft) {
  if (!sft.significant()) return "SFT made no significant change to recall: ";
  return sft.difference < 0 ? "SFT lost recall: " : "SFT gained recall: ";
}

// What the restore did can only be called a repair where SFT was seen to break something.
std::string restore_verdict(const Change& restore, bool sft_lost) {
  if (!restore.significant()) return "The restore made no significant change to recall: ";
  if (restore.difference < 0) return "The restore made recall worse: ";
  return sft_lost ? "The restore brought recall back: " : "The restore gained recall: ";
}

std::string whole_verdict(const Change& whole) {
  if (!whole.significant()) return "Restored, the model does not differ significantly from before SFT: ";
  return whole.difference < 0 ? "Restored, the model still recalls less than before SFT: "
                              : "Restored, the model recalls more than before SFT: ";
}

}  // namespace

std::vector<Comparison> comparisons(const Recall& recall) {
  std::vector<Comparison> found;
  const auto add = [&](const std::optional<size_t>& from, const std::optional<size_t>& to) {
    if (from && to) found.push_back({*from, *to, concat(recall.stages()[*to].label, " − ", recall.stages()[*from].label)});
  };
  add(recall.start(), recall.end());
  add(recall.end(), recall.restored());
  add(recall.start(), recall.restored());
  return found;
}

std::string direction(const Change& pair) {
  return !pair.significant() ? "flat" : pair.difference > 0 ? "up" : "down";
}

std::string evidence(const Change& pair) {
  return concat(html::points(pair.difference), " points [", html::points(pair.low), ", ", html::points(pair.high), "] over ",
                group_digits(pair.n()), " prompts, McNemar p ", pair.p < html::kSmallestP ? "" : "= ", html::p_value(pair.p));
}

Headline headline(const Recall& recall) {
  Headline text;
  const std::vector<size_t> stages = recall.main_stages();
  if (stages.empty()) {
    text.title = recall.empty() ? "Recall was not measured in this run"
                                : "Recall was measured during SFT, but neither before nor after it";
    return text;
  }
  for (const size_t stage : stages) {
    text.title += concat(text.title.empty() ? "Recall " : " → ", html::percent(recall.rate(stage, {}).rate), " ",
                         recall.stages()[stage].label);
  }
  const bool have_start = recall.start().has_value(), have_end = recall.end().has_value();
  bool sft_lost = false;
  if (have_start && have_end) {
    const Change sft = recall.paired(*recall.start(), *recall.end(), {});
    sft_lost = direction(sft) == "down";
    if (sft.n() > 0) text.verdicts.push_back(sft_verdict(sft) + evidence(sft) + ".");
  }
  if (recall.restored() && have_end) {
    const Change restore = recall.paired(*recall.end(), *recall.restored(), {});
    if (restore.n() > 0) text.verdicts.push_back(restore_verdict(restore, sft_lost) + evidence(restore) + ".");
  }
  if (recall.restored() && have_start) {
    const Change whole = recall.paired(*recall.start(), *recall.restored(), {});
    if (whole.n() > 0) text.verdicts.push_back(whole_verdict(whole) + evidence(whole) + ".");
  }
  if (stages.size() == 1) text.verdicts.push_back("There is no second measurement to compare it with.");
  return text;
}

}  // namespace qkr
