// The page's numbers are those of the JSON lines.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/report/run_folder.h"
#include "trainer/report/figures.h"

namespace qkr {
namespace {

using namespace test;

struct Measurement {
  std::string stage;
  int64_t step;
  int every;  // one prompt in so many is missed
};

// Two tasks, two lengths, five measurements, sizes and hits that differ everywhere.
std::vector<Json> grid() {
  std::vector<Json> rows;
  for (const auto& [stage, step, every] : std::vector<Measurement>{
           {"start", 0, 7}, {"step", 4, 4}, {"step", 6, 3}, {"end", 8, 2}, {"restored", 8, 5}}) {
    for (const std::string task : {"niah_single_2", "niah_single_1"}) {
      for (const int64_t length : {2048, 512}) {
        const int n = task == "niah_single_1" ? 13 : length == 512 ? 9 : 21;
        add_cell(rows, stage, step, task, length, n, [&, period = every](int i) { return (i + length / 512) % period != 0; });
      }
    }
  }
  return rows;
}

TEST(Numbers, EveryRateIsRecountedFromTheLines) {
  const TmpDir dir;
  const std::vector<Json> rows = grid();
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const Json recall = data_of(render_report(dir / "run"))["recall"];
  ASSERT_EQ(recall["stages"].size(), 5u);
  size_t checked = 0;
  for (const Json& cell : recall["cells"]) {
    const Json& stage = recall["stages"][cell["stage"].get<size_t>()];
    int hits = 0, n = 0;
    for (const Json& row : rows) {
      if (row["stage"] != stage["stage"] || row["step"] != stage["step"]) continue;
      if (!cell["task"].is_null() && (row["task"] != cell["task"] || row["length"] != cell["length"])) continue;
      ++n;
      hits += row["hit"].get<bool>();
    }
    EXPECT_EQ(cell["n"], n) << cell;
    EXPECT_EQ(cell["hits"], hits) << cell;
    EXPECT_DOUBLE_EQ(cell["rate"].get<double>(), static_cast<double>(hits) / n);
    EXPECT_LT(cell["low"].get<double>(), cell["rate"].get<double>());
    EXPECT_GE(cell["high"].get<double>(), cell["rate"].get<double>());
    ++checked;
  }
  EXPECT_EQ(checked, 5u * 5u);
}

TEST(Numbers, EveryPairIsRecountedFromTheLines) {
  const TmpDir dir;
  const std::vector<Json> rows = grid();
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const Json recall = data_of(render_report(dir / "run"))["recall"];
  std::map<std::string, std::map<std::string, bool>> hit;  // stage, id
  for (const Json& row : rows) hit[row["stage"]][row["id"]] = row["hit"];
  std::set<std::pair<std::string, std::string>> seen;
  for (const Json& pair : recall["paired"]) {
    const std::string from = recall["stages"][pair["from"].get<size_t>()]["stage"];
    const std::string to = recall["stages"][pair["to"].get<size_t>()]["stage"];
    seen.emplace(from, to);
    int both = 0, lost = 0, gained = 0, neither = 0;
    for (const Json& row : rows) {
      if (row["stage"] != from) continue;
      if (!pair["task"].is_null() && (row["task"] != pair["task"] || row["length"] != pair["length"])) continue;
      const bool before = row["hit"], after = hit[to].at(row["id"]);
      both += before && after;
      lost += before && !after;
      gained += !before && after;
      neither += !before && !after;
    }
    EXPECT_EQ(pair["both"], both);
    EXPECT_EQ(pair["lost"], lost);
    EXPECT_EQ(pair["gained"], gained);
    EXPECT_EQ(pair["neither"], neither);
    EXPECT_DOUBLE_EQ(pair["difference"].get<double>(), static_cast<double>(gained - lost) / (both + lost + gained + neither));
  }
  const std::set<std::pair<std::string, std::string>> want = {{"start", "end"}, {"end", "restored"}, {"start", "restored"}};
  EXPECT_EQ(seen, want);
  EXPECT_EQ(recall["paired"].size(), 3u * 5u);
}

// a, b, c, d = 25, 10, 2, 13: difference .16, interval [.02, .29], McNemar .039 (Newcombe 1998, method 10). And the page shows it.
TEST(Numbers, PairedStatisticsAreTheTabulatedOnes) {
  const TmpDir dir;
  std::vector<Json> rows;
  add_cell(rows, "start", 0, "niah_single_1", 1024, 50, [](int i) { return i < 35; });
  add_cell(rows, "end", 5, "niah_single_1", 1024, 50, [](int i) { return i < 25 || (i >= 35 && i < 37); });
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string page = render_report(dir / "run");
  const Json paired = data_of(page)["recall"]["paired"];
  const Json& pair = cell_of(paired, [](const Json& cell) { return cell["task"].is_null(); });
  EXPECT_DOUBLE_EQ(pair["difference"].get<double>(), -0.16);
  EXPECT_NEAR(pair["low"].get<double>(), -0.29, 0.005);
  EXPECT_NEAR(pair["high"].get<double>(), -0.02, 0.005);
  EXPECT_NEAR(pair["p"].get<double>(), 0.0386, 0.0001);
  const std::string body = body_of(page);
  EXPECT_NE(body.find("Recall 70% before SFT → 54% after SFT"), std::string::npos);
  EXPECT_NE(body.find("SFT lost recall: −16.0 points [−28.6, −2.5] over 50 prompts, McNemar p = 0.039."), std::string::npos);
  EXPECT_NE(body.find(">−16.0</td>"), std::string::npos);
  EXPECT_NE(body.find(">0.039</td>"), std::string::npos);
  // Wilson for 35 and 27 of 50.
  const std::string n = "<td class=\"num\">50</td><td class=\"num soft\">";
  EXPECT_NE(body.find("title=\"35 of 50 found\">70.0%</td>" + n + "56.2–80.9</td>"), std::string::npos);
  EXPECT_NE(body.find("title=\"27 of 50 found\">54.0%</td>" + n + "40.4–67.0</td>"), std::string::npos);
}

TEST(Numbers, LogColumnsAreTheLinesToTheLastBit) {
  const TmpDir dir;
  const std::vector<Json> rows = log_rows(30);
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", lines(rows));
  const Json log = data_of(render_report(dir / "run"))["log"];
  for (const char* column : {"step", "loss", "grad_norm", "lr"}) {
    ASSERT_EQ(log[column].size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(log[column][i], rows[i][column]) << column << " " << i;
  }
}

TEST(Numbers, AStepLoggedTwiceCountsOnce) {
  const TmpDir dir;
  std::vector<Json> rows = log_rows(6);
  Json again = rows[3];
  again["loss"] = 42.5;
  rows.push_back(again);  // as after a resume from step 3
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", lines(rows));
  const std::string page = render_report(dir / "run");
  const Json log = data_of(page)["log"];
  EXPECT_EQ(log["step"], Json({1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(log["loss"][3], 42.5);
  EXPECT_NE(page.find("log.jsonl holds 1 step twice"), std::string::npos);
}

TEST(Numbers, APromptMeasuredTwiceCountsOnce) {
  const TmpDir dir;
  std::vector<Json> rows;
  add_cell(rows, "start", 0, "niah_single_1", 512, 4, [](int) { return false; });
  rows.push_back(probe_row("start", 0, "niah_single_1", 512, 2, true));
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const Json recall = data_of(render_report(dir / "run"))["recall"];
  EXPECT_EQ(recall["cells"][0]["n"], 4);
  EXPECT_EQ(recall["cells"][0]["hits"], 1);
}

TEST(Numbers, DepthMapCountsEachPromptInOneBand) {
  const TmpDir dir;
  std::vector<Json> rows;
  for (int index = 0; index < 50; ++index) {
    rows.push_back(probe_row("start", 0, "niah_single_1", 4096, index, index % 2 == 0));
    rows.back()["depth"] = index < 49 ? index * 2 : 100;  // 0, 2, … 96 and 100: five a band of ten
  }
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_EQ(count_of(body, "<g><title>"), 11u);  // and all depths together
  EXPECT_NE(body.find("<title>niah_single_1, 4,096 tokens, depth 0–9%: 3 of 5 found (60%, 95% interval 23.1% to 88.2%)</title>"),
            std::string::npos);
  EXPECT_NE(body.find("depth 90–100%: 2 of 5 found"), std::string::npos);
  EXPECT_EQ(count_of(body, ">3/5</text>"), 5u);
  EXPECT_EQ(count_of(body, ">2/5</text>"), 5u);
  EXPECT_NE(body.find("all depths: 25 of 50 found (50%, 95% interval 36.6% to 63.4%)"), std::string::npos);
  EXPECT_NE(body.find(">4K</text>"), std::string::npos);
}

// One band loses 6 of 6, one 5 of 6, one nothing: p = .031, .062, 1. By itself the first is significant; of three cells, by Holm's
// rule, none; with ten prompts (p = .002) it stays.
TEST(Numbers, DifferenceMapMarksWhatIsSignificant) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  const auto body_for = [&](int in_first) {
    std::vector<Json> rows;
    const auto add = [&](int index, double depth, bool before, bool after) {
      for (const auto& [stage, hit] : {std::pair("start", before), std::pair("end", after)}) {
        rows.push_back(probe_row(stage, stage == std::string("end") ? 5 : 0, "niah_single_1", 4096, index, hit));
        rows.back()["depth"] = depth;
      }
    };
    int index = 0;
    for (int i = 0; i < in_first; ++i) add(index++, 10, true, false);
    for (int i = 0; i < 6; ++i) add(index++, 30, true, i == 0);
    for (int i = 0; i < 6; ++i) add(index++, 50, true, true);
    dir.write("run/probe.jsonl", lines(rows));
    return body_of(render_report(dir / "run"));
  };
  const std::string body = body_for(6);
  EXPECT_NE(body.find("niah_single_1, 4,096 tokens, depth 0–19%: −100.0 points over 6 prompts (6 lost, 0 gained, 95% interval −100.0 to −44.8, "
                      "McNemar p 0.031, significant by itself)"),
            std::string::npos) << body.substr(body.find("−100.0 points over"), 300);
  EXPECT_EQ(count_of(body, ">−100*</text>"), 1u);
  EXPECT_EQ(count_of(body, ">−83</text>"), 1u);
  EXPECT_EQ(count_of(body, ">0</text>"), 1u);
  EXPECT_EQ(count_of(body, ">−61*</text>"), 1u);  // all depths
  EXPECT_EQ(count_of(body, "class=\"ring\""), 0u);
  const std::string sure = body_for(10);
  EXPECT_EQ(count_of(sure, "class=\"ring\""), 1u);
  EXPECT_NE(sure.find("McNemar p 0.002, significant over all cells of the map)"), std::string::npos);
}

// Seven lost here and seven gained there, p = .016 each: three cells are tested, and the row that sums them up (p = 1) is none of them.
TEST(Numbers, DifferenceMapDoesNotTestItsSum) {
  const TmpDir dir;
  std::vector<Json> rows;
  for (int index = 0; index < 20; ++index) {
    for (const std::string stage : {"start", "end"}) {
      const bool hit = index < 7 ? stage == "start" : index < 14 ? stage == "end" : true;
      rows.push_back(probe_row(stage, stage == "end" ? 5 : 0, "niah_single_1", 4096, index, hit));
      rows.back()["depth"] = index < 7 ? 10 : index < 14 ? 30 : 50;
    }
  }
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_EQ(count_of(body, "class=\"ring\""), 2u);
  EXPECT_EQ(count_of(body, ">+100*</text>"), 1u);
}

// alpha / 4, / 3, / 2: the first that fails ends it.
TEST(Numbers, HolmAsInItsDefinition) {
  EXPECT_EQ(holm({0.01, 0.04, 0.03, 0.005}), (std::vector<bool>{true, false, false, true}));  // Holm 1979's example as textbooks give it
  EXPECT_EQ(holm({0.013, 0.016, 0.024, 0.049}), (std::vector<bool>{false, false, false, false}));
  EXPECT_EQ(holm({0.012, 0.016, 0.024, 0.049}), (std::vector<bool>{true, true, true, true}));
  EXPECT_TRUE(holm({}).empty());
}

// The second reading of the same prompts has a table of its own and is counted nowhere else.
TEST(Numbers, TwoReadingsAreNotAddedUp) {
  const TmpDir dir;
  std::vector<Json> rows;
  add_cell(rows, "end", 5, "niah_single_1", 4096, 10, [](int i) { return i < 8; });
  for (int i = 0; i < 10; ++i) {
    Json row = rows[static_cast<size_t>(i)];
    row["reading"] = "teacher_forced";
    row["hit"] = i < 3;
    rows.push_back(row);
  }
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("Recall 80% after SFT"), std::string::npos);
  EXPECT_NE(body.find("By the second reading"), std::string::npos);
  EXPECT_NE(body.find("3 of 10 found"), std::string::npos);
  EXPECT_NE(body.find("reading generate, mode base; reading teacher_forced, mode base"), std::string::npos);
  dir.write("run/probe.jsonl", lines({rows.begin() + 10, rows.end()}));  // alone it is what is scored
  EXPECT_NE(body_of(render_report(dir / "run")).find("Recall 30% after SFT"), std::string::npos);
}

TEST(Numbers, StagesBetweenTheStepsHaveNames) {
  const TmpDir dir;
  std::vector<Json> rows;
  for (const std::string stage : {"step-40", "step-40-restored"}) add_cell(rows, stage, 40, "niah_single_1", 4096, 2, [](int i) { return i < 1; });
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const Json stages = data_of(render_report(dir / "run"))["recall"]["stages"];
  EXPECT_EQ(stages[0]["label"], "step 40");
  EXPECT_EQ(stages[1]["label"], "step 40, restored");
}

TEST(Numbers, RestoredLayersShowEveryField) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  dir.write("run/restore.json",
            R"({"method":"procrustes","anchor":0.01,"layers":[
                {"k_change":0.0123456,"layer":3,"mu":2.5,"new_number":17,"certificate":{"cholesky":true,"skew":1.25e-13}},
                {"k_change":0.02,"layer":7,"mu":null,"new_number":18,"certificate":null,"written":["a.weight","b.weight"]}],
                "snapshot_sha256":"cafe"})");
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("<th scope=\"col\" class=\"num\">layer</th><th scope=\"col\" class=\"num\">k change</th><th scope=\"col\" "
                      "class=\"num\">mu</th><th scope=\"col\" class=\"num\">skew</th><th scope=\"col\">cholesky</th>"
                      "<th scope=\"col\" class=\"num\">new number</th><th scope=\"col\" class=\"num\">written</th>"),
            std::string::npos);
  EXPECT_NE(body.find("<tr><td class=\"num\">3</td><td class=\"num\" title=\"0.0123456\">0.01235</td><td class=\"num\">2.5</td>"
                      "<td class=\"num\" title=\"1.25e-13\">1.25e−13</td><td>yes</td><td class=\"num\">17</td>"
                      "<td class=\"num\">–</td></tr>"),
            std::string::npos);
  EXPECT_NE(body.find("<dt>snapshot sha256</dt><dd>cafe</dd>"), std::string::npos);
}

}  // namespace
}  // namespace qkr
