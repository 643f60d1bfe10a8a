#include <chrono>
#include <ctime>
#include <filesystem>
#include <sstream>

#include "trainer/apps/output.h"
#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/config/fields.h"
#include "trainer/config/parse.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/hooks/auto_restore.h"
#include "trainer/hooks/gate.h"
#include "trainer/hooks/hook_states.h"
#include "trainer/hooks/log_hook.h"
#include "trainer/hooks/restore_every.h"
#include "trainer/hooks/script_hooks.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/io/atomic.h"
#include "trainer/io/safetensors.h"
#include "trainer/loop/trainable.h"
#include "trainer/probe/codec.h"
#include "trainer/probe/summary.h"
#include "trainer/report/report.h"
#include "trainer/restore/selection.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

// Everything that decides the trajectory of the weights, key by key, so that a refused resume can say which one differs.
Identity identity_of(const Prepared& p, const Snapshot& snapshot, const OwnHooks& own) {
  Identity identity = {{"digest of the tokens and masks", p.dataset.digest()}, {"digest of the snapshot", snapshot.digest()}};
  identity["digest of config.json"] = sha256_hex(p.source.config_json);
  identity["hooks of the program"] = hook_names(own.hooks);
  const bool gated = gates_restore(p.config.gate);  // then what they judge by counts too
  const bool during = restore_interval(p.config.qk_restore) > 0 || gated;
  for (const GateConfigSection& gate : p.config.gate) {
    if (gate.action != "restore") continue;
    const auto bound = [](const std::optional<double>& value) { return value ? number_text(*value) : "none"; };
    identity["gates that restore"] += concat("{", gate.metric, ", min ", bound(gate.min), ", max_drop ", bound(gate.max_drop), ", for ", gate.in_a_row,
                                             ", ", gate.rule, "}");
  }
  identity["held-out samples"] = std::to_string(p.held_out.size());
  for (const Script& script : p.scripts) {
    const HookConfigSection& c = script.config();
    identity["hook " + script.name()] = concat("sha256 ", script.digest(), ", every ", c.every, ", writes [", join(c.writes), "]");
  }
  std::istringstream lines(dump_config(p.config));  // "section:", then "  key: value"
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    // What the restore does counts where it acts during the run; at the end another one may be tried on the same steps.
    const bool restores = section == "qk_restore" && (during || starts_with(line, "  at:"));
    if (!starts_with(line, "  ")) {
      section = line.substr(0, colon);
    } else if (restores || (gated && section == "probe") || section == "model" || section == "data" || section == "train" || section == "optim") {
      identity[section + "." + line.substr(2, colon - 2)] = line.substr(colon + 2);
    }
  }
  return identity;
}

// The snapshot of the first start: taken from the model there, read back on a resume.
Snapshot first_snapshot(const Prepared& p, const Decoder& decoder) {
  const fs::path file = fs::path(p.config.output) / "snapshot.safetensors";
  const RestoreConfigSection& restore = p.config.qk_restore;
  const std::vector<MixerLayer> layers = mixer_layers(decoder.architecture());
  if (p.resume_from) {
    if (!fs::exists(file)) fail(file.string(), ": the first start's W_Q and W_K are needed to resume, got no file");
    const SafetensorsFile saved(file);
    NamedTensors tensors;
    for (const std::string& name : saved.names()) tensors.set(name, saved.tensor(name).clone());
    return Snapshot(std::move(tensors), layers_stored(layers, restore, saved.names(), file.string()), saved.metadata());
  }
  return take_snapshot(decoder.weights(), layers_to_keep(layers, restore), {{"model", p.config.model.path}});
}

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

// When a run began: the clock on the wall for the reader, a steady one for the duration.
struct RunTimes {
  std::string started = utc_now();
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
};

