// The page holds for any input: hostile text, absent and torn files; it is one file, asks no network, and never changes by itself.
#include <gtest/gtest.h>

#include "tests/report/run_folder.h"
#include "tests/support/fixtures.h"
#include "trainer/core/error.h"
#include "trainer/report/html.h"

namespace qkr {
namespace {

using namespace test;

const char* const kHostile = "</script><script>alert(1)</script><img src=x onerror=\"alert('2')\"> & \x01\x1b </title>";

// A whole run, in which every text is `text`.
void write_run(const TmpDir& dir, const std::string& text) {
  std::vector<Json> rows;
  for (const std::string stage : {"start", "step", "end", "restored"}) {
    for (int index = 0; index < 6; ++index) {
      Json row = probe_row(stage, stage == "start" ? 0 : stage == "step" ? 3 : 6, "niah" + text, 1024, index, stage != "end");
      for (const char* key : {"id", "key", "value", "prediction", "stopped", "mode", "reading", "haystack", "sentence_rule"}) {
        row[key] = row[key].get<std::string>() + text;
      }
      row["outputs"] = {text};
      rows.push_back(row);
    }
  }
  rows.push_back(probe_row("stage" + text, 4, "niah" + text, 1024, 0, true));
  dir.write("run/probe.jsonl", lines(rows));
  dir.write("run/log.jsonl", lines(log_rows(6)));
  dir.write("run/config.yaml", "model:\n  path: 'm" + std::string(text == kHostile ? "</pre><script>" : "") + "'\n# " + text + "\n");
  dir.write("run/restore.json", Json({{"method", text}, {text, text}, {"layers", {{{"layer", 0}, {text, text}, {"mu", 0.5}}}}}).dump());
  dir.write("run/summary.json", Json({{"status", text}, {"message", text}, {"model", text}, {text, {text, 1}}}).dump());
}

TEST(Page, EscapesEveryTextOfTheRun) {
  const TmpDir dir;
  write_run(dir, kHostile);
  const std::string page = render_report(dir / "run");
  const TmpDir tame_dir;
  write_run(tame_dir, "tame");
  const std::string tame = render_report(tame_dir / "run");
  // The same elements as in the page of a tame run: no text became markup.
  for (const std::string tag : {"<script", "</script", "<img", "<title", "</title", "<pre", "<td", "<div", "<g>"}) {
    EXPECT_EQ(count_of(page, tag), count_of(tame, tag)) << tag;
  }
  EXPECT_EQ(count_of(page, "<script"), 4u);  // one in the head, the data, uPlot, the page's own
  EXPECT_NE(page.find("&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;2&#39;)&quot;&gt;"),
            std::string::npos);
  for (const char character : page) EXPECT_TRUE(static_cast<unsigned char>(character) >= 0x20 || character == '\n' || character == '\t');
  EXPECT_EQ(data_of(page)["recall"]["tasks"][0], "niah" + std::string(kHostile));
}

TEST(Page, MalformedUtf8BecomesReplacementCharacters) {
  EXPECT_EQ(html::escape("a\xFFz"), "a\xEF\xBF\xBDz");
  EXPECT_EQ(html::escape("\xC3"), "\xEF\xBF\xBD");
  EXPECT_EQ(html::escape("ü€😀\n\t"), "ü€😀\n\t");
  EXPECT_EQ(html::escape(std::string_view("\0\x7F\xC2\x85", 4)), "␀␡\xEF\xBF\xBD");
  EXPECT_EQ(html::script_json({{"a", "</script><!--"}}), "{\"a\":\"\\u003c/script>\\u003c!--\"}");
  EXPECT_EQ(html::one_line("äöü\nß", 4), "äöü⏎…");
  EXPECT_EQ(html::one_line("äöü\nß", 5), "äöü⏎ß");
}

TEST(Page, NumbersReadWell) {
  EXPECT_EQ(html::percent(0.41333), "41.3%");
  EXPECT_EQ(html::percent(1), "100%");
  EXPECT_EQ(html::percent(0), "0%");
  EXPECT_EQ(html::percent_fixed(1), "100.0%");
  EXPECT_EQ(html::points(0.47), "+47.0");
  EXPECT_EQ(html::points(-0.5), "−50.0");
  EXPECT_EQ(html::points(-0.0001), "0.0");
  EXPECT_EQ(html::p_value(0.0386), "0.039");
  EXPECT_EQ(html::p_value(2.4e-7), "2.4e−07");
  EXPECT_EQ(html::p_value(1e-40), "< 1e−15");
  EXPECT_EQ(html::p_value(1), "1");
  EXPECT_EQ(html::number(1234567), "1,234,567");
  EXPECT_EQ(html::number(-0.000123456), "−0.0001235");
  EXPECT_EQ(html::number(1e-9), "1e−09");
  EXPECT_EQ(html::number(12345.6), "12,346");
}

TEST(Page, IsOneFileThatAsksNoNetwork) {
  const TmpDir dir;
  write_run(dir, "plain");
  std::string page = render_report(dir / "run");
  const std::string licence = "/*! https://github.com/leeoniya/uPlot (v1.6.32) */";
  ASSERT_EQ(count_of(page, licence), 1u);
  page.erase(page.find(licence), licence.size());
  for (const std::string word : {"http://", "https://", "src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "WebSocket"}) {
    EXPECT_EQ(page.find(word), std::string::npos) << word;
  }
  EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
}

TEST(Page, TwoRendersAreTheSameBytes) {
  const TmpDir dir;
  write_run(dir, "plain");
  const std::string first = render_report(dir / "run");
  EXPECT_EQ(write_report(dir / "run"), dir / "run" / "report.html");
  EXPECT_EQ(read_file(dir / "run" / "report.html"), first);
  EXPECT_EQ(render_report(dir / "run"), first);           // the written report is no input
  EXPECT_EQ(render_report((dir / "run").string() + "/"), first);
  EXPECT_FALSE(std::filesystem::exists(dir / "run" / "report.html.partial"));
}

TEST(Page, SaysWhatIsMissing) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  const std::string body = body_of(render_report(dir / "run"));
  for (const std::string file : {"log.jsonl", "probe.jsonl", "restore.json", "summary.json"}) {
    EXPECT_NE(body.find("There is no " + file), std::string::npos) << file;
  }
  EXPECT_NE(body.find("Recall was not measured in this run"), std::string::npos);
  EXPECT_NE(body.find("not finished"), std::string::npos);
  EXPECT_NE(body.find("models/tiny"), std::string::npos);  // from the configuration
  EXPECT_EQ(body.find("chart-loss"), std::string::npos);
}

// What a file says a number is need not fit an integer.
TEST(Page, TakesNumbersOfAnySize) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", lines({{{"step", 1e300}, {"loss", 1e300}, {"memory_bytes", 1e24}}, {{"step", 1}, {"loss", 2}, {"memory_bytes", -1e24}}}));
  Json row = probe_row("start", 0, "niah_single_1", 1024, 0, true);
  row["depth"] = 1e300;
  row["step"] = -1e300;
  row["length"] = 1e19;
  dir.write("run/probe.jsonl", lines({row}));
  dir.write("run/heads.jsonl", lines({{{"stage", "start"}, {"step", 1e300}, {"id", "a"}, {"length", 1e300}, {"layers", {0}}, {"mass", {{1e300}}}}}));
  dir.write("run/summary.json", R"({"status": "finished", "seconds": 1e300, "peak_memory_bytes": 1e300, "steps": 1e300})");
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("<dt>steps</dt><dd>1e+300</dd>"), std::string::npos);
  EXPECT_NE(body.find("<dt>time</dt><dd title=\"1e+300 s\">?</dd>"), std::string::npos);
  EXPECT_NE(body.find("8388608.0 TiB"), std::string::npos);  // 2^63 bytes
}

