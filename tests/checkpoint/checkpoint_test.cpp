#include "trainer/checkpoint/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/io/safetensors.h"

namespace qkr::test {
namespace {

// A state of mixed dtypes whose every number depends on `salt`.
TrainState make_state(int64_t salt) {
  TrainState state;
  state.weights.set("model.embed.weight", (at::arange(12) + salt).to(at::kBFloat16).view({4, 3}));
  state.weights.set("model.norm.weight", at::full({3}, static_cast<double>(salt)).set_requires_grad(true));
  state.optim.set("exp_avg.model.embed.weight", at::full({4, 3}, 0.5 * static_cast<double>(salt)));
  state.optim.set("master_low.model.embed.weight", at::full({4, 3}, salt, at::kShort));
  state.step = salt;
  state.next_sample = 10 * salt;
  state.tokens_seen = 100 * salt;
  state.tokens_trained = 99 * salt;
  return state;
}

bool same(const NamedTensors& a, const NamedTensors& b) {
  if (a.size() != b.size()) return false;
  for (const auto& [name, tensor] : a) {
    if (!b.contains(name) || !at::equal(tensor, b.at(name))) return false;
  }
  return true;
}

bool same(const TrainState& a, const TrainState& b) {
  return same(a.weights, b.weights) && same(a.optim, b.optim) && a.step == b.step && a.next_sample == b.next_sample &&
         a.tokens_seen == b.tokens_seen && a.tokens_trained == b.tokens_trained;
}

// Saves step 7 into <dir>/step-000007.
fs::path saved(const TmpDir& dir, const TrainState& state = make_state(7)) {
  const fs::path folder = checkpoint_path(dir.path(), 7);
  save_checkpoint(folder, state, {{"config", "abc"}, {"data", "def"}});
  return folder;
}

TEST(Checkpoint, LoadingCopiesIntoTheLiveTensors) {
  const TmpDir dir;
  const fs::path folder = saved(dir);
  EXPECT_EQ(folder.filename(), "step-000007");
  TrainState live = make_state(1);
  const void* storage = live.weights.at("model.embed.weight").const_data_ptr();
  const Progress progress = load_checkpoint(folder, live);
  EXPECT_TRUE(same(live, make_state(7)));
  EXPECT_EQ(live.weights.at("model.embed.weight").const_data_ptr(), storage);
  EXPECT_TRUE(live.weights.at("model.norm.weight").requires_grad());
  EXPECT_EQ(progress.step, 7);
  EXPECT_EQ(progress.identity, (Identity{{"config", "abc"}, {"data", "def"}}));
}

TEST(Checkpoint, KeepsEveryBitAndStridedTensors) {
  const TmpDir dir;
  TrainState state;
  const at::Tensor odd = at::empty({4}, at::kInt);
  for (int i = 0; i < 4; ++i) odd[i] = static_cast<int64_t>(0x7FC12345) + i;  // NaNs with payloads
  state.weights.set("nan", odd.view(at::kFloat));
  state.weights.set("t", at::arange(6, at::kFloat).view({2, 3}).t());
  save_checkpoint(dir / "step-000001", state);
  TrainState live;
  live.weights.set("nan", at::zeros({4}));
  live.weights.set("t", at::zeros({2, 3}).t());
  load_checkpoint(dir / "step-000001", live);
  EXPECT_TRUE(at::equal(live.weights.at("nan").view(at::kInt), odd));
  EXPECT_TRUE(at::equal(live.weights.at("t"), state.weights.at("t")));
}

TEST(Checkpoint, WillNotWriteOverAnother) {
  const TmpDir dir;
  const fs::path folder = saved(dir);
  EXPECT_EQ(QKR_MESSAGE_OF(save_checkpoint(folder, make_state(9))),
            folder.string() + ": must not exist yet, got a folder that is not empty");
  TrainState live = make_state(1);
  load_checkpoint(folder, live);
  EXPECT_TRUE(same(live, make_state(7)));
}

TEST(Checkpoint, ALeftoverOfAKilledRunIsIgnoredAndReplaced) {
  const TmpDir dir;
  dir.write("step-000009.partial/progress.json", "{}");
  dir.write("step-000007.partial/model.safetensors", "half");
  EXPECT_FALSE(latest_checkpoint(dir.path()).has_value());
  const fs::path folder = saved(dir);
  EXPECT_EQ(latest_checkpoint(dir.path()), folder);
  EXPECT_FALSE(fs::exists(dir / "step-000007.partial"));
  TrainState live = make_state(1);
  load_checkpoint(folder, live);
  EXPECT_TRUE(same(live, make_state(7)));
}

TEST(Checkpoint, AFullDiskLeavesTheOlderOnes) {
  const TmpDir dir;
  const fs::path old = saved(dir);
  TrainState large;
  large.weights.set("w", at::zeros({100'000}));
  std::string message;
  {
    const FileSizeLimit disk(100'000);
    message = QKR_MESSAGE_OF(save_checkpoint(dir / "step-000008", large));
  }
  EXPECT_NE(message.find("step-000008.partial/model.safetensors: must be written, got File too large ("), std::string::npos) << message;
  EXPECT_FALSE(fs::exists(dir / "step-000008"));
  EXPECT_FALSE(fs::exists(dir / "step-000008.partial"));
  EXPECT_EQ(latest_checkpoint(dir.path()), old);
  TrainState live = make_state(1);
  load_checkpoint(old, live);
  EXPECT_TRUE(same(live, make_state(7)));
}

// The file system says that there is no room before a byte is written. The tensor is a promise only: one element, expanded.
TEST(Checkpoint, NoRoomIsAnErrorBeforeAByteIsWritten) {
  const TmpDir dir;
  const fs::path old = saved(dir);
  TrainState huge;
  huge.weights.set("w", at::zeros({1}).expand({int64_t{1} << 55}));
  std::string message;
  try {
    save_checkpoint(dir / "step-000008", huge);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kRunFailed);
    message = error.what();
  }
  EXPECT_EQ(message.find((dir / "step-000008").string() + ": needs 131072.0 TiB for a checkpoint, "), 0u) << message;
  EXPECT_EQ(latest_checkpoint(dir.path()), old);
  EXPECT_FALSE(fs::exists(dir / "step-000008.partial"));
}

// What load_checkpoint says of a live state changed by `change`; nothing of it may have moved.
std::string refusal_of(const std::function<void(TrainState&)>& change) {
  const TmpDir dir;
  const fs::path folder = saved(dir);
  TrainState live = make_state(1), before = make_state(1);
  change(live);
  change(before);
  std::string message = QKR_MESSAGE_OF(load_checkpoint(folder, live));
  EXPECT_TRUE(same(live, before)) << message;
  if (message.find(folder.string() + "/") == 0) message.erase(0, folder.string().size() + 1);
  return message;
}

TEST(Checkpoint, RefusesAnotherModelWithoutHavingChangedAnything) {
  EXPECT_EQ(refusal_of([](TrainState& s) { s.weights.set("extra", at::zeros({1})); }),
            "model.safetensors: tensor 'extra' must be in the checkpoint, as this run has it, got none");
  EXPECT_EQ(refusal_of([](TrainState& s) {
              NamedTensors fewer;
              fewer.set("model.norm.weight", s.weights.at("model.norm.weight"));
              s.weights = fewer;
            }),
            "model.safetensors: tensor 'model.embed.weight' must be one that this run has, got an unknown one");
  EXPECT_EQ(refusal_of([](TrainState& s) { s.weights.set("model.embed.weight", at::zeros({3, 4}, at::kBFloat16)); }),
            "model.safetensors: tensor 'model.embed.weight' must have shape [3, 4] as in this run, got [4, 3]");
  EXPECT_EQ(refusal_of([](TrainState& s) { s.weights.set("model.embed.weight", at::zeros({4, 3})); }),
            "model.safetensors: tensor 'model.embed.weight' must be F32 as in this run, got BF16");
  EXPECT_EQ(refusal_of([](TrainState& s) { s.optim.set("exp_avg.model.embed.weight", at::zeros({12})); }),
            "optim.safetensors: tensor 'exp_avg.model.embed.weight' must have shape [12] as in this run, got [4, 3]");
  EXPECT_EQ(refusal_of([](TrainState& s) { s.optim = NamedTensors(); }),
            "optim.safetensors: tensor 'exp_avg.model.embed.weight' must be one that this run has, got an unknown one");
}

// What load_checkpoint says of a saved folder changed by `change`.
std::string damage(const std::function<void(const fs::path&)>& change) {
  const TmpDir dir;
  const fs::path folder = saved(dir);
  change(folder);
  TrainState live = make_state(1);
  std::string message = QKR_MESSAGE_OF(load_checkpoint(folder, live));
  EXPECT_TRUE(same(live, make_state(1))) << message;
  if (message.find(folder.string()) == 0) message.erase(0, folder.string().size() + 1);
  return message;
}

void edit_progress(const fs::path& folder, const std::function<void(nlohmann::json&)>& change) {
  nlohmann::json json = nlohmann::json::parse(read_file(folder / "progress.json"));
  change(json);
  std::ofstream(folder / "progress.json") << json;
}

TEST(Checkpoint, RefusesADamagedFolder) {
  using Json = nlohmann::json;
  EXPECT_EQ(damage([](const fs::path& f) { fs::remove(f / "optim.safetensors"); }),
            "optim.safetensors: must exist in a checkpoint, got no such file");
  EXPECT_EQ(damage([](const fs::path& f) {
              fs::remove(f / "optim.safetensors");
              fs::create_directory(f / "optim.safetensors");
            }),
            "optim.safetensors: must be a file in a checkpoint, got something else");
  EXPECT_EQ(damage([](const fs::path& f) { fs::remove(f / "progress.json"); }), " must be a checkpoint, got no progress.json in it");
  EXPECT_EQ(damage([](const fs::path& f) { fs::resize_file(f / "model.safetensors", 100); }).find("model.safetensors: must have "), 0u);
  EXPECT_EQ(damage([](const fs::path& f) { fs::resize_file(f / "progress.json", 25); }).find("progress.json:3:"), 0u);
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j.erase("next_sample"); }); }),
            "progress.json: next_sample must be a non-negative integer, got none");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["step"] = -1; }); }),
            "progress.json: step must be a non-negative integer, got '-1'");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["step"] = 1.5; }); }),
            "progress.json: step must be a non-negative integer, got '1.5'");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["format"] = 3; }); }), "progress.json: format must be 2, got 3");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["format"] = 1; }); }),
            "progress.json: format must be 2, got 1, of an earlier build, without digests of its files");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["identity"]["data"] = 3; }); }),
            "progress.json: identity.data must be a string, got number");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["bytes"].erase("optim.safetensors"); }); }),
            "progress.json: bytes: optim.safetensors must be a non-negative integer, got none");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j = Json::array(); }); }),
            "progress.json: format must be a non-negative integer, got none");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j.erase("digests"); }); }),
            "progress.json: digests must be an object of the files' digests, got none");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["digests"].erase("model.safetensors"); }); }),
            "progress.json: digests: model.safetensors must be a digest, got none");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["digests"]["model.safetensors"] = 7; }); }),
            "progress.json: digests: model.safetensors must be a digest, got '7'");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["step"] = uint64_t{1} << 63; }); }),
            "progress.json: step must be a non-negative integer, got '9223372036854775808'");
}

