// What hooks measured, as curves that need no script.
#include <gtest/gtest.h>

#include "tests/report/run_folder.h"
#include "tests/support/fixtures.h"

namespace qkr {
namespace {

using namespace test;

std::string body_with(const std::vector<Json>& log) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", lines(log));
  return body_of(render_report(dir / "run"));
}

TEST(HookCurves, AreDrawnFromStepsAndFromRowsOfTheirOwn) {
  std::vector<Json> log = log_rows(4);
  log[0]["hook/drift/moved"] = 1;
  log[1]["hook/drift/moved"] = 3;
  log[2]["hook/drift/moved"] = nullptr;  // as NaN is written
  log[3]["hook/drift/moved"] = 2;
  log[3]["hook/ema/text"] = "no number";
  log.push_back({{"step", 2}, {"event", "on_probe step-2"}, {"hook/recall<b>/s1", 50.5}});
  const std::string body = body_with(log);
  EXPECT_EQ(count_of(body, "<svg class=\"curve\""), 2u);
  EXPECT_NE(body.find("d=\"M64.0 62.0h0L124.0 8.0M244.0 35.0h0\""), std::string::npos);
  EXPECT_NE(body.find("<title>drift/moved: 3 values, 1 to 3, the last 2 at step 4</title>"), std::string::npos) << body;
  EXPECT_NE(body.find("<figcaption>drift/moved <span class=\"soft\">2</span></figcaption>"), std::string::npos);
  EXPECT_NE(body.find("recall&lt;b&gt;/s1: 1 value, 50.5 to 50.5, the last 50.5 at step 2"), std::string::npos);
  EXPECT_NE(body.find("d=\"M154.0 35.0h0\""), std::string::npos);  // one value is a dot in the middle
  EXPECT_EQ(body.find("ema"), std::string::npos);
  EXPECT_EQ(body_with(log_rows(4)).find("What hooks measured"), std::string::npos);
}

TEST(HookCurves, OfAStepLoggedTwiceTheLaterValueCounts) {
  std::vector<Json> log = log_rows(3);
  for (Json& row : log) row["hook/a/x"] = 7;
  log.push_back(log[1]);
  log.back()["hook/a/x"] = -9;
  const std::string body = body_with(log);
  EXPECT_NE(body.find("a/x: 3 values, −9 to 7, the last 7 at step 3"), std::string::npos) << body;
}

TEST(HookCurves, ManyStepsAndManyMetricsStaySmall) {
  std::vector<Json> log = log_rows(5000);
  for (size_t i = 0; i < log.size(); ++i) log[i]["hook/a/x"] = i % 7;
  for (int metric = 0; metric < 60; ++metric) log[0]["hook/b/m" + std::to_string(100 + metric)] = nullptr;
  const std::string body = body_with(log);
  const size_t begin = body.find("class=\"line\""), path = body.find(" d=\"", begin);
  EXPECT_EQ(count_of(body.substr(path, body.find("/>", path) - path), "L"), 299u);
  EXPECT_NE(body.find("a/x: 5,000 values, 0 to 6, the last 1 at step 5,000"), std::string::npos);
  EXPECT_NE(body.find("<figcaption>b/m100</figcaption>\n<p class=\"hint\">Never a number.</p>"), std::string::npos);
  EXPECT_NE(body.find("13 more are in log.jsonl"), std::string::npos);
}

}  // namespace
}  // namespace qkr