TEST(Page, ShowsHowTheRunEnded) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  const auto body_for = [&](const Json& summary) {
    dir.write("run/summary.json", summary.dump());
    return body_of(render_report(dir / "run"));
  };
  EXPECT_NE(body_for({{"status", "finished"}}).find("<span class=\"badge good\">finished</span>"), std::string::npos);
  EXPECT_NE(body_for({{"status", "stopped"}}).find("<span class=\"badge open\">stopped</span>"), std::string::npos);
  const std::string failed = body_for({{"status", "failed"}, {"message", "step 4: NaN <here>"}, {"seconds", 3725.0}, {"steps", 12345}});
  EXPECT_NE(failed.find("<span class=\"badge bad\">failed</span>"), std::string::npos);
  EXPECT_NE(failed.find("<p class=\"message\">step 4: NaN &lt;here&gt;</p>"), std::string::npos);
  EXPECT_NE(failed.find("<dt>time</dt><dd title=\"3725.0 s\">1h02m</dd>"), std::string::npos);
  EXPECT_NE(failed.find("<dt>steps</dt><dd title=\"12345\">12,345</dd>"), std::string::npos);
}

TEST(Page, ListsTheGatesThatWereBroken) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  Json events = Json::array();
  for (int step = 1; step <= 14; ++step) events.push_back({{"step", 100 * step}, {"event", "gate"}, {"action", "warn"}, {"reason", concat("recall <", step, ">")}});
  dir.write("run/summary.json", Json({{"status", "finished"}, {"gates", events}}).dump());
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("<li>2 earlier gate events are in log.jsonl.</li>"), std::string::npos);
  EXPECT_NE(body.find("<li>Gate, warn, step 1,400: recall &lt;14&gt;.</li>"), std::string::npos);
  EXPECT_EQ(body.find("recall &lt;2&gt;"), std::string::npos);
  EXPECT_EQ(body.find("<dt>gates</dt>"), std::string::npos);
}

