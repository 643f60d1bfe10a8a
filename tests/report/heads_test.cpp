// Which heads lost and regained the needle: the page's numbers are those of heads.jsonl.
#include <gtest/gtest.h>

#include "tests/report/run_folder.h"
#include "trainer/report/heads.h"

namespace qkr {
namespace {

using namespace test;

Json head_row(const std::string& stage, int index, std::vector<std::vector<double>> mass) {
  return {{"stage", stage}, {"step", stage == "start" ? 0 : 5}, {"id", "p" + std::to_string(index)}, {"task", "niah_single_1"}, {"length", 1024},
          {"depth", 10.0}, {"needle", {5, 20}}, {"answer", {900, 908}}, {"model", ""}, {"layers", {3, 7}}, {"mass", std::move(mass)}};
}

// Head 1 of layer 7 loses 40 points and regains 30; head 0 of layer 3 loses 2 and stays; the others keep what they have, but for noise.
std::vector<Json> rows() {
  std::vector<Json> found;
  for (int i = 0; i < 8; ++i) {
    const double noise = 0.0012 * (i % 4);
    found.push_back(head_row("start", i, {{0.05 + noise, 0.1 - noise}, {0.2 + noise, 0.5 + noise}}));
    found.push_back(head_row("end", i, {{0.03 + noise / 2, 0.1 + noise}, {0.2 - noise, 0.1 - noise}}));
    found.push_back(head_row("restored", i, {{0.03 - noise, 0.1}, {0.2, 0.4 - noise}}));
  }
  return found;
}

TEST(Heads, LostAndRegainedByThePairedInterval) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  dir.write("run/heads.jsonl", lines(rows()));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("In SFT 2 of 4 heads lost a point or more of their attention on the needle; restored, 1 of these regained some of it."),
            std::string::npos) << body;
  EXPECT_NE(body.find("<title>layer 7, head 1, before SFT: 50.2% of its attention on the needle (95% interval 50.1% to 50.3%, 8 prompts)</title>"),
            std::string::npos) << body.substr(body.find("layer 7, head 1"), 200);
  // 50.18 -> 9.82 -> 39.82, regained 30 of 40.36
  EXPECT_NE(body.find("<td class=\"num\">7</td><td class=\"num\">1</td><td class=\"num\">50.2%</td><td class=\"num\">9.8%</td>"
                      "<td class=\"num strong down\">−40.4</td>"), std::string::npos) << body.substr(body.find("points lost"), 900);
  EXPECT_NE(body.find("<td class=\"num strong up\">+30.0</td>"), std::string::npos);
  EXPECT_NE(body.find("<td class=\"num\">74%</td>"), std::string::npos);
  EXPECT_LT(body.find(">−40.4</td>"), body.find(">−2.1</td>"));  // the largest first
  EXPECT_EQ(count_of(body, "<g><title>layer"), 12u);             // 3 maps of 2 x 2
  // One scale: the same share has the same colour in all three maps, and only the largest one the darkest.
  EXPECT_EQ(count_of(body, "fill=\"#173A86\"/><text x="), 1u);
}

TEST(Heads, PairsThePromptsAndForgetsTheOthers) {
  std::vector<HeadRow> all;
  const auto add = [&](const std::string& stage, const std::string& id, double mass) {
    all.push_back({stage, stage == "start" ? 0 : 5, id, "t", 1024, {3}, {{mass}}});
  };
  add("start", "a", 0.9), add("start", "b", 0.5), add("start", "only", 0.1), add("end", "b", 0.4), add("end", "a", 0.6), add("end", "a", 0.7);
  const HeadMap map(all);
  const MeanShare change = map.change(*map.start(), *map.end(), 0, 0);
  EXPECT_EQ(change.n, 2);
  EXPECT_NEAR(change.mean, -0.15, 1e-12);                    // of -.2 (the later row counts) and -.1
  EXPECT_NEAR(change.high, -0.15 + 12.7062 * 0.05, 1e-9);    // Student's interval on one degree
  EXPECT_TRUE(map.lost().empty());
  EXPECT_EQ(map.share(*map.start(), 0, 0).n, 3);
}

// t(.975) = 2.262 for 9 degrees and 2.045 for 29.
TEST(Heads, IntervalsAreStudents) {
  std::vector<double> ten, thirty;
  for (int i = 0; i < 30; ++i) (i < 10 ? ten : thirty).push_back(i % 2), (i < 10 ? thirty.push_back(i % 2) : void());
  const MeanShare a = MeanShare::of(ten), b = MeanShare::of(thirty);
  EXPECT_NEAR(a.high - a.mean, 2.262 * std::sqrt(2.5 / 9 / 10), 5e-4);
  EXPECT_NEAR(b.high - b.mean, 2.045 * std::sqrt(7.5 / 29 / 30), 5e-4);
  EXPECT_EQ(MeanShare::of({0.5}).high, 1);
}

TEST(Heads, DamagedAndAbsentFilesCostTheirPartOnly) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  EXPECT_EQ(body_of(render_report(dir / "run")).find("heads"), std::string::npos);  // an option: nothing is missing
  Json wrong = rows()[0];
  wrong["mass"] = {{0.1, "x"}, {0.2, 0.3}};
  Json uneven = rows()[0];
  uneven["layers"] = {3};
  dir.write("run/heads.jsonl", lines({rows()[0], wrong, uneven}) + R"({"stage":"end","id":"p0")");
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("heads.jsonl: lines 2, 3 could not be read and were left out."), std::string::npos);
  EXPECT_NE(body.find("The last line of heads.jsonl is cut off and was left out."), std::string::npos);
  EXPECT_NE(body.find("layer 3, head 0, before SFT: 5% of its attention on the needle (1 prompt)"), std::string::npos);
  EXPECT_EQ(body.find("In SFT"), std::string::npos);
}

}  // namespace
}  // namespace qkr
