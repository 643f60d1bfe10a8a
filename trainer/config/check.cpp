#include "trainer/config/check.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "trainer/config/fields.h"
#include "trainer/config/gate_metric.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

using Found = std::vector<Contradiction>;

void check_data(const DataConfigSection& data, Found& found) {
  if (data.format == "prompt_completion") {
    if (data.prompt_field.empty()) found.push_back({"data.prompt_field", "must name a field, got ''"});
    if (data.completion_field.empty()) found.push_back({"data.completion_field", "must name a field, got ''"});
    if (data.prompt_field == data.completion_field && !data.prompt_field.empty()) {
      found.push_back({"data.completion_field", concat("must differ from data.prompt_field, got ",
                                                       quoted(data.completion_field), " for both")});
    }
    if (data.prompt_template == "chat" && !data.separator.empty()) {
      found.push_back({"data.separator", concat("must be empty where data.prompt_template is chat, whose template "
                                                "separates the turns; got ", quoted(data.separator))});
    }
  }
  if (data.format == "text" && data.text_field.empty()) {
    found.push_back({"data.text_field", "must name a field, got ''"});
  }
}

void check_train(const RunConfig& config, Found& found) {
  const int64_t micro = config.train.micro_batch_tokens;
  if (micro != 0 && micro < config.data.max_length) {
    found.push_back({"train.micro_batch_tokens", concat("must be 0 or >= data.max_length (", config.data.max_length,
                                                        "), so that a row fits; got ", micro)});
  }
  const double warmup = config.optim.warmup;
  if (warmup >= 1 && warmup != std::floor(warmup)) {
    found.push_back({"optim.warmup", concat("must be a whole number of steps where it is not a share below 1, got ",
                                            number_text(warmup))});
  }
}

template <class T>
bool has_repeats(const std::vector<T>& items) {
  return std::set<T>(items.begin(), items.end()).size() != items.size();
}

bool has(const std::vector<std::string>& words, const std::string& word) { return std::find(words.begin(), words.end(), word) != words.end(); }

void check_probe(const ProbeConfigSection& probe, Found& found) {
  if (has_repeats(probe.tasks)) found.push_back({"probe.tasks", "must not name a task twice, got " + join(probe.tasks)});
  if (has_repeats(probe.lengths)) found.push_back({"probe.lengths", "must not hold a length twice"});
  if (probe.lengths.empty()) return;  // no probe
  if (probe.tasks.empty()) {
    found.push_back({"probe.tasks", "must name a task where probe.lengths asks for a probe, got none"});
  }
  const int64_t shortest = *std::min_element(probe.lengths.begin(), probe.lengths.end());
  if (shortest <= probe.max_new_tokens) {
    found.push_back({"probe.lengths", concat("must be > probe.max_new_tokens (", probe.max_new_tokens,
                                             "), which they include; got ", shortest)});
  }
}

void check_restore(const RestoreConfigSection& restore, Found& found) {
  const std::string& method = restore.method;
  const bool control = method == "q" || method == "k" || method == "qkv";
  if (control && restore.parts != "qk") {
    found.push_back({"qk_restore.parts", concat("must stay qk where the method ", method, " says which parts; got ",
                                                quoted(restore.parts), ", which goes with plain")});
  }
  const bool of_the_pair = method == "procrustes-head" || method.compare(0, 6, "qk-pro") == 0;
  if (of_the_pair && restore.parts != "qk") {
    found.push_back({"qk_restore.parts", concat("must be qk where the method is ", method, ", which works on both; got ", quoted(restore.parts))});
  }
  if (method == "procrustes" && (restore.parts == "o" || restore.parts == "norms")) {
    found.push_back({"qk_restore.parts", concat("must hold a weight that reads the layer's input, which is what procrustes rotates; got ",
                                                quoted(restore.parts))});
  }
}

void check_during(const RestoreConfigSection& restore, Found& found) {
  if (restore.method == "auto" && restore.at != "end") {
    found.push_back({"qk_restore.at", "must be end where the method is auto, which is scored once; got " + quoted(restore.at)});
  }
  if (restore.optimizer_state == "rotate" && restore.method != "procrustes" && restore.method != "none") {
    found.push_back({"qk_restore.optimizer_state", concat("must be reset or keep where the method is ", restore.method,
                                                          ", which has no rotation of the input; got 'rotate'")});
  }
}