// The file is a user's, and may hold anything.
TEST(Checkpoint, RefusesInOneLineWhateverItsNamesAre) {
  using Json = nlohmann::json;
  const auto with_file = [](const std::string& name) {
    return damage([&](const fs::path& f) { edit_progress(f, [&](Json& j) { j["bytes"][name] = 1; }); });
  };
  const std::string rule = "progress.json: bytes must name files of the checkpoint's folder, got '";
  EXPECT_EQ(with_file("a\nb"), rule + "a\\nb'");
  EXPECT_EQ(with_file(std::string(300, 'n')).find(rule + "nnn"), 0u);  // longer than any file's
  EXPECT_EQ(with_file(""), rule + "'");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["identity"]["a\nb"] = 3; }); }),
            "progress.json: identity.'a\\nb' must be a string, got number");
  EXPECT_EQ(damage([](const fs::path& f) { edit_progress(f, [](Json& j) { j["digests"]["model.safetensors"] = "a\nb"; }); })
                .find("model.safetensors: must have the bytes that were saved, of digest 'a\\nb' as progress.json says, got "),
            0u);
}

// One bit of one byte, the file's size as it was.
void flip(const fs::path& file, int64_t offset) {
  std::string bytes = read_file(file);
  bytes[static_cast<size_t>(offset < 0 ? offset + static_cast<int64_t>(bytes.size()) : offset)] ^= 1;
  std::ofstream(file, std::ios::binary) << bytes;
}