TEST(Page, LeavesOutATornLastLineAndSaysSo) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", lines(log_rows(3)) + R"({"step":4,"loss":1.2)");
  const std::string page = render_report(dir / "run");
  EXPECT_EQ(data_of(page)["log"]["step"], Json({1, 2, 3}));
  EXPECT_NE(page.find("The last line of log.jsonl is cut off and was left out."), std::string::npos);
}

TEST(Page, NamesLinesThatItCouldNotRead) {
  const TmpDir dir;
  std::vector<Json> rows = log_rows(2);
  rows[1]["loss"] = nullptr;  // a loss that was not finite
  dir.write("run/config.yaml", kConfig);
  dir.write("run/log.jsonl", "nonsense\n" + lines(rows) + "[1]\n{\"loss\":1}\n\n");
  dir.write("run/restore.json", "[]");
  const std::string page = render_report(dir / "run");
  EXPECT_EQ(data_of(page)["log"]["step"], Json({1, 2}));
  EXPECT_TRUE(data_of(page)["log"]["loss"][1].is_null());
  EXPECT_NE(page.find("log.jsonl: lines 1, 4, 5 could not be read and were left out."), std::string::npos);
  EXPECT_NE(page.find("restore.json is not a JSON object and was left out."), std::string::npos);
}

