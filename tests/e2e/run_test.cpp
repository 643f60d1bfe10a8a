// A whole run: what it leaves, and that what it leaves agrees with itself.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/e2e/small_run.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {
namespace {

const std::vector<std::string>& routing_weights() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (const char* layer : {"1", "3"}) {  // examples/tiny: softmax layers
      for (const char* part : {"q_proj", "k_proj"}) all.push_back(std::string("model.layers.") + layer + ".self_attn." + part + ".weight");
    }
    return all;
  }();
  return names;
}

bool is_routing(const std::string& name) {
  const auto& all = routing_weights();
  return std::find(all.begin(), all.end(), name) != all.end();
}

SafetensorsFile weights(const fs::path& folder) { return SafetensorsFile(folder / "model.safetensors"); }

std::map<std::string, std::vector<nlohmann::json>> probe_rows_by_stage(const fs::path& out) {
  std::map<std::string, std::vector<nlohmann::json>> stages;
  for (const nlohmann::json& row : read_rows(out / "probe.jsonl")) stages[row["stage"]].push_back(row);
  return stages;
}

class WholeRun : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(finished_run().outcome.code, 0) << finished_run().outcome.err; }
  const fs::path out = finished_run().out();
};

TEST_F(WholeRun, LeavesWhatDesignSays) {
  EXPECT_EQ(finished_run().outcome.err, "");
  std::set<std::string> files;
  for (const std::string& name : files_below(out)) {
    if (name.rfind("tensorboard/", 0) != 0) files.insert(name);
  }
  std::set<std::string> want = {"config.yaml", "log.jsonl", "probe.jsonl", "restore.json", "report.html", "summary.json", "snapshot.safetensors"};
  for (const char* folder : {"model", "model-sft"}) {
    for (const char* name : {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}) {
      want.insert(std::string(folder) + "/" + name);
    }
  }
  for (const char* step : {"step-000004", "step-000006"}) {
    for (const char* name : {"model.safetensors", "optim.safetensors", "progress.json"}) {
      want.insert(std::string("checkpoints/") + step + "/" + name);
    }
  }
  EXPECT_EQ(files, want);
  EXPECT_EQ(files_below(out / "tensorboard").size(), 1u);
}

TEST_F(WholeRun, ConfigIsTheResolvedOne) {
  const Outcome again = run_program({"sft-train", "--config", (out / "config.yaml").string(), "--dump-config"});
  EXPECT_EQ(again.out, read_file(out / "config.yaml"));
  EXPECT_NE(again.out.find("method: procrustes"), std::string::npos);
}

TEST_F(WholeRun, LogAndSummaryAgree) {
  const std::vector<nlohmann::json> log = read_rows(out / "log.jsonl");
  ASSERT_EQ(log.size(), 6u);
  int64_t tokens = 0, trained = 0;
  for (size_t i = 0; i < log.size(); ++i) {
    EXPECT_EQ(log[i]["step"], i + 1);
    EXPECT_GT(log[i]["grad_norm"], 0);
    tokens += log[i]["tokens"].get<int64_t>();
    trained += log[i]["trained_tokens"].get<int64_t>();
    EXPECT_EQ(log[i]["tokens_seen"], tokens);
  }
  EXPECT_LT(log[5]["loss"].get<double>(), log[0]["loss"].get<double>());
  EXPECT_LT(log[4]["epoch"].get<double>(), 1.5) << "the run must go off an epoch's boundary";
  const nlohmann::json summary = read_json(out / "summary.json");
  EXPECT_EQ(summary["status"], "finished");
  EXPECT_EQ(summary["steps"], 6);
  EXPECT_EQ(summary["tokens_seen"], tokens);
  EXPECT_EQ(summary["tokens_trained"], trained);
  EXPECT_EQ(summary["parameters"], 1017472);
  EXPECT_EQ(summary["method"], "procrustes");
}

