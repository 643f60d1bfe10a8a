// TorchScript modules as hooks: what they are given, what they may not do, what they keep, and how each failure is
// told.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/hooks/script.h"
#include "trainer/hooks/script_worker.h"

namespace qkr {
namespace {

using test::TmpDir;

class Scripts : public testing::Test {
 protected:
  Scripts() {
    weights.set("layers.0.q.weight", at::arange(12, at::kFloat).reshape({4, 3}));
    weights.set("layers.0.o.weight", at::ones({3, 3}));
    weights.set("norm.weight", at::ones({3}));
    optim.set("exp_avg.norm.weight", at::zeros({3}));
    inputs.step = 7;
    inputs.metrics = {{"loss", 2.5}, {"lr", 1e-3}};
    inputs.weights = &weights;
    inputs.optim = &optim;
  }

  Script make(const std::string& source, std::vector<std::string> writes = {}, double timeout = 20) {
    HookConfigSection config;
    config.script = folder.write("hook.ts", source).string();
    config.writes = std::move(writes);
    config.timeout = timeout;
    return Script(config, "hook", at::kCPU);
  }
  std::string place(int line) const { return (folder / "hook.ts").string() + ":" + std::to_string(line) + ": "; }

  TmpDir folder;
  NamedTensors weights, optim;
  ScriptInputs inputs;
};

TEST_F(Scripts, AreGivenWhatTheyNameAndAnswerInTheirOrder) {
  Script script = make(
      "def on_step(self, metrics: Dict[str, float], weights: Dict[str, Tensor], step: int, optim: Dict[str, Tensor]):\n"
      "  zero = float(optim[\"exp_avg.norm.weight\"].sum())\n"
      "  return {\"z\": float(weights[\"layers.0.q.weight\"].sum()) + zero, \"a\": metrics[\"loss\"] * float(step)}, [\"save\", \"probe\"]\n");
  EXPECT_TRUE(script.has(ScriptEvent::kStep));
  EXPECT_FALSE(script.has(ScriptEvent::kStart));
  EXPECT_TRUE(script.reads("optim"));
  EXPECT_FALSE(script.reads("stage"));
  const ScriptReply reply = script.call(ScriptEvent::kStep, inputs);
  const std::vector<std::pair<std::string, double>> want = {{"z", 66.0}, {"a", 17.5}};
  EXPECT_EQ(reply.metrics, want);
  EXPECT_EQ(reply.requests, (std::vector<std::string>{"save", "probe"}));
  EXPECT_TRUE(reply.written.empty());
}

TEST_F(Scripts, EveryKindOfResultIsUnderstood) {
  inputs.stage = "step-7";
  EXPECT_TRUE(make("def on_start(self):\n  pass\n").call(ScriptEvent::kStart, inputs).metrics.empty());
  EXPECT_EQ(make("def on_end(self) -> Dict[str, float]:\n  return {\"x\": 1.0}\n")
                .call(ScriptEvent::kEnd, inputs)
                .metrics[0]
                .second,
            1.0);
  const ScriptReply reply =
      make("def on_probe(self, stage: str) -> List[str]:\n  return [\"stop\"] if stage == \"step-7\" else [\"save\"]\n")
          .call(ScriptEvent::kProbe, inputs);
  EXPECT_EQ(reply.requests, std::vector<std::string>{"stop"});
}

TEST_F(Scripts, CallTheOperatorsOfThePlugin) {
  Script script = make(
      "def on_step(self, weights: Dict[str, Tensor]):\n"
      "  r, certificate = torch.ops.qk_restore.polar(weights[\"layers.0.o.weight\"] + 3.0 * torch.eye(3), 0.0)\n"
      "  return {\"trace\": float(r.trace())}\n");
  EXPECT_NEAR(script.call(ScriptEvent::kStep, inputs).metrics[0].second, 3.0, 1e-9);
}

struct Write {
  const char* name;
  const char* statement;
  const char* op;
  int line = 3;
};

TEST_F(Scripts, KnowDtypes) {
  Script script = make(
      "def on_step(self):\n  return {\"x\": float(torch.full([], 0.1, dtype=torch.float64) + torch.zeros([1], dtype=torch.double)[0])}\n");
  EXPECT_EQ(script.call(ScriptEvent::kStep, inputs).metrics[0].second, 0.1);
}

class ReadOnly : public Scripts, public testing::WithParamInterface<Write> {};

// By whatever way a script may reach the memory: an alias, a view, an output argument, a list, an operator of the
// plugin.
TEST_P(ReadOnly, WeightsAreNotWrittenTo) {
  const at::Tensor before = weights.at("layers.0.o.weight").clone();
  Script script = make("def on_step(self, weights: Dict[str, Tensor]):\n  w = weights[\"layers.0.o.weight\"]\n  " +
                           std::string(GetParam().statement) + "\n  return {\"x\": 1.0}\n",
                       {"layers.*.q.weight"});
  std::string said;
  try {
    script.call(ScriptEvent::kStep, inputs);
  } catch (const ScriptError& error) {
    said = error.what();
    EXPECT_TRUE(error.may_go_on());
  }
  EXPECT_EQ(said,
            place(GetParam().line) + "on_step: " + GetParam().op +
                ": weights[layers.0.o.weight] must not be written to: no pattern of the hook's `writes` matches it");
  EXPECT_TRUE(weights.at("layers.0.o.weight").equal(before));
}

INSTANTIATE_TEST_SUITE_P(
    , ReadOnly,
    testing::Values(
        Write{"in_place", "w.add_(1.0)", "aten::add_"}, Write{"data", "w.data.mul_(2.0)", "aten::mul_"},
        Write{"detached", "w.detach().zero_()", "aten::zero_"}, Write{"view", "w[1].fill_(9.0)", "aten::fill_"},
        Write{"assigned", "w[0, 0] = 5.0", "aten::copy_"}, Write{"transposed", "w.t().copy_(w)", "aten::copy_"},
        Write{"out", "torch.add(w, w, out=w)", "aten::add"},
        Write{"list", "l = [w]\n  torch._foreach_add_(l, 1.0)\n  assert float(l[0].sum()) > 0.0", "aten::_foreach_add_",
              4},
        Write{
            "plugin",
            "torch.ops.qk_restore.adamw_split_(w, None, w.clone(), w.clone(), w.clone(), None, 0.1, 0.9, 0.9, 0.1, 0.0, 1)",
            "qk_restore::adamw_split_"}),
    [](const auto& with) { return with.param.name; });

TEST_F(Scripts, OptimizerStateIsReadOnlyWhateverWritesSays) {
  Script script =
      make("def on_step(self, optim: Dict[str, Tensor]):\n  optim[\"exp_avg.norm.weight\"].add_(1.0)\n", {"*"});
  EXPECT_EQ(QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs))
                .rfind(place(2) + "on_step: aten::add_: optim[exp_avg.norm.weight] must not", 0),
            0u);
  EXPECT_EQ(optim.at("exp_avg.norm.weight").sum().item<double>(), 0.0);
}

