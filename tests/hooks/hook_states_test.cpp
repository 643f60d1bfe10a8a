// Hooks with a name keep their state in checkpoints: what a resumed run computes with it, and what is refused.
#include "trainer/hooks/hook_states.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <sstream>

#include "tests/loop/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/checkpoint/hook_state.h"
#include "trainer/hooks/state_hooks.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;
using test::TinyRun;
using test::TmpDir;

// Pulls one weight towards its own running mean: what it has seen decides what the run computes.
class Pull : public Hook {
 public:
  explicit Pull(std::string name) : name_(std::move(name)) {}
  void after_step(const StepReport&, TrainState& state) override {
    const at::Tensor weight = state.weights.at("model.norm.weight").detach();
    mean_ = mean_.defined() ? mean_.lerp(weight, 0.25) : weight.clone();
    weight.lerp_(mean_, 0.5);
    ++calls_;
  }
  std::string name() const override { return name_; }
  HookState state() const override {
    HookState kept;
    if (mean_.defined()) kept.tensors.set("mean", mean_);
    kept.texts["calls"] = std::to_string(calls_);
    return kept;
  }
  void set_state(const HookState& kept) override {
    mean_ = kept.tensors.at("mean");
    calls_ = std::stoi(kept.texts.at("calls"));
  }
  int calls() const { return calls_; }

 private:
  std::string name_;
  at::Tensor mean_;
  int calls_ = 0;
};

std::unique_ptr<TinyRun> start(int64_t steps) {
  RunConfig config = test::busy_config();
  config.train.max_steps = steps;
  const std::vector<int64_t> lengths = {31, 7, 40, 12, 25};
  auto run = std::make_unique<TinyRun>(config, test::tiny_decoder("hypenet-tiny", at::kFloat),
                                       test::tiny_samples(lengths), test::row_each(test::tiny_samples(lengths)));
  run->hooks.push_back(std::make_unique<Pull>("pull"));
  return run;
}

Pull& pull_of(TinyRun& run) { return dynamic_cast<Pull&>(*run.hooks[1]); }  // behind TinyRun's own

struct Checkpoints {
  explicit Checkpoints(TinyRun& run) {
    CheckpointConfigSection config;
    config.every = 3;
    run.hooks.push_back(
        std::make_unique<CheckpointHook>(config, dir / "checkpoints", Identity{}, console, nullptr,
                                         [&run](const fs::path& folder) { save_hook_states(folder, run.hooks); }));
  }
  fs::path third() const { return checkpoint_path(dir / "checkpoints", 3); }

  TmpDir dir;
  std::ostringstream out;
  Console console{out, "off"};
};

TEST(HookStates, AResumedRunComputesWhatAnUndisturbedOneDoes) {
  const auto whole = start(7);
  const Checkpoints saved(*whole);
  whole->go();
  const auto resumed = start(7), forgetful = start(7);
  for (TinyRun* run : {resumed.get(), forgetful.get()}) load_checkpoint(saved.third(), run->state);
  load_hook_states(saved.third(), resumed->hooks);
  EXPECT_EQ(pull_of(*resumed).calls(), 3);
  resumed->go();
  forgetful->go();
  test::expect_same_state(resumed->state, whole->state);
  EXPECT_EQ(pull_of(*resumed).calls(), 7);
  const at::Tensor &kept = whole->state.weights.at("model.norm.weight"),
                   &lost = forgetful->state.weights.at("model.norm.weight");
  EXPECT_FALSE(test::same_bytes(kept, lost)) << "the comparison must be able to fail";
}

TEST(HookStates, AHookWithoutANameHasNone) {
  const auto run = start(3);
  run->hooks[1] = std::make_unique<Pull>("");
  const Checkpoints saved(*run);
  run->go();
  for (const auto& entry : fs::directory_iterator(saved.third())) {
    EXPECT_EQ(entry.path().filename().string().rfind("hook-", 0), std::string::npos) << entry.path();
  }
  load_hook_states(saved.third(), run->hooks);
}

TEST(HookStates, MissingOrAnotherHooksIsNamed) {
  const auto run = start(3);
  const Checkpoints saved(*run);
  run->go();
  Hooks hooks;
  hooks.push_back(std::make_unique<Pull>("other"));
  EXPECT_EQ(QKR_MESSAGE_OF(load_hook_states(saved.third(), hooks)),
            (saved.third() / "hook-other.safetensors").string() +
                ": the state of hook 'other' is needed to resume, got no file");
  write_hook_state(saved.third(), "other", {});
  EXPECT_EQ(QKR_MESSAGE_OF(load_hook_states(saved.third(), hooks)),
            (saved.third() / "hook-other.safetensors").string() +
                ": must be a state that hook 'other' takes, got: tensor mean is missing");
}

TEST(HookStates, NamesAreTheirOwnAndNameAFile) {
  const auto refusal = [](std::vector<std::string> names) {
    Hooks hooks;
    for (std::string& name : names) hooks.push_back(std::make_unique<Pull>(name));
    return QKR_MESSAGE_OF(check_hook_names(hooks));
  };
  EXPECT_EQ(refusal({"", "ema", "", "loss-mean_2"}), "");
  EXPECT_EQ(refusal({"ema", "mean", "ema"}), "hook 'ema': must have a name of its own, got two hooks of that name");
  EXPECT_EQ(refusal({"scripts"}),
            "hook 'scripts': must have a name of its own, got that of the configuration's scripts");
  for (const char* name : {"../up", "a.b", "ema 2"}) {
    EXPECT_EQ(refusal({name}), "hook '" + std::string(name) +
                                   "': a hook's name must be at most 100 letters, digits, - and _, as it names a file");
  }
}

TEST(HookStates, AreListedInTheirOrder) {
  Hooks hooks;
  for (const char* name : {"b", "", "a"}) hooks.push_back(std::make_unique<Pull>(name));
  EXPECT_EQ(hook_names(hooks), "b, a");
}

}  // namespace
}  // namespace qkr
