// The same on every device: the guard, state that is saved and loaded, the plugin's operators, a script as its own
// thread sees the device.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/script.h"

namespace qkr {
namespace {

class ScriptOn : public test::DeviceTest {
 protected:
  void SetUp() override {
    test::DeviceTest::SetUp();
    if (IsSkipped()) return;
    weights.set("q", here(at::arange(64 * 48, at::kFloat).reshape({64, 48}).sin()).to(at::kBFloat16));
    weights.set("o", here(at::ones({48, 48})));
    inputs.weights = &weights;
    inputs.optim = &weights;
  }
  Script load(const std::filesystem::path& file, std::vector<std::string> writes = {}) {
    HookConfigSection config;
    config.script = file.string();
    config.writes = std::move(writes);
    return Script(config, "hook", device());
  }

  test::TmpDir folder;
  NamedTensors weights;
  ScriptInputs inputs;
};

TEST_P(ScriptOn, ReadOnlyWeightsStayAndWritableOnesChange) {
  const std::string source =
      "def on_step(self, weights: Dict[str, Tensor]):\n  weights[\"q\"].mul_(0.5)\n  weights[\"o\"][1].zero_()\n";
  Script refused = load(folder.write("a.ts", source), {"q"});
  EXPECT_NE(QKR_MESSAGE_OF(refused.call(ScriptEvent::kStep, inputs)).find("weights[o] must not be written to"),
            std::string::npos);
  EXPECT_EQ(weights.at("o").sum().item<double>(), 48.0 * 48);
  Script allowed = load(folder.write("b.ts", source), {"*"});
  EXPECT_EQ(allowed.call(ScriptEvent::kStep, inputs).written, (std::vector<std::string>{"q", "o"}));
  EXPECT_EQ(weights.at("o").sum().item<double>(), 47.0 * 48);
}

TEST_P(ScriptOn, DriftMonitorMeasuresARotation) {
  Script drift = load(test::source_dir() / "examples" / "hooks" / "drift.ts");
  NamedTensors named;
  named.set("l.q_proj.weight", weights.at("q"));
  named.set("l.k_proj.weight", here(at::randn({32, 48})).to(at::kBFloat16));
  inputs.weights = &named;
  drift.call(ScriptEvent::kStart, inputs);
  const auto same = drift.call(ScriptEvent::kStep, inputs).metrics;
  EXPECT_EQ(same[0].second, 0.0);   // moved/max
  EXPECT_LT(same[3].second, 1e-6);  // rotation
  // A quarter turn in the plane of two input axes.
  for (const auto& [name, weight] : named) {
    const at::Tensor before = weight.clone();
    at::Tensor(weight).select(1, 0).copy_(before.select(1, 1));
    at::Tensor(weight).select(1, 1).copy_(-before.select(1, 0));
  }
  const auto turned = drift.call(ScriptEvent::kStep, inputs).metrics;
  EXPECT_GT(turned[0].second, 0.1);
  EXPECT_GT(turned[3].second, 0.05);
  EXPECT_LT(turned[3].second, 0.5);
}

TEST_P(ScriptOn, StateStaysOnItsDeviceThroughACheckpoint) {
  const std::filesystem::path ema = test::source_dir() / "examples" / "hooks" / "ema.ts";
  const auto advance = [&](Script& script, int64_t step) {
    at::Tensor(weights.at("q")).mul_(1.01);
    inputs.step = step;
    return script.call(ScriptEvent::kStep, inputs).metrics;
  };
  const at::Tensor start = weights.at("q").clone();
  Script straight = load(ema, {"*"});
  for (int64_t step = 1; step <= 4; ++step) advance(straight, step);
  straight.call(ScriptEvent::kEnd, inputs);
  const at::Tensor want = weights.at("q").clone();
  at::Tensor(weights.at("q")).copy_(start);
  Script first = load(ema, {"*"});
  for (int64_t step = 1; step <= 2; ++step) advance(first, step);
  first.save(folder / "state.pt");
  Script second = load(ema, {"*"});
  second.load(folder / "state.pt");
  for (int64_t step = 3; step <= 4; ++step) advance(second, step);
  EXPECT_EQ(second.call(ScriptEvent::kEnd, inputs).written, (std::vector<std::string>{"q", "o"}));
  EXPECT_TRUE(test::same_bytes(weights.at("q"), want));
  EXPECT_FALSE(test::same_bytes(want, start));
}

QKR_ON_EVERY_DEVICE(ScriptOn);

}  // namespace
}  // namespace qkr