TEST_F(Scripts, WriteWhatTheirPatternsMatchAndSayWhat) {
  Script script = make(
      "def on_step(self, weights: Dict[str, Tensor]):\n"
      "  weights[\"layers.0.q.weight\"].zero_()\n"
      "  weights[\"norm.weight\"][1:].fill_(4.0)\n"
      "  copied = weights[\"layers.0.o.weight\"].clone().zero_()\n",
      {"layers.*.q.weight", "norm.weigh?"});
  EXPECT_EQ(script.call(ScriptEvent::kStep, inputs).written,
            (std::vector<std::string>{"layers.0.q.weight", "norm.weight"}));
  EXPECT_EQ(weights.at("layers.0.q.weight").abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(weights.at("norm.weight").equal(at::tensor({1.f, 4.f, 4.f})));
  EXPECT_TRUE(weights.at("layers.0.o.weight").equal(at::ones({3, 3})));
}

// Nobody knows how far it got, so the run cannot go on as if nothing had happened.
TEST_F(Scripts, AFailureAfterAWriteCannotBeSwitchedOff) {
  Script script = make(
      "def on_step(self, weights: Dict[str, Tensor]):\n  weights[\"norm.weight\"].zero_()\n  assert False, \"no\"\n",
      {"norm.weight"});
  try {
    script.call(ScriptEvent::kStep, inputs);
    FAIL();
  } catch (const ScriptError& error) {
    EXPECT_EQ(error.what(), place(3) + "on_step: AssertionError: no");
    EXPECT_FALSE(error.may_go_on());
    EXPECT_EQ(error.code(), ExitCode::kRunFailed);
  }
}

TEST_F(Scripts, AnExceptionNamesItsLine) {
  Script script = make(
      "def helper(self, x: Tensor):\n  return x.mm(x.t().mm(x)[:2])\n\ndef on_step(self, weights: Dict[str, Tensor]):\n"
      "  y = self.helper(weights[\"layers.0.q.weight\"])\n");
  const std::string said = QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs));
  EXPECT_EQ(said.rfind(place(2) + "on_step: mat1 and mat2 shapes cannot be multiplied", 0), 0u) << said;
  EXPECT_EQ(said.find('\n'), std::string::npos) << said;
}

