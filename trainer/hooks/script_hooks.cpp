#include "trainer/hooks/script_hooks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/core/text.h"
#include "trainer/io/json_text.h"
#include "trainer/optim/adamw.h"

namespace qkr {
namespace {

std::map<std::string, double> step_metrics(const StepReport& r) {
  return {{"loss", r.loss},
          {"grad_norm", r.grad_norm},
          {"lr", r.lr},
          {"epoch", r.epoch},
          {"tokens", static_cast<double>(r.tokens)},
          {"trained_tokens", static_cast<double>(r.trained_tokens)},
          {"tokens_seen", static_cast<double>(r.tokens_seen)},
          {"seconds", r.seconds},
          {"tokens_per_second", r.tokens_per_second},
          {"memory_bytes", static_cast<double>(r.memory_bytes)},
          {"total_steps", static_cast<double>(r.total_steps)}};
}

// Recall of generate where both readings were taken: two readings of one prompt are never added up.
std::map<std::string, double> probe_metrics(const std::vector<ItemResult>& results) {
  const bool generated =
      std::any_of(results.begin(), results.end(), [](const ItemResult& r) { return r.reading == "generate"; });
  std::map<std::string, std::pair<int64_t, int64_t>> counts;  // hits, prompts
  for (const ItemResult& result : results) {
    if (generated && result.reading != "generate") continue;
    for (const std::string& cell :
         {std::string("probe"), "probe/" + result.task + "/" + std::to_string(result.length)}) {
      counts[cell].first += result.hit ? 1 : 0;
      ++counts[cell].second;
    }
  }
  std::map<std::string, double> metrics;
  for (const auto& [cell, count] : counts)
    metrics[cell] = 100.0 * static_cast<double>(count.first) / static_cast<double>(count.second);
  return metrics;
}

nlohmann::ordered_json to_json(const Requests& r) {
  return {{"restore", r.restore}, {"save", r.save}, {"probe", r.probe}};
}

std::string state_file(const Script& script) { return script.name() + ".pt"; }

}  // namespace

ScriptHooks::ScriptHooks(std::vector<Script> scripts, bool can_restore, LogHook& log, RecallProbe& probe,
                         Requests& requests, Console& console)
    : scripts_(std::move(scripts)),
      off_(scripts_.size(), false),
      can_restore_(can_restore),
      log_(log),
      probe_(probe),
      requests_(requests),
      console_(console) {}

void ScriptHooks::before_run(TrainState& state) {
  weights_ = &state.weights;
  optim_ = &state.optim;
  if (state.step == 0) call_all(ScriptEvent::kStart, {}, "on_start", &state);
}

void ScriptHooks::after_step(const StepReport& report, TrainState& state) {
  requests_.restore = pending_.restore;
  requests_.save = pending_.save;
  requests_.probe = pending_.probe;
  pending_ = {};
  ScriptInputs inputs;
  inputs.step = report.step;
  inputs.metrics = step_metrics(report);
  call_all(ScriptEvent::kStep, inputs, "", &state);
}

void ScriptHooks::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  ScriptInputs inputs;
  inputs.step = state.step;
  call_all(ScriptEvent::kEnd, inputs, "on_end", &state);
}

void ScriptHooks::look_at_probe(int64_t step, bool log) {
  const std::string here = "step-" + std::to_string(step);
  if (requests_.probe && !probe_.has(here)) {
    probe_.owe(here);
    probe_.measure(here, step);
  }
  requests_.probe = false;
  std::vector<std::vector<ItemResult>> stages;
  for (const ItemResult& result : probe_.results()) {
    if (stages.empty() || stages.back()[0].stage != result.stage) stages.emplace_back();
    stages.back().push_back(result);
  }
  for (; probes_seen_ < static_cast<int64_t>(stages.size()); ++probes_seen_) {
    const std::vector<ItemResult>& stage = stages[static_cast<size_t>(probes_seen_)];
    ScriptInputs inputs;
    inputs.step = stage[0].step;
    inputs.stage = stage[0].stage;
    inputs.metrics = probe_metrics(stage);
    const bool anew = log || inputs.stage == probe_.broken_stage();  // what an earlier process had not got through
    call_all(ScriptEvent::kProbe, inputs, anew ? "on_probe " + inputs.stage : "again", nullptr);
  }
}

