// A model folder read, written and read again: every bit of the weights, every key of config.json, the files beside them.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>

#include "tests/model/support.h"
#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/folder.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using test::Json;
using test::read_file;
using test::same_bytes;
using test::TmpDir;

std::string fixture(const std::string& name) {
  return (test::source_dir() / "tests" / "data" / "models" / name / "model").string();
}

ModelSource read(const fs::path& folder) { return ModelSource::read(folder.string(), "checkpoint"); }

NamedTensors stored(const fs::path& folder) {
  NamedTensors tensors;
  const SafetensorsFolder files(folder);
  for (const std::string& name : files.names()) tensors.set(name, files.tensor(name).clone());
  return tensors;
}

void expect_same(const NamedTensors& got, const NamedTensors& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) EXPECT_TRUE(same_bytes(got.at(name), tensor)) << name;
}

// The fixture as a folder that can be changed: its tensors in `dtype`, its config changed by `change`.
fs::path changed(const TmpDir& dir, const std::string& name, at::ScalarType dtype,
                 const std::function<void(Json&)>& change = {},
                 const std::function<void(NamedTensors&)>& change_tensors = {}) {
  NamedTensors tensors;
  for (const auto& [tensor_name, tensor] : stored(fixture(name))) tensors.set(tensor_name, tensor.to(dtype));
  if (change_tensors) change_tensors(tensors);
  Json config = Json::parse(read_file(fs::path(fixture(name)) / "config.json"));
  if (change) change(config);
  dir.write("source/config.json", config.dump(1));
  write_safetensors(dir / "source" / "model.safetensors", tensors);
  return dir / "source";
}

NamedTensors without(const NamedTensors& tensors, const std::string& name) {
  NamedTensors kept;
  for (const auto& [each, tensor] : tensors) {
    if (each != name) kept.set(each, tensor);
  }
  return kept;
}

class RoundTrip : public testing::TestWithParam<const char*> {};

// hypenet-tiny is one file and tied, hypenet-gqa-untied two shards and untied with first-generation names.
TEST_P(RoundTrip, KeepsEveryBitAndEveryKey) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    const TmpDir dir;
    const fs::path from = dtype == at::kFloat ? fs::path(fixture(GetParam())) : changed(dir, GetParam(), dtype);
    const ModelSource source = read(from);
    check_weights(source);
    const Decoder decoder = load_decoder(source, dtype, at::kCPU);
    EXPECT_EQ(decoder.dtype(), dtype);
    expect_same(decoder.weights(), stored(from));
    save_model(dir / "out", source, decoder.weights());
    expect_same(stored(dir / "out"), stored(from));
    EXPECT_FALSE(fs::exists(dir / "out.partial"));

    Json config = Json::parse(read_file(dir / "out" / "config.json")), was = Json::parse(source.config_json);
    const char* key = was.contains("dtype") ? "dtype" : "torch_dtype";  // the spelling that was there
    EXPECT_EQ(config.at(key), dtype == at::kFloat ? "float32" : dtype == at::kHalf ? "float16" : "bfloat16");
    EXPECT_FALSE(config.contains("dtype") && config.contains("torch_dtype"));
    was[key] = config[key];
    EXPECT_EQ(config.dump(), was.dump());  // order too
    expect_same(load_decoder(read(dir / "out"), dtype, at::kCPU).weights(), decoder.weights());
  }
}

