#include "trainer/hooks/state_hooks.h"

#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/optim/adamw.h"

namespace qkr {
namespace {

std::string restore_line(const LayerReport& layer) {
  std::string text = "  layer " + std::to_string(layer.layer) + "  moved by SFT: Q " + fixed(100 * layer.q_change, 3) + " %, K " +
                     fixed(100 * layer.k_change, 3) + " %";
  if (layer.certificate) {
    text += "  |R - I| " + scientific(layer.rotation, 2) + "  off the tuned weights " + fixed(100 * layer.residual_before, 3) + " -> " +
            fixed(100 * layer.residual_after, 3) + " %  gap <= " + scientific(layer.certificate->gap_bound, 1);
  }
  return text;
}

}  // namespace

void CheckpointHook::save(const TrainState& state) {
  if (saved_step_ == state.step) return;
  save_checkpoint(checkpoint_path(folder_, state.step), state, identity_);
  prune_checkpoints(folder_, config_.keep);
  saved_step_ = state.step;
  console_.line("checkpoint " + checkpoint_path(folder_, state.step).string());
}

void CheckpointHook::after_step(const StepReport& report, TrainState& state) {
  if (config_.every > 0 && report.step % config_.every == 0) save(state);
}

void CheckpointHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kStopped && state.step > 0) save(state);
}

void RestoreHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  const RestoreReport report = restore(state.weights, snapshot_, config_);
  for (const LayerReport& layer : report.layers) reset_masters(state.optim, layer.written);
  write_file_atomically(json_file_, to_json(report).dump(2) + "\n");
  console_.line("restore " + config_.method + ": W_Q and W_K of " + std::to_string(report.layers.size()) + " softmax layers");
  for (const LayerReport& layer : report.layers) console_.line(restore_line(layer));
}

void ExportHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  remove_tree(folder_);  // of an earlier end of this same run
  save_model(folder_, source_, state.weights);
  console_.line("model " + folder_.string());
}

std::vector<SoftmaxLayer> restorable_layers(const Decoder& decoder) {
  std::vector<SoftmaxLayer> layers;
  for (const RoutingNames& n : decoder.routing_names()) {
    layers.push_back({n.layer, n.q_weight, n.k_weight, n.q_bias, n.k_bias, n.q_norm, n.k_norm});
  }
  return layers;
}

}  // namespace qkr