void ScriptHooks::call_all(ScriptEvent event, const ScriptInputs& given, const std::string& event_name,
                           TrainState* state) {
  ScriptInputs inputs = given;
  inputs.weights = weights_;
  inputs.optim = optim_;
  for (size_t i = 0; i < scripts_.size(); ++i) {
    Script& script = scripts_[i];
    if (off_[i] || !script.has(event)) continue;
    if (event == ScriptEvent::kStep && inputs.step % script.config().every != 0) continue;
    try {
      const ScriptReply reply = script.call(event, inputs);
      if (!reply.written.empty() && state == nullptr) {
        throw ScriptError(script.config().script + ": " + method_name(event) + ": must not write to a weight, got " +
                              reply.written[0],
                          false);
      }
      if (state != nullptr) reset_masters(state->optim, reply.written);
      std::vector<std::pair<std::string, double>> values;
      for (const auto& [key, value] : reply.metrics) values.emplace_back("hook/" + script.name() + "/" + key, value);
      if (event_name.empty()) {
        log_.add_to_next_row(values);
      } else if (event_name != "again") {
        log_.write_apart(inputs.step, event_name, values);
      }
      take_requests(script, event, reply.requests);
    } catch (const ScriptError& error) {
      if (script.config().on_error != "off") throw;
      if (!error.may_go_on())
        fail_run(error.what(), "; on_error: off cannot help, as it had begun to write to the weights");
      off_[i] = true;
      console_.line("hook " + script.name() + " is switched off: " + error.what());
    }
  }
}

void ScriptHooks::take_requests(const Script& script, ScriptEvent event, const std::vector<std::string>& asked) {
  const std::string who = script.config().script + ": " + method_name(event) + ": ";
  for (const std::string& request : asked) {
    if (request == "restore" && !can_restore_) {
      throw ScriptError(who + "restore must have a qk_restore.method that acts during a run, got none or auto", true);
    }
    if (request == "probe" && probe_.items().empty())
      throw ScriptError(who + "probe must have probe.lengths, got none", true);
  }
  if (event == ScriptEvent::kEnd) return;
  // Between two steps nothing is left that would carry it out.
  Requests& later = event == ScriptEvent::kStep ? requests_ : pending_;
  for (const std::string& request : asked) {
    if (request == "stop" && requests_.finish) continue;  // of the end's probe, too
    console_.line("hook " + script.name() + " asks for " + request);
    if (request == "stop") requests_.finish = true;
    if (request == "save") later.save = true;
    if (request == "probe") later.probe = true;
    if (request == "restore") later.restore = true;
  }
}

HookState ScriptHooks::state() const {
  nlohmann::ordered_json asked = {
      {"probes_seen", probes_seen_}, {"finish", requests_.finish}, {"probe", requests_.probe}, {"pending", to_json(pending_)}};
  asked["off"] = nlohmann::ordered_json::array();
  HookState state;
  for (size_t i = 0; i < scripts_.size(); ++i) {
    if (off_[i]) {
      asked["off"].push_back(scripts_[i].name());
    } else {
      state.files[state_file(scripts_[i])].write = [&script = scripts_[i]](const std::filesystem::path& file) {
        script.save(file);
      };
    }
  }
  state.texts["asked"] = asked.dump();
  return state;
}

void ScriptHooks::set_state(const HookState& state) {
  const auto text = state.texts.find("asked");
  if (text == state.texts.end()) fail("no text 'asked'");
  const auto asked = parse_json(text->second, "asked");
  probes_seen_ = asked.at("probes_seen").get<int64_t>();
  requests_.finish = asked.at("finish").get<bool>();
  requests_.probe = asked.at("probe").get<bool>();  // of the step just done, whose checkpoint comes before its probe
  const auto& pending = asked.at("pending");
  pending_.restore = pending.at("restore").get<bool>();
  pending_.save = pending.at("save").get<bool>();
  pending_.probe = pending.at("probe").get<bool>();
  const auto off = asked.at("off").get<std::vector<std::string>>();
  for (size_t i = 0; i < scripts_.size(); ++i) {
    off_[i] = std::find(off.begin(), off.end(), scripts_[i].name()) != off.end();
    if (off_[i]) continue;
    const auto file = state.files.find(state_file(scripts_[i]));
    if (file == state.files.end()) fail("no file ", state_file(scripts_[i]));
    scripts_[i].load(file->second.path);
  }
}

std::string describe_scripts(const std::vector<Script>& scripts, const std::vector<std::string>& weight_names) {
  std::string text;
  for (const Script& script : scripts) {
    std::vector<std::string> methods, reads;
    for (const ScriptEvent event : {ScriptEvent::kStart, ScriptEvent::kStep, ScriptEvent::kProbe, ScriptEvent::kEnd}) {
      if (script.has(event)) methods.push_back(method_name(event));
    }
    for (const char* what : {"metrics", "weights", "optim"}) {
      if (script.reads(what)) reads.push_back(what);
    }
    const auto writes = std::count_if(weight_names.begin(), weight_names.end(),
                                      [&](const std::string& name) { return script.may_write(name); });
    text += "hook     " + script.name() + " every " + std::to_string(script.config().every) + ": " + join(methods, " ");
    if (!reads.empty()) text += "; reads " + join(reads, " ");
    if (writes > 0)
      text += "; may write " + std::to_string(writes) + " of " + std::to_string(weight_names.size()) + " weights";
    text += concat("; at most ", script.config().timeout, " s a call, an error ",
                   script.config().on_error == "off" ? "switches it off\n" : "ends the run\n");
  }
  return text;
}

}  // namespace qkr