TEST_F(WholeRun, SnapshotIsTheBasesRoutingWeights) {
  const SafetensorsFile snapshot(out / "snapshot.safetensors"), base = weights(base_model());
  for (const std::string& name : routing_weights()) {
    ASSERT_TRUE(snapshot.contains(name)) << name;
    EXPECT_TRUE(same_bytes(snapshot.tensor(name), base.tensor(name))) << name;
  }
  for (const std::string& name : snapshot.names()) {
    EXPECT_TRUE(is_routing(name) || name.find("self_attn.q_norm") != std::string::npos || name.find("self_attn.k_norm") != std::string::npos) << name;
  }
}

// W_pre R for one rotation R a layer, shared by Q and K, and nothing else touched.
TEST_F(WholeRun, ModelIsTheTunedOneWithRotatedRoutingWeights) {
  const SafetensorsFile model = weights(out / "model"), tuned = weights(out / "model-sft"), base = weights(base_model());
  ASSERT_EQ(model.names(), tuned.names());
  ASSERT_EQ(model.names(), base.names());
  for (const std::string& name : model.names()) {
    const bool same = same_bytes(model.tensor(name), tuned.tensor(name));
    EXPECT_EQ(same, !is_routing(name)) << name;
    EXPECT_FALSE(same_bytes(tuned.tensor(name), base.tensor(name))) << name << " has not been trained";
  }
  const nlohmann::json restore = read_json(out / "restore.json");
  EXPECT_EQ(restore["method"], "procrustes");
  ASSERT_EQ(restore["layers"].size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const nlohmann::json& layer = restore["layers"][i];
    EXPECT_EQ(layer["layer"], i == 0 ? 1 : 3);
    const std::string q = routing_weights()[2 * i], k = routing_weights()[2 * i + 1];
    EXPECT_EQ(layer["written"], (nlohmann::json{q, k}));
    const auto stacked = [&](const SafetensorsFile& file) { return at::cat({file.tensor(q), file.tensor(k)}).to(at::kDouble); };
    const at::Tensor pre = stacked(base), restored = stacked(model), post = stacked(tuned);
    // W_pre R has the products of W_pre with itself, rows against rows, whatever the rotation.
    const at::Tensor gram = pre.mm(pre.t());
    EXPECT_LT((restored.mm(restored.t()) - gram).abs().max().item<double>(), 1e-5 * gram.abs().max().item<double>());
    const auto distance = [&](const at::Tensor& a) { return ((a - post).norm() / post.norm()).item<double>(); };
    EXPECT_NEAR(layer["residual_before"].get<double>(), distance(pre), 1e-6);
    EXPECT_NEAR(layer["residual_after"].get<double>(), distance(restored), 1e-6);
    EXPECT_LT(distance(restored), distance(pre));
    EXPECT_LT(layer["certificate"]["orthogonality"].get<double>(), 1e-5);
  }
}

TEST_F(WholeRun, ExportCarriesTheTextSideByteForByte) {
  for (const char* folder : {"model", "model-sft"}) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "generation_config.json"}) {
      EXPECT_EQ(read_file(out / folder / name), read_file(base_model() / name)) << folder << "/" << name;
    }
    EXPECT_EQ(read_json(out / folder / "config.json"), read_json(base_model() / "config.json"));
    EXPECT_EQ(weights(out / folder).metadata().at("format"), "pt") << "transformers asks for it";
  }
}

TEST_F(WholeRun, ProbeMeasuresTheSamePromptsThreeTimes) {
  const auto stages = probe_rows_by_stage(out);
  ASSERT_EQ(stages.size(), 3u);
  const auto& start = stages.at("start");
  ASSERT_EQ(start.size(), 6u);  // 3 tasks, 1 length, 2 prompts
  for (const char* stage : {"end", "restored"}) {
    ASSERT_EQ(stages.at(stage).size(), 6u);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(stages.at(stage)[i]["id"], start[i]["id"]);
      EXPECT_EQ(stages.at(stage)[i]["value"], start[i]["value"]);
      EXPECT_EQ(stages.at(stage)[i]["step"], 6);
    }
  }
  for (const nlohmann::json& row : start) {
    EXPECT_EQ(row["step"], 0);
    EXPECT_LE(row["prompt_tokens"], 256 - 8);
    EXPECT_LE(row["generated_tokens"], 8);
  }
}