INSTANTIATE_TEST_SUITE_P(, RoundTrip,
                         testing::Values("hypenet-tiny", "hypenet-gqa-untied", "qwen3-tiny", "qwen2-tiny",
                                         "llama-tiny"),
                         [](const auto& p) {
                           std::string name = p.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Load, IntoAnotherDtypeRounds) {
  const TmpDir dir;
  const NamedTensors fp32 = stored(fixture("llama-tiny"));
  const Decoder bf16 = load_decoder(read(fixture("llama-tiny")), at::kBFloat16, at::kCPU);
  for (const auto& [name, tensor] : fp32)
    EXPECT_TRUE(same_bytes(bf16.weights().at(name), tensor.to(at::kBFloat16))) << name;
  const Decoder wide = load_decoder(read(changed(dir, "llama-tiny", at::kHalf)), at::kFloat, at::kCPU);
  for (const auto& [name, tensor] : fp32)
    EXPECT_TRUE(same_bytes(wide.weights().at(name), tensor.to(at::kHalf).to(at::kFloat))) << name;
}

TEST(Load, WeightsAreCopiesThatMayBeWritten) {
  Decoder decoder = load_decoder(read(fixture("hypenet-tiny")), at::kFloat, at::kCPU);
  for (const auto& [name, weight] : decoder.weights()) at::Tensor(weight).add_(1);  // a mapped page would be a SIGSEGV
  EXPECT_FALSE(
      same_bytes(decoder.weights().at("model.norm.weight"), stored(fixture("hypenet-tiny")).at("model.norm.weight")));
}

TEST(Save, CarriesTheFilesThatMakeTheModelUsable) {
  const TmpDir dir;
  const fs::path from = changed(dir, "llama-tiny", at::kFloat);
  const std::vector<std::string> carried = {"tokenizer.json",
                                            "tokenizer_config.json",
                                            "chat_template.jinja",
                                            "special_tokens_map.json",
                                            "generation_config.json",
                                            "vocab.json",
                                            "merges.txt",
                                            "tokenizer.model",
                                            "LICENSE",
                                            "modeling_hybrid.py"};
  for (const std::string& name : carried) dir.write("source/" + name, "of " + name + std::string("\n\0\r\xff", 4));
  dir.write("source/optimizer.pt", "old");
  dir.write("source/onnx/model.onnx", "old");
  fs::permissions(dir / "source" / "tokenizer.json", fs::perms::owner_read);
  const ModelSource source = read(from);
  save_model(dir / "out", source, load_decoder(source, at::kFloat, at::kCPU).weights());
  for (const std::string& name : carried)
    EXPECT_EQ(read_file(dir / "out" / name), read_file(dir / "source" / name)) << name;
  EXPECT_FALSE(fs::exists(dir / "out" / "optimizer.pt"));
  EXPECT_FALSE(fs::exists(dir / "out" / "onnx"));
  EXPECT_NE(fs::status(dir / "out" / "tokenizer.json").permissions() & fs::perms::owner_write, fs::perms::none);
}

TEST(Save, WritesTheDtypeKeyThatIsNeverBoth) {
  const TmpDir dir;
  const auto written = [&](const std::string& out, const std::function<void(Json&)>& change) {
    const ModelSource source = read(changed(dir, "llama-tiny", at::kFloat, change));
    save_model(dir / out, source, load_decoder(source, at::kBFloat16, at::kCPU).weights());
    return Json::parse(read_file(dir / out / "config.json"));
  };
  const Json newer = written("a", [](Json& c) {
    c.erase("torch_dtype");
    c["dtype"] = "float32";
  });
  EXPECT_EQ(newer.value("dtype", ""), "bfloat16");
  EXPECT_FALSE(newer.contains("torch_dtype"));
  const Json neither = written("b", [](Json& c) { c.erase("torch_dtype"); });
  EXPECT_EQ(neither.value("torch_dtype", ""), "bfloat16");
}

TEST(Save, RefusesAFolderWithSomethingInIt) {
  const TmpDir dir;
  const ModelSource source = read(fixture("llama-tiny"));
  const Decoder decoder = load_decoder(source, at::kFloat, at::kCPU);
  dir.write("out/precious.txt", "keep");
  EXPECT_NE(QKR_MESSAGE_OF(save_model(dir / "out", source, decoder.weights())).find("out"), std::string::npos);
  EXPECT_EQ(read_file(dir / "out" / "precious.txt"), "keep");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out"), fs::directory_iterator()), 1);
  fs::create_directory(dir / "empty");
  save_model(dir / "empty", source, decoder.weights());
  EXPECT_TRUE(fs::exists(dir / "empty" / "model.safetensors"));
}

TEST(Save, LeavesNothingWhenItFailsHalfWay) {
  const TmpDir dir;
  ModelSource source = read(fixture("llama-tiny"));
  const Decoder decoder = load_decoder(source, at::kFloat, at::kCPU);
  source.folder = (dir / "gone").string();
  EXPECT_NE(QKR_MESSAGE_OF(save_model(dir / "out", source, decoder.weights())), "");
  EXPECT_FALSE(fs::exists(dir / "out"));
  EXPECT_FALSE(fs::exists(dir / "out.partial"));
}

TEST(LogitsScaling, IsReplacedOnRequestAndWrittenBack) {
  const std::string folder = fixture("hypenet-tiny");
  const auto scaled = [&](const std::string& value) { return ModelSource::read(folder, value); };
  EXPECT_EQ(scaled("hype 500").architecture.logits_scaling.a, 500);
  EXPECT_EQ(scaled("2.0").architecture.logits_scaling.constant, 2.0);
  EXPECT_EQ(scaled("null").architecture.logits_scaling.kind, LogitsScaling::Kind::kNone);
  EXPECT_NE(QKR_MESSAGE_OF(scaled("2")).find("write 2.0, not 2"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(scaled("hype 1")).find("a >= 2"), std::string::npos);
  EXPECT_NE(
      QKR_MESSAGE_OF(ModelSource::read(fixture("llama-tiny"), "hype 500")).find("must be checkpoint for a llama model"),
      std::string::npos);
  const TmpDir dir;
  const ModelSource source = scaled("hype 500");
  save_model(dir / "out", source, load_decoder(source, at::kFloat, at::kCPU).weights());
  EXPECT_EQ(Json::parse(read_file(dir / "out" / "config.json")).at("attn_logits_scaling"), "hype 500");
}

// Names under which early training runs saved the same tensors.
TEST(LegacyNames, OfHypeNetAreUnderstood) {
  const NamedTensors current = stored(fixture("hypenet-tiny"));
  const auto renamed = [&](const std::function<std::string(std::string)>& rename) {
    const TmpDir dir;
    const fs::path from = changed(dir, "hypenet-tiny", at::kFloat, {}, [&](NamedTensors& tensors) {
      NamedTensors old;
      for (const auto& [name, tensor] : tensors) old.set(rename(name), tensor);
      old.set("teacher_model.model.norm.weight", at::ones({64}));  // a teacher's tensors are passed over
      tensors = old;
    });
    const ModelSource source = read(from);
    check_weights(source);
    expect_same(load_decoder(source, at::kFloat, at::kCPU).weights(), current);
  };
  const auto replaced = [](std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    return at == std::string::npos ? text : text.replace(at, from.size(), to);
  };
  renamed([](const std::string& name) { return "student_model." + name; });
  renamed([](const std::string& name) { return "student_model.model." + name; });
  renamed([&](const std::string& name) { return replaced(name, ".self_attn.", ".mixer."); });
  renamed([&](const std::string& name) { return replaced(name, ".self_attn.", ".attn."); });
  renamed([&](const std::string& name) { return replaced(name, ".self_attn.", ".student_layer.self_attn."); });
  renamed([&](const std::string& name) { return replaced(name, ".embed_tokens.", ".embeddings."); });
  renamed([&](const std::string& name) {
    return replaced(replaced(name, ".input_layernorm.", ".mixer_norm."), ".post_attention_layernorm.", ".mlp_norm.");
  });
  renamed([&](const std::string& name) { return replaced(name, ".input_layernorm.", ".attn_norm."); });
}

TEST(LegacyNames, TwoNamesOfOneTensorAreRefused) {
  const TmpDir dir;
  const fs::path from = changed(dir, "hypenet-tiny", at::kFloat, {}, [](NamedTensors& tensors) {
    tensors.set("student_model.model.norm.weight", at::ones({64}));
  });
  const std::string message = QKR_MESSAGE_OF(check_weights(read(from)));
  EXPECT_NE(message.find("model.norm.weight must be there once"), std::string::npos) << message;
}

// What is wrong with the tensors of a folder, as check_weights (no data read) and load_decoder say it alike.
void expect_refused(const std::function<void(NamedTensors&)>& change, const std::string& want,
                    const std::string& model = "llama-tiny") {
  const TmpDir dir;
  const ModelSource source = read(changed(dir, model, at::kFloat, {}, change));
  for (const std::string& message :
       {QKR_MESSAGE_OF(check_weights(source)), QKR_MESSAGE_OF(load_decoder(source, at::kFloat, at::kCPU))}) {
    EXPECT_NE(message.find(want), std::string::npos) << message;
    EXPECT_EQ(message.rfind((dir / "source").string(), 0), 0u) << message;
  }
}

TEST(Refused, MissingUnexpectedAndMisshapenTensors) {
  expect_refused([](NamedTensors& t) { t = without(t, "model.layers.2.mlp.up_proj.weight"); },
                 "tensor model.layers.2.mlp.up_proj.weight is missing");
  expect_refused([](NamedTensors& t) { t.set("model.layers.3.mlp.up_proj.weight", at::ones({96, 72})); },
                 "tensor model.layers.3.mlp.up_proj.weight is not part of the model");
  expect_refused([](NamedTensors& t) { t.set("a\nb", at::ones({1})); }, "tensor 'a\\nb' is not part of the model");
  expect_refused([](NamedTensors& t) { t.set("model.layers.0.self_attn.q_proj.bias", at::ones({72})); },
                 "self_attn.q_proj.bias is not part");
  expect_refused([](NamedTensors& t) { t.set("model.layers.1.self_attn.k_proj.weight", at::ones({72, 24})); },
                 "tensor model.layers.1.self_attn.k_proj.weight: shape must be [24, 72] by config.json, got [72, 24]");
  expect_refused([](NamedTensors& t) { t.set("model.norm.weight", at::ones({72}, at::kLong)); },
                 "tensor model.norm.weight: dtype must be F32, BF16, F16 or F64, got I64");
  expect_refused([](NamedTensors& t) { t = without(t, "lm_head.weight"); }, "tensor lm_head.weight is missing",
                 "hypenet-gqa-untied");
  expect_refused([](NamedTensors& t) { t.set("student_model.model.norm.weight", at::ones({72})); },
                 "is not part");  // no legacy names in Llama
}

TEST(SaveModel, NeedsRoomForWhatItWrites) {
  const TmpDir dir;
  const ModelSource source = read(fixture("llama-tiny"));
  const NamedTensors weights = load_decoder(source, at::kFloat, at::kCPU).weights();
  save_model(dir / "out", source, weights);
  int64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(dir / "out")) bytes += static_cast<int64_t>(entry.file_size());
  EXPECT_GE(tensor_bytes(weights) + companion_bytes(source), bytes);
}

// check_weights reads no data, so that load_decoder alone says this.
TEST(Refused, AWeightThatIsNoNumber) {
  const auto refusal = [](double value, at::ScalarType dtype) {
    const TmpDir dir;
    const ModelSource source = read(changed(dir, "llama-tiny", at::kFloat, {}, [&](NamedTensors& t) {
      at::Tensor weight = t.at("model.layers.1.self_attn.k_proj.weight").clone();
      weight[3][5] = value;
      t.set("model.layers.1.self_attn.k_proj.weight", weight);
    }));
    EXPECT_EQ(QKR_MESSAGE_OF(check_weights(source)), "");
    const std::string message = QKR_MESSAGE_OF(load_decoder(source, dtype, at::kCPU));
    return message.substr(std::min(message.size(), (dir / "source").string().size()));
  };
  const std::string place = ": tensor model.layers.1.self_attn.k_proj.weight: must be finite in ";
  EXPECT_EQ(refusal(std::nan(""), at::kFloat), place + "Float, got nan at [3, 5]");
  EXPECT_EQ(refusal(-HUGE_VAL, at::kFloat), place + "Float, got -inf at [3, 5]");
  EXPECT_EQ(refusal(3.4e38, at::kBFloat16), place + "BFloat16, got inf at [3, 5]");
  EXPECT_EQ(refusal(3.4e38, at::kFloat), "");
}

TEST(Tied, AnEqualHeadIsAcceptedAndAnotherRefused) {
  const TmpDir dir;
  const fs::path equal = changed(dir, "llama-tiny", at::kFloat, {}, [](NamedTensors& t) {
    t.set("lm_head.weight", t.at("model.embed_tokens.weight").clone());
  });
  const Decoder decoder = load_decoder(read(equal), at::kFloat, at::kCPU);
  EXPECT_FALSE(decoder.weights().contains("lm_head.weight"));
  save_model(dir / "out", read(equal), decoder.weights());
  EXPECT_FALSE(stored(dir / "out").contains("lm_head.weight"));
  const TmpDir other;
  const fs::path unequal = changed(other, "llama-tiny", at::kFloat, {}, [](NamedTensors& t) {
    at::Tensor head = t.at("model.embed_tokens.weight").clone();
    head[3][5] += 1;
    t.set("lm_head.weight", head);
  });
  const std::string message = QKR_MESSAGE_OF(load_decoder(read(unequal), at::kFloat, at::kCPU));
  EXPECT_NE(message.find("tensor lm_head.weight must equal model.embed_tokens.weight"), std::string::npos) << message;
}

TEST(OldFiles, RotaryTablesAreIgnored) {
  const TmpDir dir;
  const fs::path from = changed(dir, "llama-tiny", at::kFloat, {}, [](NamedTensors& t) {
    t.set("model.layers.0.self_attn.rotary_emb.inv_freq", at::ones({6}));
  });
  expect_same(load_decoder(read(from), at::kFloat, at::kCPU).weights(), stored(fixture("llama-tiny")));
}

TEST(Refused, WhatIsNoModelFolder) {
  const TmpDir dir;
  EXPECT_NE(QKR_MESSAGE_OF(read(dir / "none")).find("must be a model folder, got nothing"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(read(dir.write("file", "x"))).find("must be a model folder, got a file"), std::string::npos);
  dir.write("empty/readme", "");
  EXPECT_NE(QKR_MESSAGE_OF(read(dir / "empty")).find("config.json"), std::string::npos);
  dir.write("bare/config.json", read_file(fs::path(fixture("llama-tiny")) / "config.json"));
  EXPECT_NE(QKR_MESSAGE_OF(check_weights(read(dir / "bare"))).find("bare"), std::string::npos);
}

TEST(Random, IsAFunctionOfTheSeed) {
  const ModelSource source = read(fixture("hypenet-tiny"));
  const Decoder a = random_decoder(source, at::kFloat, at::kCPU, 5),
                b = random_decoder(source, at::kFloat, at::kCPU, 5);
  const Decoder other = random_decoder(source, at::kFloat, at::kCPU, 6),
                half = random_decoder(source, at::kBFloat16, at::kCPU, 5);
  expect_same(b.weights(), a.weights());
  for (const WeightSpec& spec : weight_specs(source.architecture)) {
    const at::Tensor& w = a.weights().at(spec.name);
    EXPECT_TRUE(same_bytes(half.weights().at(spec.name), w.to(at::kBFloat16))) << spec.name;
    if (spec.init == WeightSpec::Init::kOnes) {
      EXPECT_TRUE(at::equal(w, at::ones_like(w))) << spec.name;
      continue;
    }
    EXPECT_FALSE(same_bytes(other.weights().at(spec.name), w)) << spec.name;
    EXPECT_NEAR(w.mean().item<double>(), 0, 0.002) << spec.name;
    EXPECT_NEAR(w.std().item<double>(), 0.02, 0.002) << spec.name;  // initializer_range
  }
}

TEST(DecoderWeights, MustBeExactlyThoseOfTheArchitecture) {
  const ModelSource source = read(fixture("llama-tiny"));
  const NamedTensors good = random_decoder(source, at::kFloat, at::kCPU, 1).weights();
  NamedTensors extra = good, misshapen = good;
  extra.set("other", at::ones({1}));
  misshapen.set("model.norm.weight", at::ones({71}));
  EXPECT_NE(QKR_MESSAGE_OF(Decoder(source.architecture, extra)).find("must have"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(Decoder(source.architecture, misshapen)).find("model.norm.weight"), std::string::npos);
  EXPECT_NE(QKR_MESSAGE_OF(Decoder(source.architecture, without(good, "model.norm.weight")))
                .find("model.norm.weight is missing"),
            std::string::npos);
}

}  // namespace
}  // namespace qkr
