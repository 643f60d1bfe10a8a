#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {
namespace {

using nlohmann::json;

// Five tensors of 40 bytes, named so that order of insertion and of name differ.
NamedTensors five() {
  NamedTensors tensors;
  for (const char* name : {"e", "a", "d", "b", "c"}) tensors.set(name, at::full({10}, name[0] - 'a', at::kFloat));
  return tensors;
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

void expect_five(const SafetensorsFolder& folder) {
  EXPECT_EQ(folder.names().size(), 5u);
  EXPECT_EQ(folder.total_bytes(), 200);
  for (const auto& [name, tensor] : five()) {
    EXPECT_TRUE(at::equal(folder.tensor(name), tensor)) << name;
    EXPECT_EQ(folder.shape(name), std::vector<int64_t>{10});
    EXPECT_EQ(folder.dtype(name), "F32");
  }
}

TEST(SafetensorsFolder, OneFileIfAllFits) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 200);
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"model.safetensors"});
  expect_five(open_tensors(dir.path()));
  expect_five(open_tensors(dir / "model.safetensors"));
  EXPECT_EQ(SafetensorsFile(dir / "model.safetensors").metadata().at("format"), "pt");
}

TEST(SafetensorsFolder, ShardsInTheGivenOrderAndAnIndex) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 100);
  EXPECT_EQ(files_in(dir.path()),
            (std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  expect_five(open_tensors(dir.path()));
  EXPECT_EQ(SafetensorsFile(dir / "model-00001-of-00003.safetensors").names(), (std::vector<std::string>{"a", "e"}));
  const json index = json::parse(read_file(dir / "model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 200);
  EXPECT_EQ(index["weight_map"]["d"], "model-00002-of-00003.safetensors");
  EXPECT_EQ(index["weight_map"].size(), 5u);
}

TEST(SafetensorsFolder, ATensorLargerThanAShardHasOneToItself) {
  const TmpDir dir;
  NamedTensors tensors = five();
  tensors.set("d", at::zeros({1000}));
  write_safetensors_sharded(dir.path(), tensors, 100);
  const SafetensorsFolder folder(dir.path());
  EXPECT_EQ(folder.names().size(), 5u);
  EXPECT_EQ(folder.file_of("d").names(), std::vector<std::string>{"d"});
  EXPECT_EQ(folder.file_of("a").names(), (std::vector<std::string>{"a", "e"}));  // the open shard goes on after it
}

TEST(SafetensorsFolder, WillNotMixTwoSaves) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 1000);
  EXPECT_EQ(QKR_MESSAGE_OF(write_safetensors_sharded(dir.path(), five(), 100)),
            (dir / "model.safetensors").string() + ": must not exist yet, got a file (of an earlier save?)");
}

TEST(SafetensorsFolder, ADiskThatFillsUpLeavesNoIndex) {
  const TmpDir dir;
  NamedTensors tensors;
  tensors.set("first", at::zeros({100}));
  tensors.set("large", at::zeros({100'000}));
  {
    const FileSizeLimit disk(10'000);
    EXPECT_NE(QKR_MESSAGE_OF(write_safetensors_sharded(dir.path(), tensors, 100)), "");
  }
  EXPECT_EQ(files_in(dir.path()), std::vector<std::string>{"model-00001-of-00002.safetensors"});
  EXPECT_NE(QKR_MESSAGE_OF(SafetensorsFolder(dir.path())).find("got neither"), std::string::npos);
}

TEST(SafetensorsFolder, NamesWhatIsNotThere) {
  const TmpDir dir;
  EXPECT_EQ(QKR_MESSAGE_OF(SafetensorsFolder(dir.path())),
            dir.path().string() + ": must hold model.safetensors or model.safetensors.index.json, got neither");
  EXPECT_EQ(QKR_MESSAGE_OF(SafetensorsFolder(dir / "none")), (dir / "none").string() + ": must exist, got no such file");
  write_safetensors_sharded(dir.path(), five(), 100);
  const SafetensorsFolder folder(dir.path());
  EXPECT_EQ(QKR_MESSAGE_OF(folder.tensor("f")), dir.path().string() + ": tensor 'f' must be there, got none of that name");
}

// An index changed by `change`, over three good shards.
std::string refusal_of(const std::function<void(json&)>& change) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 100);
  const fs::path path = dir / "model.safetensors.index.json";
  json index = json::parse(read_file(path));
  change(index);
  dir.write("model.safetensors.index.json", index.dump());
  std::string message = QKR_MESSAGE_OF(SafetensorsFolder(dir.path()));
  for (size_t at; (at = message.find(dir.path().string() + "/")) != std::string::npos;) message.erase(at, dir.path().string().size() + 1);
  return message;
}

TEST(SafetensorsFolder, RefusesAnIndexThatLies) {
  const std::string index = "model.safetensors.index.json: ";
  EXPECT_EQ(refusal_of([](json&) {}), "");
  EXPECT_EQ(refusal_of([](json& j) { j["weight_map"]["zz"] = "model-00001-of-00003.safetensors"; }),
            index + "tensor 'zz' must be in model-00001-of-00003.safetensors as weight_map says, got it nowhere");
  EXPECT_EQ(refusal_of([](json& j) { j["weight_map"]["a"] = "model-00003-of-00003.safetensors"; }),
            index + "tensor 'a' must be in model-00003-of-00003.safetensors as weight_map says, got it in model-00001-of-00003.safetensors");
  EXPECT_EQ(refusal_of([](json& j) { j["weight_map"].erase("a"); }),
            "model-00001-of-00003.safetensors: tensor 'a' must be in the weight_map of model.safetensors.index.json, got no such entry");
  EXPECT_EQ(refusal_of([](json& j) { j["weight_map"]["a"] = "model-00009-of-00009.safetensors"; }),
            index + "shard 'model-00009-of-00009.safetensors' must lie beside it, got no such file");
  for (const char* name : {"../x.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\b"}) {
    EXPECT_EQ(refusal_of([&](json& j) { j["weight_map"]["a"] = name; }).find(index + "weight_map must name files beside it, without folders, got '"), 0u) << name;
  }
  const std::string too_long(300, 'n');  // for any file system
  EXPECT_EQ(refusal_of([&](json& j) { j["weight_map"]["a"] = too_long; }).find(index + "shard 'nnn"), 0u);
  EXPECT_EQ(refusal_of([](json& j) { j["weight_map"]["a"] = 3; }), index + "weight_map of 'a' must be a file name, got number");
  EXPECT_EQ(refusal_of([](json& j) { j.erase("weight_map"); }), index + "must have an object weight_map, got none");
  EXPECT_EQ(refusal_of([](json& j) { j = 3; }), index + "must have an object weight_map, got none");
}

TEST(SafetensorsFolder, RefusesATensorInTwoShards) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 100);
  NamedTensors again;
  again.set("a", at::zeros({1}));
  again.set("c", at::zeros({1}));
  write_safetensors(dir / "model-00003-of-00003.safetensors", again);
  EXPECT_NE(QKR_MESSAGE_OF(SafetensorsFolder(dir.path())).find("model-00003-of-00003.safetensors: tensor 'a' must be in one shard, got another in"),
            std::string::npos);
}

TEST(SafetensorsFolder, RefusesATruncatedShard) {
  const TmpDir dir;
  write_safetensors_sharded(dir.path(), five(), 100);
  fs::resize_file(dir / "model-00002-of-00003.safetensors", fs::file_size(dir / "model-00002-of-00003.safetensors") - 1);
  EXPECT_NE(QKR_MESSAGE_OF(SafetensorsFolder(dir.path())).find("model-00002-of-00003.safetensors: tensor 'd' must end within the 79 bytes"),
            std::string::npos);
}

TEST(FixturesSafetensorsFolder, EveryModelOpens) {
  const fs::path index = fixtures_dir() / "models/index.json";
  QKR_NEED_PATH(index);
  const json models = json::parse(read_file(index));  // a name: the loop would not keep a temporary
  for (const json& entry : models["fixtures"]) {
    const fs::path model = fixtures_dir() / "models" / entry["name"].get<std::string>() / "model";
    if (!fs::exists(model)) continue;
    const SafetensorsFolder folder(model);
    int64_t bytes = 0;
    for (const std::string& name : folder.names()) bytes += static_cast<int64_t>(folder.tensor(name).nbytes());
    EXPECT_EQ(bytes, folder.total_bytes()) << model;
    EXPECT_GT(bytes, 0) << model;
  }
}

}  // namespace
}  // namespace qkr::test
