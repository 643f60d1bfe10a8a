// Was anything lost, can the prompts tell, and what would bringing it back cost.
#include <gtest/gtest.h>

#include <algorithm>

#include "trainer/hooks/auto_lost.h"

namespace qkr {
namespace {

std::vector<bool> first(size_t hits, size_t n) {
  std::vector<bool> found(n, false);
  std::fill(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(hits), true);
  return found;
}

struct Tried {
  std::vector<Trial> trials = {{"none", "", 0.654, first(10, 20)}, {"plain", "", 0.669, first(10, 20)}, {"procrustes-head", "gains moved apart", 0, {}},
                               {"lerp:0.5", "", 0.650, first(10, 20)}};
  AutoChoice choice = choose_candidate(trials, 0.02);
};

AutoReport report_of(std::vector<bool> before, std::vector<bool> after) { return {{true}, {true}, std::move(before), std::move(after)}; }

TEST(AutoLost, TellsALossFromNoneAndFromTooFewPrompts) {
  EXPECT_EQ(what_was_lost(first(100, 100), first(60, 100)), Lost::kYes);
  EXPECT_EQ(what_was_lost(first(198, 225), first(219, 225)), Lost::kNo);  // a gain
  EXPECT_EQ(what_was_lost(first(225, 225), first(225, 225)), Lost::kNo);
  EXPECT_EQ(what_was_lost(first(10, 10), first(10, 10)), Lost::kUnknown);  // a loss of 28 points could hide
  EXPECT_EQ(what_was_lost(first(10, 10), first(8, 10)), Lost::kUnknown);
}

TEST(AutoLost, WhereNothingWasLostItSaysWhatRestoringWouldCost) {
  const Tried t;
  EXPECT_EQ(lost_text(report_of(first(220, 225), first(221, 225)), t.trials, t.choice),
            "auto: nothing was lost by fine-tuning: recall 97.8% before it and 98.2% after, +0.4 points [-1.4, +2.6] on 225 prompts. "
            "Restoring would change the held-out loss: plain +2.29 %, lerp:0.5 -0.61 %\n");
  const nlohmann::json json = lost_json(report_of(first(220, 225), first(221, 225)), t.trials, t.choice);
  EXPECT_EQ(json.at("verdict"), "nothing lost");
  EXPECT_EQ(json.at("n"), 225);
  EXPECT_EQ(json.at("text").get<std::string>().rfind("nothing was lost by fine-tuning: ", 0), 0u);
  EXPECT_EQ(json.at("text").get<std::string>().back(), '%');
}

TEST(AutoLost, ALossIsNamedAndAnUnknownOneIsNotDenied) {
  const Tried t;
  EXPECT_EQ(lost_text(report_of(first(40, 40), first(20, 40)), t.trials, t.choice).rfind(
                "auto: fine-tuning lost recall: recall 100.0% before it and 50.0% after, -50.0 points [", 0), 0u);
  const std::string few = lost_text(report_of(first(4, 4), first(4, 4)), t.trials, t.choice);
  EXPECT_EQ(few.rfind("auto: no loss can be told from none, nor one of ", 0), 0u) << few;
  EXPECT_NE(few.find("plain +2.29 %"), std::string::npos) << few;
  EXPECT_EQ(lost_text({{true}, {true}}, t.trials, t.choice), "");  // the start was not measured
  EXPECT_TRUE(lost_json({{true}, {true}}, t.trials, t.choice).is_null());
}

}  // namespace
}  // namespace qkr