TEST(Page, ShowsWhatAutoTried) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  const Json share = {{"hits", 3}, {"n", 4}, {"recall", 0.75}, {"low", 0.301}, {"high", 0.954}};
  const auto candidate = [&](const std::string& name, const std::string& standing, double loss) {
    Json one = share;
    one.update({{"candidate", name}, {"standing", standing}, {"held_out_loss", loss}, {"loss_increase", 0.0147}, {"difference", -0.25},
                {"difference_low", -0.5}, {"difference_high", 0.125}});
    return one;
  };
  Json tried = {{"chosen", "plain"}, {"best", "plain"}, {"held_out_rows", 32}, {"max_loss_increase", 0.02},
                {"candidates", {candidate("none", "worse than the best", 0.685), candidate("plain", "chosen", 0.695),
                                {{"candidate", "procrustes-head"}, {"standing", "refused"}, {"reason", "gains <differ>"}}}},
                {"lost", {{"verdict", "nothing lost"}, {"text", "nothing was lost by <fine-tuning>"}}},
                {"other_half", {{"none", share}, {"chosen", share}, {"difference", 0.25}, {"difference_low", 0.01}, {"difference_high", 0.5}, {"p", 0.031}}}};
  const auto body = [&] {
    dir.write("run/restore.json", Json({{"method", "plain"}, {"auto", tried}, {"layers", {{{"layer", 0}, {"mu", 0.5}}}}, {"selected_layers", "linear"}}).dump());
    return body_of(render_report(dir / "run"));
  };
  const std::string page = body();
  for (const char* text : {"Of the candidates, plain was chosen.", ">none</th>", "<td class=\"num\">0.685</td>", "+1.5%", "75.0% [30.1%, 95.4%]",
                           "−25.0 [−50.0, +12.5]", "refused: gains &lt;differ&gt;", "Before any restore: nothing was lost by &lt;fine-tuning&gt;.", "32 rows that were not trained on, which may rise by 2 %",
                           "none 75.0% [30.1%, 95.4%], plain 75.0% [30.1%, 95.4%]: +25.0 [+1.0, +50.0] points, McNemar p 0.031",
                           "<dt>layers</dt><dd>1 (0)</dd>", "<dt>selected layers</dt><dd>linear</dd>"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text << "\n" << page.substr(page.find("What was restored"));
  }
  EXPECT_EQ(page.find("softmax layers"), std::string::npos);
  tried["chosen"] = "none";
  EXPECT_NE(body().find("No candidate beats none, so the tuned weights stay."), std::string::npos);
  for (const Json& broken : {Json("text"), Json::object(), Json{{"candidates", 3}, {"other_half", 4}}, Json{{"candidates", {1}}, {"other_half", Json::object()}}}) {
    tried = broken;
    EXPECT_NE(body().find("What was restored"), std::string::npos);
  }
}

// Whatever was selected is what the page says.
TEST(Page, SaysWhichLayersAndPartsWentBack) {
  const TmpDir dir;
  dir.write("run/config.yaml", kConfig);
  const auto body = [&](const Json& restore) {
    dir.write("run/restore.json", restore.dump());
    return body_of(render_report(dir / "run"));
  };
  const auto layer = [](int number, const char* type) { return Json{{"layer", number}, {"type", type}, {"written", {"a", "b"}}}; };
  EXPECT_NE(body({{"method", "procrustes"}, {"parts", "qk"}, {"layers", {layer(3, "softmax"), layer(7, "softmax")}}})
                .find("<p>procrustes put back W_Q and W_K in the layers 2 softmax (3, 7): 4 tensors.</p>"), std::string::npos);
  const std::string wide = body({{"method", "plain"}, {"parts", "o"}, {"layers", {layer(0, "linear"), layer(1, "linear"), layer(2, "linear"), layer(3, "softmax")}}});
  EXPECT_NE(wide.find("<p>plain put back W_O in the layers 3 linear (0 to 2) and 1 softmax (3): 8 tensors.</p>"), std::string::npos);
  EXPECT_NE(wide.find("<dt>parts</dt><dd>W_O</dd>"), std::string::npos);
  EXPECT_NE(body({{"method", "plain"}, {"parts", "norms"}, {"layers", {layer(3, "softmax")}}}).find("put back the norms’ gains in"), std::string::npos);
  EXPECT_NE(body({{"method", "plain"}, {"layers", {{{"layer", 4}, {"written", {"a"}}}}}}).find("<p>plain put back the layers 1 (4): 1 tensor.</p>"), std::string::npos);
  EXPECT_EQ(body({{"method", "none"}, {"layers", {layer(3, "softmax")}}}).find("put back W"), std::string::npos);
}