// What the run measured, measured again by the other program on the folders that the run left.
TEST_F(WholeRun, NiahProbeFindsTheSame) {
  const auto stages = probe_rows_by_stage(out);
  TmpDir folder;
  for (const auto& [stage, model] : std::map<std::string, std::string>{{"end", "model-sft"}, {"restored", "model"}}) {
    const fs::path file = folder / (stage + ".jsonl");
    std::vector<std::string> command = {"niah-probe", "--model", (out / model).string(), "--output", file.string()};
    const std::vector<std::string> more = probe_arguments();
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run_program(command);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_NE(outcome.out.find("n=2"), std::string::npos) << "a rate without its n: " << outcome.out;
    std::vector<nlohmann::json> rows = read_rows(file), want = stages.at(stage);
    ASSERT_EQ(rows.size(), want.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      for (const char* differs : {"stage", "step", "seconds", "model", "tokenizer", "dtype"}) {  // a run tells none of the last three
        rows[i].erase(differs);
        want[i].erase(differs);
      }
      EXPECT_EQ(rows[i], want[i]) << stage;
    }
  }
}

nlohmann::json report_data(const fs::path& out) {
  const std::string page = read_file(out / "report.html"), open = "<script type=\"application/json\" id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  return nlohmann::json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

TEST_F(WholeRun, ReportHoldsTheNumbersOfTheJsonLines) {
  const nlohmann::json data = report_data(out);
  const std::vector<nlohmann::json> log = read_rows(out / "log.jsonl");
  for (const char* column : {"step", "loss", "grad_norm", "lr"}) {
    ASSERT_EQ(data["log"][column].size(), log.size());
    for (size_t i = 0; i < log.size(); ++i) EXPECT_EQ(data["log"][column][i], log[i][column]) << column;
  }
  std::map<std::string, std::pair<int64_t, int64_t>> counted;  // "stage task length" → hits, prompts
  for (const nlohmann::json& row : read_rows(out / "probe.jsonl")) {
    auto& [hits, n] = counted[row["stage"].get<std::string>() + " " + row["task"].get<std::string>() + " " + row["length"].dump()];
    hits += row["hit"].get<bool>() ? 1 : 0;
    ++n;
  }
  size_t cells = 0;
  for (const nlohmann::json& cell : data["recall"]["cells"]) {
    if (cell["task"].is_null()) continue;
    const std::string stage = data["recall"]["stages"][cell["stage"].get<size_t>()]["stage"];
    const auto found = counted.find(stage + " " + cell["task"].get<std::string>() + " " + cell["length"].dump());
    ASSERT_NE(found, counted.end()) << cell;
    EXPECT_EQ(cell["hits"], found->second.first) << cell;
    EXPECT_EQ(cell["n"], found->second.second) << cell;
    ++cells;
  }
  EXPECT_EQ(cells, counted.size());
}

TEST_F(WholeRun, ReportNeedsNoNetwork) {
  const std::string page = read_file(out / "report.html");
  for (const char* address : {"src=\"http", "href=\"http", "url(http", "@import", "src=\"//"}) EXPECT_EQ(page.find(address), std::string::npos) << address;
}

class PlainRun : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(plain_run().outcome.code, 0) << plain_run().outcome.err; }
};

TEST_F(PlainRun, PutsTheRoutingWeightsOfSoftmaxLayersBackByteForByte) {
  const SafetensorsFile model = weights(plain_run().out() / "model"), tuned = weights(plain_run().out() / "model-sft"), base = weights(base_model());
  ASSERT_EQ(model.names(), base.names());
  for (const std::string& name : model.names()) {
    EXPECT_EQ(same_bytes(model.tensor(name), base.tensor(name)), is_routing(name)) << name;
    EXPECT_EQ(same_bytes(model.tensor(name), tuned.tensor(name)), !is_routing(name)) << name;
  }
  EXPECT_EQ(read_json(plain_run().out() / "restore.json")["method"], "plain");
  EXPECT_FALSE(fs::exists(plain_run().out() / "probe.jsonl"));
}