void write_summary(const Prepared& p, const TrainState& state, const std::string& status, const std::string& message,
                   const GateOutcome& gates, const RunTimes& times) {
  nlohmann::ordered_json summary = {{"status", status},
                                    {"steps", state.step},
                                    {"tokens_seen", state.tokens_seen},
                                    {"tokens_trained", state.tokens_trained},
                                    {"started", times.started},
                                    {"finished", utc_now()},
                                    {"seconds", times.seconds()},
                                    {"device", p.device.str()},
                                    {"dtype", p.config.model.dtype},
                                    {"model", p.config.model.path},
                                    {"family", family_name(p.source.architecture.family)},
                                    {"parameters", parameter_count(p.source.architecture)},
                                    {"trained_parameters", count_trained(p.source.architecture, p.frozen).weights},
                                    {"method", p.config.qk_restore.method},
                                    {"data_sha256", p.dataset.digest()}};
  if (!message.empty()) summary["message"] = message;
  if (!gates.events.empty()) summary["gates"] = gates.events;
  write_file_atomically(fs::path(p.config.output) / "summary.json", summary.dump(2) + "\n");
}

// The held-out samples, packed as the others are; a batch a row.
std::vector<Batch> held_out_batches(const Prepared& p) {
  const std::vector<Sample>& samples = p.dataset.samples();
  std::vector<int64_t> lengths;
  for (const int64_t i : p.held_out) lengths.push_back(samples[i].size());
  std::vector<Batch> batches;
  for (const Row& row : pack_rows(lengths, p.config.data.max_length, true)) {
    Row chosen;
    for (const int64_t place : row) chosen.push_back(p.held_out[place]);
    batches.push_back(make_batch(samples, {chosen}));
  }
  return batches;
}

bool restores_during_run(const RestoreConfigSection& restore) { return restore.method != "none" && restore.method != "auto"; }

// The hooks in the order in which they act: scripts and the caller's own, so that what they change and measure is in the step's row,
// checkpoint and probe; log, a restore during the run, so that the checkpoint of its step holds it, checkpoint,
// probe, then what happens once at the end, gates when all is measured. Where a gate restores, the checkpoint comes last, so that it
// holds that too.
void add_hooks(Hooks& hooks, Prepared& p, const Snapshot& snapshot, const Decoder& decoder, RecallProbe& probe, const Identity& identity,
               int64_t resumed_step, Console& console, OwnHooks& own, GateOutcome& gates) {
  const fs::path out = p.config.output;
  Requests& asked = own.requests;
  auto log = std::make_unique<LogHook>(p.config.log, out, resumed_step, console);
  const bool scripted = !p.scripts.empty();
  auto scripts = std::make_unique<ScriptHooks>(std::move(p.scripts), restores_during_run(p.config.qk_restore), *log, probe, asked, console);
  ScriptHooks& told = *scripts;
  hooks.push_back(std::move(scripts));
  const bool someone_asks = scripted || !own.hooks.empty();
  for (auto& hook : own.hooks) hooks.push_back(std::move(hook));
  hooks.push_back(std::move(log));
  if (restores_during_run(p.config.qk_restore) && (restore_interval(p.config.qk_restore) > 0 || someone_asks)) {
    hooks.push_back(std::make_unique<RestoreEveryHook>(p.config.qk_restore, snapshot, out / "restores.jsonl", resumed_step, console, &asked));
  }
  auto checkpoint = std::make_unique<CheckpointHook>(p.config.checkpoint, out / "checkpoints", identity, console, &asked,
                                                     [&hooks](const fs::path& folder) { save_hook_states(folder, hooks); });
  if (!gates_restore(p.config.gate)) hooks.push_back(std::move(checkpoint));
  hooks.push_back(std::make_unique<ProbeHook>(p.config.probe, probe, p.plan->total_steps()));
  hooks.push_back(std::make_unique<ScriptProbeHook>(told));
  if (p.config.save_sft_model) hooks.push_back(std::make_unique<ExportHook>(out / "model-sft", p.source, console));
  if (p.config.qk_restore.method == "auto") {
    hooks.push_back(std::make_unique<AutoRestoreHook>(p.config, snapshot, decoder, held_out_batches(p), probe, console));
  } else if (p.config.qk_restore.method != "none") {
    hooks.push_back(std::make_unique<RestoreHook>(p.config.qk_restore, snapshot, out / "restore.json", console));
    if (probes_at(p.config.probe, "restored")) hooks.push_back(std::make_unique<RestoredProbeHook>(probe));
  }
  hooks.push_back(std::make_unique<ScriptProbeHook>(told));
  if (!p.config.gate.empty()) hooks.push_back(std::make_unique<GateHook>(p.config, snapshot, probe, resumed_step, asked, gates, console));
  hooks.push_back(std::make_unique<ExportHook>(out / "model", p.source, console));
  if (checkpoint) hooks.push_back(std::move(checkpoint));
}