TEST(Checkpoint, RefusesAFlippedBitInAnyFile) {
  const auto refused = [](const std::string& name, const std::string& message) {
    return message.find(name + ": must have the bytes that were saved, of digest ") == 0 && message.find(" as progress.json says, got ") < message.size() &&
           message.find('\n') == std::string::npos;
  };
  for (const std::string name : {"model.safetensors", "optim.safetensors"}) {
    for (const int64_t offset : {0, 20, -1}) {  // the header's length, the header, a tensor
      const std::string message = damage([&](const fs::path& f) { flip(f / name, offset); });
      EXPECT_TRUE(refused(name, message)) << offset << ": " << message;
    }
  }
  const TmpDir dir;
  const fs::path folder = checkpoint_path(dir.path(), 7);
  save_checkpoint(folder, make_state(7), {}, [](const fs::path& in) { std::ofstream(in / "hook-ema.pt") << "twelve bytes"; });
  TrainState live = make_state(1);
  EXPECT_EQ(load_checkpoint(folder, live).step, 7);
  flip(folder / "hook-ema.pt", 3);
  live = make_state(1);
  const std::string message = QKR_MESSAGE_OF(load_checkpoint(folder, live));
  EXPECT_TRUE(refused((folder / "hook-ema.pt").string(), message)) << message;
  EXPECT_TRUE(same(live, make_state(1)));
  EXPECT_EQ(read_progress(folder).step, 7) << "sizes alone do not read the files";
}

TEST(Checkpoint, NamesWhatTheRunWasNotMadeOf) {
  const Identity saved_identity = {{"config", "abc"}, {"data", "def"}};
  EXPECT_EQ(QKR_MESSAGE_OF(require_identity("c", saved_identity, {{"data", "def"}})), "");
  EXPECT_EQ(QKR_MESSAGE_OF(require_identity("c", saved_identity, {{"config", "abc"}, {"data", "xyz"}})),
            "c/progress.json: identity.data must be 'xyz' as in this run, got 'def'");
  EXPECT_EQ(QKR_MESSAGE_OF(require_identity("c", saved_identity, {{"snapshot", "1"}})),
            "c/progress.json: identity.snapshot must be '1' as in this run, got none");
  EXPECT_EQ(QKR_MESSAGE_OF(require_identity("c", saved_identity, {{"hooks", ""}})), "");  // an older build's: none
  EXPECT_EQ(QKR_MESSAGE_OF(require_identity("c", {{"hooks", "ema"}}, {{"hooks", ""}})),
            "c/progress.json: identity.hooks must be '' as in this run, got 'ema'");
}

}  // namespace
}  // namespace qkr::test
