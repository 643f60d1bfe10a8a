// YAML and --set: trainer/config/parse.h.
#include "trainer/config/parse.h"

#include "tests/fuzz/target.h"
#include "tests/support/fixtures.h"

namespace qkr::fuzz {
namespace {

constexpr const char* kEverySection = R"(=== c.yaml
model: {path: base, dtype: float32, attn_logits_scaling: hype 500}
data: {train: [a.jsonl, 'b c.jsonl'], format: prompt_completion, max_length: 100, separator: "\n\\\"\x01"}
train: {epochs: 2, max_steps: 10, seed: 3, freeze: ["*.mlp.*"]}
optim:
  lr: 2.0e-5   # a comment
  warmup: 0.1
qk_restore: {method: lerp:0.5, layers: [0, 2], at: every 10}
probe: {lengths: [1024, 4096], tasks: [niah_single_1, vt], samples: auto, at: [start, end]}
gate:
  - {metric: probe, min: 80.0, action: stop}
  - metric: loss
    max: 9.5
hooks:
- {script: drift.ts, every: 5}
log: {progress: off}
output: runs/x
)";

constexpr const char* kOverrides = R"(=== c.yaml
model: &m {path: base}
data: {train: [a.jsonl]}
output: |
  runs/x
=== set
optim.lr=2e-5
=== set
gate=[{metric: loss, max: 3.5}]
=== set
gate[0].max=2.5
=== set
probe.lengths=[1024]
)";

}  // namespace

Target config_target() {
  Target target;
  target.name = "config";
  target.seeds = {kEverySection, kOverrides};
  for (const char* name : {"demo", "sft_hypenet", "sft_llama", "sft_qwen3"}) {
    target.seeds.push_back("=== c.yaml\n" +
                           test::read_file(test::source_dir() / "configs" / (std::string(name) + ".yaml")));
  }
  target.words = {"=== set\n",  "\n=== set\n",     "qk_restore.method=auto", "<<: *m",
                  "!!binary x", "? [a, b]",        "%YAML 1.2\n---\n",       "2000-01-01",
                  "[*m]",       "hooks[0].every=2"};
  target.run = [](std::string_view input) {
    std::string yaml;
    std::vector<std::string> overrides;
    for (const Part& part : parts_of(input)) {
      if (part.name == "set") {
        overrides.emplace_back(part.text);
      } else {
        yaml = part.text;
      }
    }
    accepts_or_lists({"c.yaml:", "--set "}, [&] {
      const RunConfig config = parse_config(yaml, "c.yaml", overrides);
      const std::string text = dump_config(config);
      require(dump_config(parse_config(text, "dump", {})) == text, "a dumped configuration is read again as it was");
    });
  };
  return target;
}

}  // namespace qkr::fuzz
