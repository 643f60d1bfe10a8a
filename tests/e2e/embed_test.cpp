// The trainer inside another program, with a hook whose state decides what the run computes.
#include "trainer/apps/embed.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/e2e/small_run.h"
#include "tests/support/fixtures.h"

namespace qkr::test {
namespace {

// Adds a little noise to one weight, from a counter of its own, and stops the run once.
class Noise : public Hook {
 public:
  Noise(std::string name, int64_t stop_at, Requests& requests)
      : name_(std::move(name)), stop_at_(stop_at), requests_(requests) {}
  void after_step(const StepReport& report, TrainState& state) override {
    seed_ = seed_ * 6364136223846793005u + 1442695040888963407u;
    const double noise = 1e-3 * static_cast<double>(seed_ >> 40) / (1 << 24);
    state.weights.at("model.norm.weight").detach().add_(noise);
    requests_.stop = report.step == stop_at_;
  }
  std::string name() const override { return name_; }
  HookState state() const override {
    HookState kept;
    kept.tensors.set("seed", at::scalar_tensor(static_cast<int64_t>(seed_), at::kLong));
    return kept;
  }
  void set_state(const HookState& kept) override {
    seed_ = static_cast<uint64_t>(kept.tensors.at("seed").item<int64_t>());
  }

 private:
  std::string name_;
  int64_t stop_at_;
  uint64_t seed_ = 1;
  Requests& requests_;
};

RunEnd run_in(const TmpDir& folder, const std::vector<std::string>& hooks, int64_t stop_at, bool resume) {
  FineTune job;
  const std::string file = folder.write("run.yaml", small_config(base_model(), folder / "out")).string();
  job.config = load_config(file, {"qk_restore.method=plain", "checkpoint.every=0"});
  for (const std::string& name : hooks) job.hooks.push_back(std::make_unique<Noise>(name, stop_at, job.requests));
  job.resume = resume;
  return fine_tune(job);
}

std::string model_of(const TmpDir& folder) { return read_file(folder / "out" / "model" / "model.safetensors"); }

TEST(Embedded, AHooksStateSurvivesAResumeToTheBit) {
  const TmpDir whole, stopped;
  EXPECT_EQ(run_in(whole, {"noise"}, 0, false), RunEnd::kFinished);
  EXPECT_EQ(run_in(stopped, {"noise"}, 3, false), RunEnd::kStopped);
  EXPECT_TRUE(fs::exists(stopped / "out" / "checkpoints" / "step-000003" / "hook-noise.safetensors"));
  EXPECT_EQ(run_in(stopped, {"noise"}, 0, true), RunEnd::kFinished);
  EXPECT_TRUE(model_of(stopped) == model_of(whole));
  const TmpDir without;
  EXPECT_EQ(run_in(without, {}, 0, false), RunEnd::kFinished);
  EXPECT_FALSE(model_of(without) == model_of(whole)) << "the comparison must be able to fail";
}

TEST(Embedded, AnotherListOfHooksIsAnotherRun) {
  const TmpDir folder;
  ASSERT_EQ(run_in(folder, {"a", "b"}, 2, false), RunEnd::kStopped);
  const std::string place = (folder / "out" / "checkpoints" / "step-000002" / "progress.json").string() +
                            ": identity.hooks of the program must be ";
  EXPECT_EQ(QKR_MESSAGE_OF(run_in(folder, {"a"}, 0, true)), place + "'a' as in this run, got 'a, b'");
  EXPECT_EQ(QKR_MESSAGE_OF(run_in(folder, {"b", "a"}, 0, true)), place + "'b, a' as in this run, got 'a, b'");
  EXPECT_EQ(QKR_MESSAGE_OF(run_in(folder, {"a", "b", "c"}, 0, true)), place + "'a, b, c' as in this run, got 'a, b'");
  EXPECT_EQ(QKR_MESSAGE_OF(run_in(folder, {}, 0, true)), place + "'' as in this run, got 'a, b'");
  const Outcome program =
      run_program(small_command(folder, {"--resume", "--qk-restore", "plain", "--set", "checkpoint.every=0"}));
  EXPECT_EQ(program.code, 2);
  EXPECT_EQ(program.err, "sft-train: " + place + "'' as in this run, got 'a, b'\n");
  EXPECT_EQ(run_in(folder, {"a", "b"}, 0, true), RunEnd::kFinished);
}

TEST(Embedded, TwoHooksOfOneNameAreRefusedBeforeAnythingIsWritten) {
  const TmpDir folder;
  EXPECT_EQ(QKR_MESSAGE_OF(run_in(folder, {"a", "a"}, 0, false)),
            "hook 'a': must have a name of its own, got two hooks of that name");
  EXPECT_FALSE(fs::exists(folder / "out"));
}

}  // namespace
}  // namespace qkr::test
