// The rule of method auto on scores made by hand, and its table.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tmpdir.h"
#include "trainer/hooks/auto_choice.h"

namespace qkr {
namespace {

// A trial that finds the prompts from `first` to `last` of 40.
Trial trial(const std::string& name, int first, int last, double loss = 1.0) {
  Trial one{name, "", loss, std::vector<bool>(40, false)};
  for (int i = first; i < last; ++i) one.found[static_cast<size_t>(i)] = true;
  return one;
}

std::vector<Standing> standings(const AutoChoice& choice) {
  std::vector<Standing> all;
  for (const Judgement& one : choice.judgements) all.push_back(one.standing);
  return all;
}

using Standings = std::vector<Standing>;

TEST(AutoChoice, TheHighestLowerBoundWinsWhereItBeatsNone) {
  const AutoChoice choice = choose_candidate({trial("none", 0, 10), trial("plain", 0, 32), trial("lerp:0.5", 0, 18)}, 0.02);
  EXPECT_EQ(choice.chosen, 1u);
  EXPECT_EQ(choice.best, 1u);
  EXPECT_EQ(standings(choice), (Standings{Standing::kWorse, Standing::kChosen, Standing::kWorse}));
  const Judgement& none = choice.judgements[0];
  EXPECT_EQ(none.hits, 10);
  EXPECT_EQ(none.n, 40);
  EXPECT_NEAR(none.recall.low, wilson(10, 40).low, 1e-15);
  EXPECT_NEAR(none.difference, -22.0 / 40, 1e-15);
  EXPECT_LT(none.difference_interval.high, 0);
  EXPECT_EQ(choice.judgements[1].difference, 0);
}

TEST(AutoChoice, NoneStaysUnlessSomethingBeatsIt) {
  const AutoChoice choice = choose_candidate({trial("none", 0, 20), trial("plain", 0, 22)}, 0.02);  // two prompts of forty
  EXPECT_EQ(choice.best, 1u);
  EXPECT_EQ(choice.chosen, 0u);
  EXPECT_EQ(standings(choice), (Standings{Standing::kChosen, Standing::kTied}));
  const AutoChoice worse = choose_candidate({trial("none", 0, 30), trial("plain", 0, 5)}, 0.02);
  EXPECT_EQ(worse.best, 0u);
  EXPECT_EQ(standings(worse), (Standings{Standing::kChosen, Standing::kWorse}));
  const AutoChoice equal = choose_candidate({trial("none", 0, 20), trial("plain", 20, 40)}, 0.02);  // as many, but others
  EXPECT_EQ(equal.best, 0u);
  EXPECT_EQ(equal.chosen, 0u);
}

// Ties are told by the pairs, not by the rates: 24 of 40 against 30 is a tie where they find different prompts, none where the
// one finds all that the other does.
TEST(AutoChoice, OfTiesTheEarlierWins) {
  const std::vector<Trial> tied = {trial("none", 0, 4), trial("a", 0, 24), trial("b", 10, 40), trial("c", 10, 39)};
  const AutoChoice choice = choose_candidate(tied, 0.02);
  EXPECT_EQ(choice.best, 2u);
  EXPECT_EQ(choice.chosen, 1u);
  EXPECT_EQ(standings(choice), (Standings{Standing::kWorse, Standing::kChosen, Standing::kTied, Standing::kTied}));
  const AutoChoice nested = choose_candidate({trial("none", 0, 4), trial("a", 0, 24), trial("b", 0, 30)}, 0.02);
  EXPECT_EQ(nested.chosen, 2u);
  EXPECT_EQ(standings(nested), (Standings{Standing::kWorse, Standing::kWorse, Standing::kChosen}));
}

TEST(AutoChoice, ALossAboveTheBoundIsOut) {
  const std::vector<Trial> trials = {trial("none", 0, 4, 0.5), trial("a", 0, 40, 0.5101), trial("b", 0, 30, 0.5099), trial("c", 0, 40, NAN)};
  const AutoChoice choice = choose_candidate(trials, 0.02);
  EXPECT_EQ(choice.chosen, 2u);
  EXPECT_EQ(standings(choice), (Standings{Standing::kWorse, Standing::kLossTooHigh, Standing::kChosen, Standing::kLossTooHigh}));
  EXPECT_NEAR(choice.judgements[1].loss_increase, 0.0202, 1e-12);
  EXPECT_EQ(choose_candidate(trials, 0.03).chosen, 1u);
  std::vector<Trial> broken = trials;
  broken[0].loss = NAN;  // nothing can be compared with it
  EXPECT_EQ(choose_candidate(broken, 0.02).chosen, 0u);
}

TEST(AutoChoice, RefusedCandidatesTakeNoPart) {
  std::vector<Trial> trials = {trial("none", 0, 4), Trial{"procrustes-head", "layer 1 has gains", 0, {}}, trial("plain", 0, 40)};
  EXPECT_EQ(choose_candidate(trials, 0.02).chosen, 2u);
  EXPECT_EQ(standings(choose_candidate(trials, 0.02))[1], Standing::kRefused);
  trials[2] = Trial{"qk-pro", "no", 0, {}};
  EXPECT_EQ(choose_candidate(trials, 0.02).chosen, 0u);
  EXPECT_NE(QKR_MESSAGE_OF(choose_candidate({trial("plain", 0, 4)}, 0.02)).find("must be none"), std::string::npos);
}

const AutoScope kScope = {32, 1234, 0.02};

TEST(AutoTable, SaysEveryNumberAndWhatWasChosen) {
  const std::vector<Trial> trials = {trial("none", 0, 10, 0.5), trial("plain", 0, 32, 0.505), Trial{"procrustes-head", "layer 1 has gains", 0, {}},
                                     trial("q", 0, 40, 0.6)};
  const AutoChoice choice = choose_candidate(trials, 0.02);
  const AutoReport half{std::vector<bool>(4, false), {true, true, true, false}};
  const std::string table = auto_table(trials, choice, half, kScope);
  for (const char* line :
       {"auto: 4 candidates on 40 prompts and 32 held-out rows, whose loss may rise by 2.00 %\n",
        "  none       0.5000 (+0.00 %)   25.0%  [14.2, 40.2]    -55.0  [-67.8, -36.3]  worse than the best\n",
        "  plain      0.5050 (+1.00 %)   80.0%  [65.2, 89.5]                           chosen, the best\n",
        "  q          0.6000 (+20.00 %)  100.0%  [91.2, 100.0]  +20.0  [+7.1, +34.8]   held-out loss too high\n",
        "  procrustes-head  refused: layer 1 has gains\n",
        "auto: on the other 4 prompts, which took no part in the choice: none 0.0%  [0.0, 49.0], plain 75.0%  [30.1, 95.4], +75.0 points ",
        "auto: chose plain\n"}) {
    EXPECT_NE(table.find(line), std::string::npos) << line << "in\n" << table;
  }
  const nlohmann::json json = auto_json(trials, choice, half, kScope);
  EXPECT_EQ(json.at("chosen"), "plain");
  EXPECT_EQ(json.at("beats_none"), true);
  EXPECT_EQ(json.at("held_out_tokens"), 1234);
  ASSERT_EQ(json.at("candidates").size(), 4u);
  EXPECT_EQ(json.at("candidates")[1].at("hits"), 32);
  EXPECT_EQ(json.at("candidates")[1].at("held_out_loss"), 0.505);
  EXPECT_EQ(json.at("candidates")[2].at("reason"), "layer 1 has gains");
  EXPECT_EQ(json.at("candidates")[3].at("standing"), "held-out loss too high");
  EXPECT_EQ(json.at("other_half").at("chosen").at("hits"), 3);
  EXPECT_EQ(json.at("other_half").at("difference"), 0.75);
}

TEST(AutoTable, SaysWhenNothingBeatsNone) {
  const std::vector<Trial> trials = {trial("none", 0, 20), trial("plain", 0, 22, NAN)};
  const AutoChoice choice = choose_candidate(trials, 0.02);
  const AutoReport half{{true, false}, {true, false}};
  const std::string table = auto_table(trials, choice, half, kScope);
  EXPECT_NE(table.find("auto: no candidate beats none, so the tuned weights stay\n"), std::string::npos) << table;
  EXPECT_NE(table.find("which took no part in the choice: none 50.0%"), std::string::npos) << table;
  const nlohmann::json json = auto_json(trials, choice, half, kScope);
  EXPECT_EQ(json.at("beats_none"), false);
  EXPECT_TRUE(json.at("candidates")[1].at("held_out_loss").is_null());
  EXPECT_FALSE(json.at("other_half").contains("chosen"));
}

}  // namespace
}  // namespace qkr
