// Sections that stand several times (gate, hooks): lists of maps in YAML, by --set as a whole or key by key, dumped, described, in the schema.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/tmpdir.h"
#include "trainer/config/fields.h"
#include "trainer/config/gate_metric.h"
#include "trainer/config/parse.h"

namespace qkr {
namespace {

const std::string kLeast = "model: {path: base}\ndata: {train: [a.jsonl]}\noutput: runs/x\nprobe: {lengths: [4096, 8192]}\n";  // lines 1 to 4

RunConfig parse(const std::string& more, const std::vector<std::string>& set = {}) { return parse_config(kLeast + more, "c.yaml", set); }
std::string error_of(const std::string& more, const std::vector<std::string>& set = {}) { return QKR_MESSAGE_OF(parse(more, set)); }

TEST(ListSections, AreReadInTheirOrderWithDefaults) {
  const RunConfig config = parse(
      "gate:\n"
      "  - metric: probe/niah_single_2/8192\n    max_drop: 10\n    for: 2\n    action: stop\n    rule: lower\n"
      "  - {metric: loss, max: 5.5}\n");
  ASSERT_EQ(config.gate.size(), 2u);
  EXPECT_EQ(config.gate[0].metric, "probe/niah_single_2/8192");
  EXPECT_EQ(config.gate[0].max_drop, 10.0);
  EXPECT_EQ(config.gate[0].min, std::nullopt);
  EXPECT_EQ(config.gate[0].in_a_row, 2);
  EXPECT_EQ(config.gate[0].action, "stop");
  EXPECT_EQ(config.gate[0].rule, "lower");
  EXPECT_EQ(config.gate[1].max, 5.5);
  EXPECT_EQ(config.gate[1].in_a_row, 1);
  EXPECT_EQ(config.gate[1].action, "fail");
  EXPECT_TRUE(parse("gate: []\n").gate.empty());
  EXPECT_TRUE(parse("gate:\nhooks: null\n").gate.empty());
}

TEST(ListSections, RefusalsNameTheItemAndItsPlace) {
  EXPECT_EQ(error_of("gate: {metric: probe}\n"), "c.yaml:5:7: gate: must be a list of maps, such as [{metric: ...}], got a map");
  EXPECT_EQ(error_of("gate: [{metric: probe, min: 1}, probe]\n"), "c.yaml:5:33: gate[1]: must be a map of keys, such as {metric: ...}, got 'probe'");
  EXPECT_EQ(error_of("gate:\n- metric: probe\n  mni: 80\n"), "c.yaml:7:3: gate[0].mni: unknown key; did you mean gate[0].min?");
  EXPECT_EQ(error_of("gate:\n- metric: probe\n  min: x\n"), "c.yaml:7:8: gate[0].min: must be a number, got 'x'");
  EXPECT_EQ(error_of("gate: [{metric: probe, min: 1}, {min: 80, min: 81}]\n").rfind("c.yaml:5:43: gate[1].min: given twice, first on line 5\n", 0), 0u);
  EXPECT_EQ(error_of("gate: [{min: 80}]\n").rfind("c.yaml:5:8: gate[0].metric: must be given: ", 0), 0u);
  EXPECT_EQ(error_of("gate: [{metric: probe, min: 1, action: warm}]\n"),
            "c.yaml:5:40: gate[0].action: must be one of warn, stop, restore, fail, got 'warm'; did you mean warn?");
  EXPECT_EQ(error_of("gates: []\n"), "c.yaml:5:1: gates: unknown key; did you mean gate?");
  EXPECT_EQ(error_of("hooks: [{script: a.pt, timeout: 0}]\n").rfind("c.yaml:5:33: hooks[0].timeout: must be > 0, got '0'", 0), 0u);
}

TEST(ListSections, SetReplacesTheListOrOneKeyOfAnItem) {
  const std::string file = "gate: [{metric: probe, min: 1}]\n";
  const RunConfig whole = parse(file, {"gate=[{metric: loss, max: 3.0}, {metric: probe, min: 70}]", "gate[1].min=75"});
  ASSERT_EQ(whole.gate.size(), 2u);
  EXPECT_EQ(whole.gate[0].metric, "loss");
  EXPECT_EQ(whole.gate[1].min, 75.0);
  EXPECT_EQ(parse(file, {"gate[0].min=60"}).gate[0].min, 60.0);
  EXPECT_TRUE(parse(file, {"gate=[]"}).gate.empty());
  EXPECT_EQ(error_of(file, {"gate[0].mni=60"}), "--set gate[0].mni=60: gate[0].mni: unknown key; did you mean gate[0].min?");
  EXPECT_EQ(error_of(file, {"gate[1].min=60"}),
            "--set gate[1].min=60: gate[1].min: gate is a list of 1 items: give gate[0].metric for a key of the first, or all of it as "
            "gate=[{metric: ...}]");
  EXPECT_EQ(error_of(file, {"gates[0].min=60"}), "--set gates[0].min=60: gates[0].min: unknown key; did you mean gate[0].min?");
  EXPECT_EQ(error_of(file, {"gate=[{metric: probe, min: x}]"}), "--set gate=[{metric: probe, min: x}]: gate[0].min: must be a number, got 'x'");
}

TEST(ListSections, DumpReadsBack) {
  const RunConfig config = parse("gate: [{metric: probe, min: 80, for: 3}, {metric: loss, max: 2.5, action: warn}]\n");
  const std::string text = dump_config(config);
  EXPECT_NE(text.find("\ngate:\n  - metric: probe\n    min: 80.0\n    max_drop: null\n    max: null\n    for: 3\n    action: fail\n    rule: point\n"
                      "  - metric: loss\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("\nhooks: []\n"), std::string::npos);
  const RunConfig back = parse_config(text, "d.yaml", {});
  EXPECT_EQ(dump_config(back), text);
  EXPECT_EQ(back.gate[1].max, 2.5);
}

TEST(ListSections, HelpAndSchemaKnowTheirKeys) {
  const std::string text = describe_config();
  EXPECT_NE(text.find("\ngate                           list of maps (default []): "), std::string::npos) << text;
  EXPECT_NE(text.find("\ngate[].for                     integer (default 1; >= 1): "), std::string::npos);
  EXPECT_NE(text.find("\nhooks[].writes                 list of strings (default []): "), std::string::npos);
  const auto gate = nlohmann::json::parse(config_json_schema()).at("properties").at("gate");
  EXPECT_EQ(gate.at("items").at("required"), nlohmann::json({"metric"}));
  EXPECT_EQ(gate.at("items").at("additionalProperties"), false);
  EXPECT_EQ(gate.at("items").at("properties").at("min").at("maximum"), 100.0);
}

TEST(GateSection, MetricsAreWhatTheProbeMeasures) {
  const auto bad = [](const std::string& metric) { return error_of("gate: [{metric: " + metric + ", min: 1}]\n"); };
  for (const char* good : {"probe", "probe/niah_single_1", "probe/niah_single_3/8192"}) EXPECT_EQ(bad(good), "") << good;
  for (const char* wrong : {"recall", "probe/", "probe/niah_multikey_1", "probe/niah_single_1/4095", "probe/4096"}) {
    EXPECT_NE(bad(wrong).find("gate[0].metric: must be loss, probe, probe/TASK or probe/TASK/LENGTH of what the probe measures, got "), std::string::npos) << wrong;
  }
  EXPECT_NE(bad("probe/niah_single_1/4097").find("did you mean probe/niah_single_1/4096?"), std::string::npos);
  EXPECT_NE(error_of("gate: [{metric: probe, min: 1}]\n", {"probe.lengths=[]"}).find("must be loss where probe.lengths asks for no probe, got 'probe'"), std::string::npos);
  const GateMetric metric = *parse_gate_metric("probe/niah_single_1", parse("").probe);
  EXPECT_TRUE(metric.holds("niah_single_1", 8192));
  EXPECT_FALSE(metric.holds("niah_single_2", 8192));
}

TEST(GateSection, BoundsAndActionsThatDoNotGoTogether) {
  const auto error = [](const std::string& keys, const std::string& set = "probe.seed=1") { return error_of("gate: [{" + keys + "}]\n", {set}); };
  EXPECT_NE(error("metric: probe").find("gate[0].min: must be given, or max_drop"), std::string::npos);
  EXPECT_NE(error("metric: probe, min: 1, max: 3").find("gate[0].max: must be absent"), std::string::npos);
  EXPECT_NE(error("metric: loss").find("c.yaml:5:8: gate[0].max: must be given where the metric is loss"), std::string::npos);
  EXPECT_NE(error("metric: loss, max: 3, min: 3").find("gate[0].min: must be absent"), std::string::npos);
  EXPECT_NE(error("metric: loss, max: 3, rule: lower").find("gate[0].rule: must be point"), std::string::npos);
  EXPECT_NE(error("metric: loss, max: 3, action: restore", "qk_restore.method=plain").find("gate[0].action: must be warn, stop or fail"), std::string::npos);
  EXPECT_NE(error("metric: probe, max_drop: 3", "probe.at=[end]").find("gate[0].max_drop: must stand beside probe.at: [start, ...]"), std::string::npos);
  for (const char* method : {"none", "auto"}) {
    EXPECT_NE(error("metric: probe, min: 3, action: restore", std::string("qk_restore.method=") + method).find("gate[0].action: must stand beside a qk_restore.method"),
              std::string::npos);
  }
  EXPECT_EQ(error("metric: probe, min: 3, action: restore", "qk_restore.method=plain"), "");
}

TEST(ProbeSection, SamplesAreANumberOrAuto) {
  EXPECT_EQ(parse("", {"probe.samples=7"}).probe.samples.number, 7);
  EXPECT_TRUE(parse("", {"probe.samples=auto"}).probe.samples.is_auto());
  EXPECT_NE(dump_config(parse("", {"probe.samples=auto"})).find("  samples: auto\n"), std::string::npos);
  EXPECT_EQ(error_of("", {"probe.samples=atuo"}), "--set probe.samples=atuo: probe.samples: must be an integer or auto, got 'atuo'; did you mean auto?");
  EXPECT_EQ(error_of("", {"probe.samples=0"}), "--set probe.samples=0: probe.samples: must be >= 1, got '0'");
  EXPECT_EQ(error_of("", {"probe.samples=[auto]"}), "--set probe.samples=[auto]: probe.samples: must be an integer or auto, got a list");
  EXPECT_EQ(error_of("", {"probe.width=0"}), "--set probe.width=0: probe.width: must be > 0 and <= 100, got '0'");
}

}  // namespace
}  // namespace qkr