TEST(Page, RefusesWhatIsNoRun) {
  const TmpDir dir;
  EXPECT_NE(QKR_MESSAGE_OF(render_report(dir / "absent")).find("absent: must be a run's folder"), std::string::npos);
  std::filesystem::create_directory(dir / "empty");
  EXPECT_NE(QKR_MESSAGE_OF(render_report(dir / "empty")).find("config.yaml: must be a file"), std::string::npos);
}

// What the sentences may say is decided by the test, not by the sign of the difference.
TEST(Headline, SaysNoMoreThanTheNumbersDo) {
  const auto body_for = [](int start, int end, int restored) {
    const TmpDir dir;
    std::vector<Json> rows;
    add_cell(rows, "start", 0, "niah_single_1", 1024, 40, [&](int i) { return i < start; });
    add_cell(rows, "end", 5, "niah_single_1", 1024, 40, [&](int i) { return i < end; });
    add_cell(rows, "restored", 5, "niah_single_1", 1024, 40, [&](int i) { return i < restored; });
    dir.write("run/config.yaml", kConfig);
    dir.write("run/probe.jsonl", lines(rows));
    return body_of(render_report(dir / "run"));
  };
  const auto says = [](const std::string& body, const std::string& sentence) { return body.find(sentence) != std::string::npos; };
  std::string body = body_for(38, 10, 30);
  EXPECT_TRUE(says(body, "Recall 95% before SFT → 25% after SFT → 75% restored"));
  EXPECT_TRUE(says(body, "SFT lost recall: −70.0 points"));
  EXPECT_TRUE(says(body, "The restore brought recall back: +50.0 points"));
  EXPECT_TRUE(says(body, "still recalls less than before SFT: −20.0 points"));
  body = body_for(38, 33, 36);  // five lost, three gained: p = .06 and .25
  EXPECT_TRUE(says(body, "SFT made no significant change to recall: −12.5 points"));
  EXPECT_TRUE(says(body, "The restore made no significant change to recall: +7.5 points"));
  EXPECT_TRUE(says(body, "does not differ significantly from before SFT: −5.0 points"));
  body = body_for(38, 36, 10);
  EXPECT_TRUE(says(body, "The restore made recall worse: −65.0 points"));
  body = body_for(20, 20, 30);  // nothing was lost, so nothing was brought back
  EXPECT_TRUE(says(body, "The restore gained recall: +25.0 points"));
  EXPECT_TRUE(says(body, "recalls more than before SFT: +25.0 points"));
  EXPECT_FALSE(says(body, "brought"));
}

TEST(Headline, OneMeasurementIsComparedWithNothing) {
  const TmpDir dir;
  std::vector<Json> rows;
  add_cell(rows, "start", 0, "niah_single_1", 1024, 4, [](int i) { return i > 0; });
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("Recall 75% before SFT</p>"), std::string::npos);
  EXPECT_NE(body.find("There is no second measurement to compare it with."), std::string::npos);
  EXPECT_EQ(body.find("Paired differences"), std::string::npos);
}

TEST(Missed, ListsEveryMissWithItsPrediction) {
  const TmpDir dir;
  std::vector<Json> rows;
  add_cell(rows, "end", 5, "niah_single_1", 1024, 250, [](int i) { return i == 0; });
  rows[1]["prediction"] = std::string(500, 'x') + "needle";
  dir.write("run/config.yaml", kConfig);
  dir.write("run/probe.jsonl", lines(rows));
  const std::string body = body_of(render_report(dir / "run"));
  EXPECT_NE(body.find("After SFT: 249 of 250"), std::string::npos);
  EXPECT_NE(body.find("The first 200 of them; all are in probe.jsonl."), std::string::npos);
  EXPECT_EQ(count_of(body, "mono prediction"), 200u);
  EXPECT_NE(body.find(std::string(160, 'x') + "…"), std::string::npos);
  EXPECT_EQ(body.find("needle</bdi>"), std::string::npos);
}

}  // namespace
}  // namespace qkr