void check_auto(const RunConfig& config, Found& found) {
  const RestoreConfigSection& restore = config.qk_restore;
  if (restore.candidates.empty() || restore.candidates[0] != "none") {
    found.push_back({"qk_restore.candidates", "must begin with none, which the others have to beat; got " +
                                                  (restore.candidates.empty() ? "nothing" : quoted(restore.candidates[0]))});
  }
  if (has_repeats(restore.candidates)) {
    found.push_back({"qk_restore.candidates", "must not name a candidate twice, got " + join(restore.candidates)});
  }
  if (restore.method != "auto") return;
  if (config.probe.lengths.empty()) {
    found.push_back({"probe.lengths", "must hold a length where qk_restore.method is auto, which scores its candidates by the probe; got none"});
  }
  if (config.probe.samples.is_auto() && config.probe.every == 0 && !has(config.probe.at, "start") && !has(config.probe.at, "end")) {
    found.push_back({"probe.at", "must hold start or end where probe.samples and qk_restore.method are auto: that measurement settles the prompts that "
                                 "the candidates are scored on"});
  }
  const int64_t most = config.probe.samples.is_auto() ? config.probe.max_samples : config.probe.samples.number;
  if (most < 2) {
    found.push_back({config.probe.samples.is_auto() ? "probe.max_samples" : "probe.samples",
                     concat("must be >= 2 where qk_restore.method is auto, which chooses on one half of the prompts and reports on the other; got ",
                            most)});
  }
}

void check_bounds(const GateConfigSection& gate, const std::string& path, const ProbeConfigSection& probe, Found& found) {
  if (gate.metric == "loss") {
    if (!gate.max) found.push_back({path + ".max", "must be given where the metric is loss"});
    if (gate.min) found.push_back({path + ".min", "must be absent where the metric is loss, whose bound is max"});
    if (gate.max_drop) found.push_back({path + ".max_drop", "must be absent where the metric is loss, whose bound is max"});
    if (gate.rule != "point") found.push_back({path + ".rule", "must be point where the metric is loss, which has no interval; got " + quoted(gate.rule)});
    return;
  }
  if (gate.max) found.push_back({path + ".max", "must be absent where the metric is recall, whose bounds are min and max_drop"});
  if (!gate.min && !gate.max_drop) found.push_back({path + ".min", "must be given, or max_drop"});
  if (gate.max_drop && !has(probe.at, "start")) {
    found.push_back({path + ".max_drop", "must stand beside probe.at: [start, ...], whose measurement it is held against; got " +
                                             (probe.at.empty() ? "nothing" : join(probe.at))});
  }
}

void check_gates(const RunConfig& config, Found& found) {
  for (size_t i = 0; i < config.gate.size(); ++i) {
    const GateConfigSection& gate = config.gate[i];
    const std::string path = concat("gate[", i, "]");
    if (!gate.metric.empty() && !parse_gate_metric(gate.metric, config.probe)) {
      const char* rule = config.probe.lengths.empty() ? "must be loss where probe.lengths asks for no probe, got "
                                                      : "must be loss, probe, probe/TASK or probe/TASK/LENGTH of what the probe measures, got ";
      found.push_back({path + ".metric", rule + quoted(gate.metric) + did_you_mean(gate.metric, gate_metrics(config.probe))});
      continue;
    }
    check_bounds(gate, path, config.probe, found);
    if (gate.action != "restore") continue;
    const std::string& method = config.qk_restore.method;
    if (gate.metric == "loss") found.push_back({path + ".action", "must be warn, stop or fail where the metric is loss; got 'restore'"});
    if (method == "none" || method == "auto") {
      found.push_back({path + ".action", concat("must stand beside a qk_restore.method that can act during the run, got 'restore' with ", method)});
    }
  }
}

}  // namespace

std::vector<Contradiction> find_contradictions(const RunConfig& config) {
  Found found;
  check_data(config.data, found);
  check_train(config, found);
  check_restore(config.qk_restore, found);
  check_during(config.qk_restore, found);
  check_auto(config, found);
  check_probe(config.probe, found);
  check_gates(config, found);
  const auto normal = [](const std::string& path) {
    const std::filesystem::path plain = std::filesystem::path(path).lexically_normal();
    return plain.has_filename() ? plain : plain.parent_path();  // runs/a/ is runs/a
  };
  if (!config.output.empty() && normal(config.output) == normal(config.model.path)) {
    found.push_back({"output", "must not be model.path, got " + quoted(config.output) + " for both"});
  }
  return found;
}

void check_config(const RunConfig& config) {
  std::vector<std::string> lines;
  for (const Contradiction& one : find_contradictions(config)) lines.push_back(one.path + ": " + one.text);
  if (!lines.empty()) fail(join(lines, "\n"));
}

}  // namespace qkr
