// The qk_restore section: methods with a number in their name, layers as a word or a list, and what does not go together.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/support/tmpdir.h"
#include "trainer/config/parse.h"

namespace qkr {
namespace {

const std::string kLeast = "model: {path: base}\ndata: {train: [a.jsonl]}\noutput: runs/x\n";

RestoreConfigSection restore_of(const std::string& yaml) { return parse_config(kLeast + "qk_restore: {" + yaml + "}\n", "c.yaml", {}).qk_restore; }
std::string error_of(const std::string& yaml) { return QKR_MESSAGE_OF(restore_of(yaml)); }

TEST(RestoreSection, MethodsMayCarryAShare) {
  EXPECT_EQ(restore_of("method: lerp:0.5").method, "lerp:0.5");
  EXPECT_EQ(restore_of("method: lerp:0").method, "lerp:0");
  EXPECT_EQ(restore_of("method: lerp:1e-3").method, "lerp:1e-3");
  EXPECT_EQ(restore_of("method: qkv").method, "qkv");
  for (const std::string bad : {"lerp", "lerp:", "lerp:A", "lerp:1.5", "lerp:-0.1", "lerp:nan", "lerp:0.5 "}) {
    EXPECT_NE(error_of("method: \"" + bad + "\"").find("qk_restore.method: must be one of none, plain, procrustes, procrustes-head"), std::string::npos) << bad;
  }
}

TEST(RestoreSection, AtIsTheEndOrEverySoManySteps) {
  EXPECT_EQ(restore_of("").at, "end");
  EXPECT_EQ(restore_of("at: every 200").at, "every 200");
  for (const std::string bad : {"every", "every 0", "every -1", "every 1.5", "every  2", "200", "every N"}) {
    EXPECT_NE(error_of("at: \"" + bad + "\"").find("qk_restore.at: must be one of end, every N, got "), std::string::npos) << bad;
  }
  const std::string dumped = dump_config(parse_config(kLeast + "qk_restore: {at: every 200}\n", "c.yaml", {}));
  EXPECT_EQ(dump_config(parse_config(dumped, "d.yaml", {})), dumped);
  EXPECT_NE(error_of("method: auto, at: every 5").find("qk_restore.at: must be end where the method is auto"), std::string::npos);
  EXPECT_EQ(error_of("method: procrustes, at: every 5, optimizer_state: rotate"), "");
  for (const std::string method : {"plain", "procrustes-head", "qk-pro", "lerp:0.5", "qkv"}) {
    EXPECT_NE(error_of("at: every 5, optimizer_state: rotate, method: " + method)
                  .find("qk_restore.optimizer_state: must be reset or keep where the method is " + method + ", which has no rotation of the input; got 'rotate'"),
              std::string::npos);
    EXPECT_EQ(error_of("at: every 5, optimizer_state: keep, method: " + method), "");
  }
}

TEST(RestoreSection, AutoHasCandidatesAndNeedsAProbe) {
  const auto error_with = [](const std::string& restore, const std::string& probe) {
    return QKR_MESSAGE_OF(parse_config(kLeast + "qk_restore: {" + restore + "}\nprobe: {" + probe + "}\n", "c.yaml", {}));
  };
  EXPECT_EQ(restore_of("").candidates, (std::vector<std::string>{"none", "plain", "procrustes:0.01", "procrustes:0.1", "qk-pro", "lerp:0.5"}));
  EXPECT_EQ(restore_of("candidates: [none, procrustes:25, qk-pro-head:1e-3, lerp:1]").candidates[1], "procrustes:25");
  for (const std::string bad : {"procrustes:-1", "procrustes:", "procrustes:inf", "lerp:1.5", "qk-pro:x", "auto", "procrustes-head:1"}) {
    EXPECT_NE(error_of("candidates: [none, \"" + bad + "\"]").find("qk_restore.candidates: must be one of none, plain, procrustes, procrustes:X"),
              std::string::npos)
        << bad;
  }
  EXPECT_NE(error_of("candidates: [plain, none]").find("qk_restore.candidates: must begin with none, which the others have to beat; got 'plain'"),
            std::string::npos);
  EXPECT_NE(error_of("candidates: []").find("must begin with none"), std::string::npos);
  EXPECT_NE(error_of("candidates: [none, plain, plain]").find("must not name a candidate twice"), std::string::npos);
  EXPECT_NE(error_of("held_out: 0").find("qk_restore.held_out: must be >= 1"), std::string::npos);
  EXPECT_NE(error_of("max_loss_increase: -0.1").find("qk_restore.max_loss_increase: must be >= 0"), std::string::npos);
  EXPECT_EQ(error_with("method: auto", "lengths: [1024]"), "");
  EXPECT_NE(error_with("method: auto", "").find("probe.lengths: must hold a length where qk_restore.method is auto"), std::string::npos);
  EXPECT_NE(error_with("method: auto", "lengths: [1024], samples: 1").find("probe.samples: must be >= 2 where qk_restore.method is auto"), std::string::npos);
  EXPECT_EQ(error_with("method: plain", "lengths: [1024], samples: 1"), "");
}

TEST(RestoreSection, LayersAreAWordOrAList) {
  EXPECT_EQ(restore_of("").layers.word, "softmax");
  EXPECT_EQ(restore_of("layers: linear").layers.word, "linear");
  const LayerChoice list = restore_of("layers: [3, 0]").layers;
  EXPECT_EQ(list.word, "");
  EXPECT_EQ(list.list, (std::vector<int64_t>{3, 0}));
  EXPECT_EQ(error_of("layers: sofmax"),
            "c.yaml:4:22: qk_restore.layers: must be one of softmax, linear, all, got 'sofmax'; did you mean softmax?");
  EXPECT_NE(error_of("layers: []").find("must be one of softmax, linear, all or a list of layer numbers, got a list"), std::string::npos);
  EXPECT_NE(error_of("layers: {a: 1}").find("or a list of layer numbers, got a map"), std::string::npos);
  EXPECT_NE(error_of("layers: [-1]").find("must be >= 0, got '-1'"), std::string::npos);
  EXPECT_NE(error_of("layers: [softmax]").find("must be an integer, got 'softmax'"), std::string::npos);
  EXPECT_NE(error_of("layers: [4, 4]").find("must not be named twice, got 4"), std::string::npos);
}

TEST(RestoreSection, DumpReadsBack) {
  for (const std::string yaml : {"layers: all", "layers: [7, 3]", "method: lerp:0.5", "parts: mixer, method: plain"}) {
    const std::string dumped = dump_config(parse_config(kLeast + "qk_restore: {" + yaml + "}\n", "c.yaml", {}));
    EXPECT_EQ(dump_config(parse_config(dumped, "d.yaml", {})), dumped);
  }
  EXPECT_NE(dump_config(parse_config(kLeast + "qk_restore: {layers: [7, 3]}\n", "c.yaml", {})).find("  layers: [7, 3]\n"), std::string::npos);
  EXPECT_NE(describe_config().find("qk_restore.layers              word or list of integers (default softmax; one of softmax, linear, all): "),
            std::string::npos);
}

TEST(RestoreSection, RidgeIsANumberOrTheMethodsOwn) {
  EXPECT_EQ(restore_of("").ridge, std::nullopt);
  EXPECT_EQ(restore_of("ridge: null").ridge, std::nullopt);
  EXPECT_EQ(restore_of("ridge: 0").ridge, 0.0);
  EXPECT_EQ(restore_of("ridge: 1e-3").ridge, 1e-3);
  EXPECT_NE(error_of("ridge: -1").find("qk_restore.ridge: must be >= 0, got '-1'"), std::string::npos);
  EXPECT_NE(error_of("ridge: auto").find("qk_restore.ridge: must be a number, got 'auto'"), std::string::npos);
  for (const std::string ridge : {"null", "0.5"}) {
    const std::string dumped = dump_config(parse_config(kLeast + "qk_restore: {ridge: " + ridge + "}\n", "c.yaml", {}));
    EXPECT_NE(dumped.find("  ridge: " + ridge + "\n"), std::string::npos);
    EXPECT_EQ(dump_config(parse_config(dumped, "d.yaml", {})), dumped);
  }
  for (const std::string method : {"qk-pro", "qk-pro-head", "qk-pro-bilinear", "procrustes-head"}) {
    EXPECT_EQ(error_of("layers: all, method: " + method), "");
    EXPECT_NE(error_of("parts: q, method: " + method).find("qk_restore.parts: must be qk where the method is " + method), std::string::npos);
  }
}

TEST(RestoreSection, SchemaSaysTheSame) {
  const nlohmann::json restore = nlohmann::json::parse(config_json_schema()).at("properties").at("qk_restore").at("properties");
  const nlohmann::json& layers = restore.at("layers").at("anyOf");
  EXPECT_EQ(layers[0].at("enum"), nlohmann::json({"softmax", "linear", "all"}));
  EXPECT_EQ(layers[1].at("items").at("minimum"), 0);
  const nlohmann::json& method = restore.at("method").at("anyOf");
  EXPECT_EQ(method[0].at("enum")[1], "plain");
  EXPECT_EQ(method[1].at("pattern"), "^lerp:[0-9.eE+-]+$");
  EXPECT_EQ(restore.at("at").at("anyOf")[1].at("pattern"), "^every [0-9]+$");
  const nlohmann::json& candidate = restore.at("candidates").at("items").at("anyOf");
  EXPECT_EQ(candidate[0].at("enum")[2], "procrustes");
  EXPECT_EQ(candidate[1].at("pattern"), "^procrustes:[0-9.eE+-]+$");
}

TEST(RestoreSection, MethodsAndPartsThatDoNotGoTogether) {
  EXPECT_NE(error_of("method: q, parts: v").find("qk_restore.parts: must stay qk where the method q says which parts; got 'v'"), std::string::npos);
  for (const std::string parts : {"o", "norms"}) {
    EXPECT_NE(error_of("method: procrustes, parts: " + parts).find("qk_restore.parts: must hold a weight that reads the layer's input"),
              std::string::npos);
    EXPECT_EQ(error_of("method: lerp:0.5, parts: " + parts), "");
  }
  EXPECT_EQ(error_of("method: procrustes, parts: mixer, layers: all"), "");
}

}  // namespace
}  // namespace qkr