TEST_F(Scripts, AnUnknownRequestIsRefused) {
  Script script = make("def on_step(self):\n  return [\"halt\"]\n");
  EXPECT_EQ(QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs)),
            place(2) + "on_step: a request must be one of stop, save, probe, restore, got 'halt'");
}

// It would follow the run here, and be a copy after a resume.
TEST_F(Scripts, ALiveTensorIsNotKept) {
  Script script =
      make("def on_step(self, weights: Dict[str, Tensor]):\n  self.state[\"w\"] = weights[\"norm.weight\"][1:]\n");
  EXPECT_EQ(QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs)),
            place(2) + "on_step: must keep a clone() of weights[norm.weight], got the live tensor itself");
}

TEST_F(Scripts, ALateCallIsStoppedAtItsNextOperatorAndNamed) {
  Script script =
      make("def on_step(self):\n  x = torch.zeros([1])\n  while bool(x[0] < 1.0):\n    x = x * 1.0\n", {}, 0.3);
  const auto start = std::chrono::steady_clock::now();
  const std::string said = QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs));
  EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(), 5);
  EXPECT_TRUE(said.rfind(place(3), 0) == 0 || said.rfind(place(4), 0) == 0) << said;
  EXPECT_NE(said.find("on_step: must come back within 0.3 seconds, was stopped here"), std::string::npos) << said;
  EXPECT_EQ(abandoned_script_threads(), 0);
}

