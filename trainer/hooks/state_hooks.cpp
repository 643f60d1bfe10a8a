#include "trainer/hooks/state_hooks.h"

#include <fcntl.h>

#include <cstdio>
#include <map>

#include "trainer/core/text.h"
#include "trainer/io/atomic.h"
#include "trainer/optim/adamw.h"

namespace qkr {
namespace {

const char* parts_text(const std::string& parts) {
  static const std::map<std::string, const char*> kWords = {
      {"qk", "W_Q and W_K"}, {"q", "W_Q"}, {"k", "W_K"}, {"qkv", "W_Q, W_K and W_V"}, {"v", "W_V"},
      {"o", "W_O"}, {"gates", "the gates"}, {"norms", "the norms' gains"}, {"mixer", "all mixer weights"}};
  return kWords.at(parts);
}

std::string restore_line(const LayerReport& layer) {
  if (layer.unmoved) return "  layer " + std::to_string(layer.layer) + "  not moved by SFT, so there was nothing to put back";
  static const std::pair<const char*, const char*> kChanges[] = {{"q", "Q"}, {"k", "K"}, {"v", "V"}, {"o", "O"}, {"gates", "gates"},
                                                                 {"norms", "norms"}};
  std::vector<std::string> moved;
  for (const auto& [key, word] : kChanges) {
    const auto change = layer.changes.find(key);
    if (change != layer.changes.end()) moved.push_back(word + (" " + fixed(100 * change->second, 3)) + " %");
  }
  std::string text = "  layer " + std::to_string(layer.layer) + "  moved by SFT: " + join(moved);
  if (layer.rotation) text += (layer.free_coordinates ? "  |A - I| " : "  |R - I| ") + scientific(*layer.rotation, 2);
  if (layer.free_coordinates) text += "  free coordinates of a head " + std::to_string(*layer.free_coordinates);
  if (layer.corrected) text += "  Q taken back " + fixed(100 * *layer.corrected, 1) + " %  lambda " + scientific(*layer.lambda_max, 1);
  text += "  off the tuned weights " + fixed(100 * layer.residual_before, 3) + " -> " + fixed(100 * layer.residual_after, 3) + " %";
  if (layer.certificate) text += "  gap <= " + scientific(layer.certificate->gap_bound, 1);
  return text;
}

// The two folders trade names in one step, so that at no moment there is none. Where the file system cannot (NFS), in two.
void exchange(const std::filesystem::path& fresh, const std::filesystem::path& old) {
  if (renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, old.c_str(), RENAME_EXCHANGE) == 0) return sync_folder(old.parent_path());
  remove_tree(old);
  std::filesystem::rename(fresh, old);
  sync_folder(old.parent_path());
}

}  // namespace

std::string restore_title(const RestoreReport& report) {
  if (report.method == "none") return "restore none: nothing was put back";
  const LayerChoice& choice = report.layer_choice;
  const std::string kind = choice.word.empty() || choice.word == "all" ? "" : choice.word + " ";
  return "restore " + report.method + ": " + parts_text(report.parts) + " of " + std::to_string(report.layers.size()) + " " + kind +
         (report.layers.size() == 1 ? "layer" : "layers");
}

std::string restore_text(const RestoreReport& report) {
  std::string text = restore_title(report) + "\n";
  for (const LayerReport& layer : report.layers) text += restore_line(layer) + "\n";
  return text;
}

void CheckpointHook::save(const TrainState& state) {
  if (saved_step_ == state.step) return;
  save_checkpoint(checkpoint_path(folder_, state.step), state, identity_, more_);
  prune_checkpoints(folder_, config_.keep);
  saved_step_ = state.step;
  console_.line("checkpoint " + checkpoint_path(folder_, state.step).string());
}

// What a run was resumed from is there: a stop before its first step must not write it again.
void CheckpointHook::before_run(TrainState& state) {
  if (latest_checkpoint(folder_) == checkpoint_path(folder_, state.step)) saved_step_ = state.step;
}

void CheckpointHook::after_step(const StepReport& report, TrainState& state) {
  const bool asked = requests_ != nullptr && requests_->save;
  if (asked || (config_.every > 0 && report.step % config_.every == 0)) save(state);
}

void CheckpointHook::after_run(RunEnd end, TrainState& state) {
  if (end == RunEnd::kStopped && state.step > 0) save(state);
}

void RestoreHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  const RestoreReport report = restore(state.weights, snapshot_, config_);
  for (const LayerReport& layer : report.layers) reset_masters(state.optim, layer.written);
  write_file_atomically(json_file_, to_json(report).dump(2) + "\n");
  console_.line(restore_text(report));
}

void ExportHook::after_run(RunEnd end, TrainState& state) {
  if (end != RunEnd::kFinished) return;
  if (std::filesystem::exists(folder_)) {  // of an earlier end of this same run: it stays until the new one is whole
    const std::filesystem::path fresh = folder_.string() + ".new";
    remove_tree(fresh);
    save_model(fresh, source_, state.weights);
    exchange(fresh, folder_);
    remove_tree(fresh);
  } else {
    save_model(folder_, source_, state.weights);
  }
  console_.line("model " + folder_.string());
}

}  // namespace qkr