// Probing and the way of restoring leave the trained weights as they are, bit for bit.
TEST_F(PlainRun, TrainsAsTheProbedRunDid) {
  ASSERT_EQ(finished_run().outcome.code, 0);
  EXPECT_EQ(read_file(plain_run().out() / "model-sft" / "model.safetensors"), read_file(finished_run().out() / "model-sft" / "model.safetensors"));
}

// Why a run stopped is said on one line and stays in summary.json; the last checkpoint stays whole.
struct Blowup {
  const char* lr;
  std::string says;
};

class NonFiniteAfterAStep : public ::testing::TestWithParam<Blowup> {};

TEST_P(NonFiniteAfterAStep, StopsTheRunAndKeepsTheCheckpoint) {
  TmpDir folder;
  const std::vector<std::string> more = {"--set", std::string("optim.lr=") + GetParam().lr, "checkpoint.every=1"};
  const Outcome outcome = run_program(small_command(folder, more));
  EXPECT_EQ(outcome.code, 1) << outcome.out;
  ASSERT_EQ(lines_of(outcome.err).size(), 1u) << outcome.err;
  EXPECT_EQ(outcome.err.rfind("sft-train: step 2: ", 0), 0u) << outcome.err;
  EXPECT_NE(outcome.err.find(GetParam().says), std::string::npos) << outcome.err;
  const nlohmann::json summary = read_json(folder / "out" / "summary.json");
  EXPECT_EQ(summary["status"], "failed");
  EXPECT_EQ(summary["steps"], 1);
  EXPECT_EQ("sft-train: " + summary["message"].get<std::string>() + "\n", outcome.err);
  EXPECT_FALSE(fs::exists(folder / "out" / "model"));
  EXPECT_TRUE(fs::exists(folder / "out" / "report.html"));

  std::vector<std::string> again = more;
  again.push_back("--resume");
  const Outcome resumed = run_program(small_command(folder, again));
  EXPECT_NE(resumed.out.find("resume   " + (folder / "out" / "checkpoints" / "step-000001").string()), std::string::npos) << resumed.out;
  EXPECT_EQ(resumed.code, 1);
  EXPECT_EQ(resumed.err, outcome.err) << "the checkpoint loads, and the same step fails in the same way";
}

// A forward pass that overflows; and one that does not, with a backward pass that does.
INSTANTIATE_TEST_SUITE_P(, NonFiniteAfterAStep,
                         ::testing::Values(Blowup{"1.0e15", "first in the output of layer 0 (lightning)"},
                                           Blowup{"1.0e30", "gradient must be finite, got loss 6.93147"}));

TEST(NonFinite, WeightOfTheModelIsNamedBeforeAStep) {
  TmpDir folder;
  copy_folder(base_model(), folder / "model");
  NamedTensors tensors;
  const SafetensorsFile base(base_model() / "model.safetensors");
  for (const std::string& name : base.names()) {
    at::Tensor tensor = base.tensor(name).clone();
    if (name == "model.layers.2.mlp.down_proj.weight") tensor[3][5] = std::numeric_limits<float>::quiet_NaN();
    tensors.set(name, tensor);
  }
  write_safetensors(folder / "model" / "model.safetensors", tensors, {{"format", "pt"}});
  const Outcome outcome = run_program(small_command(folder, {"--set", "model.path=" + (folder / "model").string()}));
  const std::string says = (folder / "model").string() +
                           ": tensor model.layers.2.mlp.down_proj.weight: must be finite in Float, got nan at [3, 5]\n";
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.err, "sft-train: " + says);
  EXPECT_FALSE(fs::exists(folder / "out"));
  // A model that is none would look like one that has lost its recall.
  std::vector<std::string> probe = {"niah-probe", "--model", (folder / "model").string()};
  for (const std::string& argument : probe_arguments()) probe.push_back(argument);
  const Outcome probed = run_program(probe);
  EXPECT_EQ(probed.code, 2);
  EXPECT_EQ(probed.err, "niah-probe: " + says);
}

}  // namespace
}  // namespace qkr::test