// Nothing stops a loop over plain numbers; it is left behind, and what it does with a tensor later fails.
TEST_F(Scripts, ALateCallWithoutAnOperatorIsLeftBehindHarmless) {
  {
    Script script = make(
        "def on_step(self, weights: Dict[str, Tensor]):\n  x = float(weights[\"norm.weight\"].sum())\n  i = 0\n  while i < 30000000:\n    i += 1\n"
        "  weights[\"norm.weight\"].fill_(x + float(i))\n",
        {"norm.weight"}, 0.2);
    EXPECT_EQ(
        QKR_MESSAGE_OF(script.call(ScriptEvent::kStep, inputs)),
        place(2) +
            "on_step: must come back within 0.2 seconds, is left behind in what follows its last tensor operation, which is here");
  }
  for (int i = 0; i < 600 && abandoned_script_threads() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(abandoned_script_threads(), 0);
  EXPECT_TRUE(weights.at("norm.weight").equal(at::ones({3})));
}

// 2 calls + save + load + 2 calls = 4 calls, to the bit, for what a text keeps and for what a saved module keeps.
TEST_F(Scripts, StateSurvivesSavingBitForBit) {
  const std::string source =
      "def on_step(self, weights: Dict[str, Tensor]):\n"
      "  w = weights[\"layers.0.q.weight\"]\n"
      "  if \"mean\" not in self.state:\n    self.state[\"mean\"] = torch.zeros_like(w)\n    self.state[\"count\"] = torch.tensor(0)\n"
      "  self.state[\"mean\"].lerp_(w, 0.3)\n  self.state[\"count\"] += 1\n"
      "  return {\"sum\": float(self.state[\"mean\"].double().sum()), \"count\": float(self.state[\"count\"])}\n";
  const auto advance = [&](Script& script) {
    at::Tensor(weights.at("layers.0.q.weight")).mul_(1.01).add_(0.1);
    return script.call(ScriptEvent::kStep, inputs).metrics;
  };
  const at::Tensor start = weights.at("layers.0.q.weight").clone();
  Script straight = make(source);
  std::vector<std::pair<std::string, double>> want;
  for (int i = 0; i < 4; ++i) want = advance(straight);
  at::Tensor(weights.at("layers.0.q.weight")).copy_(start);
  Script first = make(source);
  for (int i = 0; i < 2; ++i) advance(first);
  first.save(folder / "state.pt");
  Script second = make(source);
  second.load(folder / "state.pt");
  std::vector<std::pair<std::string, double>> got;
  for (int i = 0; i < 2; ++i) got = advance(second);
  EXPECT_EQ(got, want);
  EXPECT_EQ(got[1].second, 4.0);
  // The same file is a saved module, and so a hook itself: with its state, and its lines.
  HookConfigSection config;
  config.script = (folder / "state.pt").string();
  Script loaded(config, "loaded", at::kCPU);
  EXPECT_EQ(advance(loaded)[1].second, 3.0);
}

struct Refusal {
  const char* name;
  const char* source;
  const char* says;  // behind file and line
};

class Refused : public Scripts, public testing::WithParamInterface<Refusal> {};

TEST_P(Refused, BeforeTheRunNamingFileAndLine) {
  try {
    make(GetParam().source);
    FAIL();
  } catch (const Error& error) {
    const std::string said = error.what(), file = (folder / "hook.ts").string();
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
    EXPECT_EQ(said, file + GetParam().says);
  }
}

INSTANTIATE_TEST_SUITE_P(
    , Refused,
    testing::Values(
        Refusal{"syntax", "def on_step(self):\n  return {\n", ":3: expected ident but found 'eof'"},
        Refusal{"operator", "def on_step(self):\n  x = torch.nosuch(1)\n", ":2: Unknown builtin op: aten::nosuch."},
        Refusal{"library", "def on_step(self):\n  x = torch.ops.qk_restore.nosuch(1)\n",
                ":2: Unknown builtin op: qk_restore::nosuch."},
        Refusal{"nothing", "def helper(self):\n  pass\n",
                ": a hook must have one of the methods on_start, on_step, on_probe, on_end, got none of them"},
        Refusal{
            "method", "def on_stop(self):\n  x = 1 + 1\n",
            ":1: a method on_... must be one of on_start, on_step, on_probe, on_end, got on_stop; did you mean on_step?"},
        Refusal{"argument", "def on_step(self, grads: Dict[str, Tensor]):\n  x = len(grads)\n",
                ":1: on_step: an argument must be step, stage, metrics, weights or optim, got grads"},
        Refusal{"annotation", "def on_step(self, step):\n  x = step + 1\n",
                ":1: on_step: step must be int, got Tensor (what has no annotation is a Tensor)"},
        Refusal{"type", "def on_step(self, weights: Dict[str, float]):\n  x = len(weights)\n",
                ":1: on_step: weights must be Dict[str, Tensor], got Dict[str, float]"},
        Refusal{"stage", "def on_step(self, stage: str):\n  x = len(stage)\n",
                ":1: on_step: stage must be an argument of on_probe alone"},
        Refusal{
            "result", "def on_step(self, step: int):\n  return {\"x\": step}\n",
            ":2: on_step: must return None, Dict[str, float], List[str] or Tuple[Dict[str, float], List[str]], got Dict[str, int]"}),
    [](const auto& with) { return with.param.name; });

TEST_F(Scripts, FilesThatAreNoScriptsAreRefused) {
  HookConfigSection config;
  config.script = folder.write("hook.py", "x").string();
  EXPECT_EQ(QKR_MESSAGE_OF(Script(config, "hook", at::kCPU)),
            config.script + ": a hook's script must be a .pt (saved module) or a .ts (source text)");
  config.script = folder.write("hook.pt", "not a zip").string();
  EXPECT_EQ(QKR_MESSAGE_OF(Script(config, "hook", at::kCPU))
                .rfind(config.script + ": must be a module that torch.jit.save wrote, got '", 0),
            0u);
  config.script = (folder / "absent.ts").string();
  EXPECT_EQ(QKR_MESSAGE_OF(Script(config, "hook", at::kCPU)).rfind(config.script, 0), 0u);
}

TEST_F(Scripts, ListIsNamedByStemsAndItsPatternsMustMatch) {
  HookConfigSection config;
  config.script = folder.write("ema.ts", "def on_start(self):\n  pass\n").string();
  config.writes = {"*.q.weight"};
  const std::vector<Script> two = load_scripts({config, config}, {"layers.0.q.weight"}, at::kCPU);
  EXPECT_EQ(two[0].name(), "ema");
  EXPECT_EQ(two[1].name(), "ema-2");
  EXPECT_TRUE(two[0].may_write("layers.0.q.weight"));
  EXPECT_FALSE(two[0].may_write("layers.0.q.weight.more"));
  config.writes = {"layer.0.q.weight"};
  EXPECT_EQ(
      QKR_MESSAGE_OF(load_scripts({config}, {"layers.0.q.weight"}, at::kCPU)),
      "hooks[0].writes: 'layer.0.q.weight' must match a weight of the model, got none; did you mean layers.0.q.weight?");
}

}  // namespace
}  // namespace qkr
