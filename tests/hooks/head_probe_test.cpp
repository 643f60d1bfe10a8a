#include "trainer/hooks/head_probe.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/data/dataset.h"
#include "trainer/model/folder.h"
#include "trainer/probe/generated_text.h"

namespace qkr {
namespace {

struct Tiny {
  std::string folder = (test::source_dir() / "examples/tiny/model").string();
  Decoder decoder = load_decoder(ModelSource::read(folder, "checkpoint"), at::kFloat, at::kCPU);
  TextCodec codec = text_codec(TextModel::load(folder, ""));
  std::vector<NeedleItem> items;

  Tiny() {
    ProbeConfigSection config;
    config.tasks = {"niah_single_1"};
    config.lengths = {600};
    config.samples = 2;
    items = draw_items(config, nullptr, codec);
  }
};

std::vector<nlohmann::json> rows_of(const std::filesystem::path& file) {
  std::vector<nlohmann::json> rows;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) rows.push_back(nlohmann::json::parse(line));
  return rows;
}

std::string stages_of(const std::filesystem::path& file) {
  std::string text;
  for (const nlohmann::json& row : rows_of(file)) text += row["stage"].get<std::string>() + " ";
  return text;
}

TEST(HeadProbe, MeasuresAPromptOnceForAStageAndWeights) {
  const test::TmpDir folder;
  const Tiny tiny;
  std::ostringstream out;
  Console console(out, "off");
  const std::filesystem::path file = folder / "heads.jsonl";
  const HeadProbe probe(tiny.decoder, tiny.codec, file, 4096, console);
  probe.measure("start", 0, "aaaa", tiny.items);
  probe.measure("start", 0, "aaaa", tiny.items);
  EXPECT_EQ(stages_of(file), "start start ");
  probe.measure("start", 0, "bbbb", tiny.items);  // other weights
  probe.measure("end", 7, "aaaa", tiny.items);
  EXPECT_EQ(stages_of(file), "start start start start end end ");
  std::ofstream(file, std::ios::app) << "{\"stage\": \"end\", \"model\": 3, \"id\": []}\n{\"stage\": \"4\"}\n";  // of no probe
  probe.measure("end", 7, "aaaa", tiny.items);
  EXPECT_EQ(rows_of(file).size(), 8u);
  EXPECT_EQ(rows_of(file)[4]["step"], 7);
  EXPECT_EQ(rows_of(file)[0]["mass"], rows_of(file)[4]["mass"]);  // the same model
  EXPECT_NE(out.str().find("  heads on the needle: layer "), std::string::npos) << out.str();
}

// As with probe.jsonl: a resume keeps what it will not measure again.
TEST(HeadProbe, AResumeTakesBackWhatItDoesAgain) {
  const test::TmpDir folder;
  const Tiny tiny;
  std::ostringstream out;
  Console console(out, "off");
  const std::filesystem::path file = folder / "heads.jsonl";
  const auto fill = [&] {
    std::filesystem::remove(file);
    const HeadProbe probe(tiny.decoder, tiny.codec, file, 4096, console);
    for (const auto& [stage, step] : {std::pair("start", 0), std::pair("step-4", 4), std::pair("step-8", 8), std::pair("end", 8)}) {
      probe.measure(stage, step, "aaaa", {tiny.items[0]});
    }
  };
  const auto after_resume_at = [&](int64_t step) {
    fill();
    const HeadProbe probe(tiny.decoder, tiny.codec, file, 4096, step, console);
    return stages_of(file);
  };
  EXPECT_EQ(after_resume_at(8), "start step-4 step-8 ");
  EXPECT_EQ(after_resume_at(4), "start step-4 ");
  EXPECT_EQ(after_resume_at(0), "");  // a run that begins anew
}

TEST(HeadProbe, NamesTheHeadsThatLookMost) {
  HeadResult a;
  a.layers = {3, 7};
  a.mass = {{0.1, 0.2}, {0.9, 0}};
  HeadResult b = a;
  b.mass = {{0.3, 0.2}, {0.5, 0}};
  EXPECT_EQ(top_heads_text({a, b}, 2), "layer 7 head 0 70.0%, layer 3 head 0 20.0%");
  EXPECT_EQ(top_heads_text({}, 2), "none");
}

}  // namespace
}  // namespace qkr