void finish(const Prepared& p, const RecallProbe& probe, RunEnd end, const GateOutcome& gates, Console& console) {
  if (!probe.results().empty()) console.line("\n" + probe_table(probe.results()));
  console.line("report " + write_report(p.config.output).string());
  if (end == RunEnd::kFinished) return;
  const bool saved = latest_checkpoint(fs::path(p.config.output) / "checkpoints").has_value();
  console.line(gates.reason.empty() ? concat("stopped by a signal; --resume ", saved ? "goes on from the newest checkpoint" : "begins anew: no step was done")
                                    : "stopped by a gate; --resume with --set gate=... goes on from the newest checkpoint under other gates");
}

// The first error is the one to tell, so nothing that fails while recording it may take its place.
void record_failure(const Prepared& p, const TrainState& state, const std::string& message, const GateOutcome& gates,
                    const RunTimes& times) {
  try {
    write_summary(p, state, "failed", message, gates, times);
    write_report(p.config.output);
  } catch (const std::exception&) {
  }
}

}  // namespace

RunEnd train(Prepared p, Console& console, OwnHooks own) {
  const RunTimes times;
  const fs::path out = p.config.output;
  const at::ScalarType dtype = model_dtype(p.config);
  Decoder decoder = p.config.model.init == "random" ? random_decoder(p.source, dtype, p.device, p.config.train.seed)
                                                    : load_decoder(p.source, dtype, p.device);
  mark_trainable(decoder, p.config.train);
  AdamW optimizer(p.config.optim, decoder.weights());
  TrainState state{decoder.weights(), optimizer.state()};
  const Snapshot snapshot = first_snapshot(p, decoder);
  check_restorable(snapshot, p.config.qk_restore);
  const Identity identity = identity_of(p, snapshot, own);
  if (p.resume_from) {
    require_identity(*p.resume_from, read_progress(*p.resume_from).identity, identity);
    load_checkpoint(*p.resume_from, state);
  }
  // From here on the folder is this run's; what is refused before has written nothing.
  take_output(p);
  drop_checkpoints_after(out / "checkpoints", state.step);
  write_file_atomically(out / "config.yaml", dump_config(p.config));
  if (!p.resume_from) write_safetensors(out / "snapshot.safetensors", snapshot.tensors(), snapshot.metadata());
  const int64_t resumed_step = state.step;
  RecallProbe probe(p.config.probe, decoder, text_codec(p.text), std::move(p.items), out / "probe.jsonl", resumed_step, console,
                    {tokenizer_digest(p.config.model.path), p.config.model.dtype, p.config.model.attn_logits_scaling},
                    make_pool(p.config.probe, p.text));
  GateOutcome gates;
  Hooks hooks;
  add_hooks(hooks, p, snapshot, decoder, probe, identity, resumed_step, console, own, gates);
  if (p.resume_from) load_hook_states(*p.resume_from, hooks);
  RunEnd end = RunEnd::kFinished;
  try {
    Run work{p.config, decoder, p.dataset.samples(), p.rows, optimizer, state, hooks, stop_asked(), &own.requests};
    end = run(work);
    write_summary(p, state, end == RunEnd::kFinished ? "finished" : "stopped", gates.reason, gates, times);
    finish(p, probe, end, gates, console);
  } catch (const std::exception& error) {
    record_failure(p, state, error.what(), gates, times);
    throw;
  }
  if (!gates.reason.empty()) throw Error(ExitCode::kGateFailed, gates.reason);
  return end;
}

}  // namespace qkr
