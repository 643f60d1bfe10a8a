#include "trainer/hooks/restore_every.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/core/text.h"
#include "trainer/hooks/resumed_rows.h"
#include "trainer/hooks/state_hooks.h"
#include "trainer/io/json_lines.h"
#include "trainer/optim/adamw.h"
#include "trainer/optim/moments.h"
#include "trainer/restore/restore.h"

namespace qkr {
namespace {

void follow(const NamedTensors& optim_state, const RestoreReport& report, const Rotations& rotations, const std::string& moments) {
  for (const LayerReport& layer : report.layers) {
    reset_masters(optim_state, layer.written);
    if (moments == "keep") continue;
    for (const std::string& name : layer.written) {
      const auto r = rotations.find(name);
      if (moments == "rotate" && r != rotations.end()) {
        rotate_moments(optim_state, name, r->second);
      } else {
        reset_moments(optim_state, {name});
      }
    }
  }
}

// "restore plain: W_Q and W_K of 2 softmax layers, off the tuned weights by 14.09 to 15.10 % before; moments reset"
std::string line_of(const RestoreReport& report, const std::string& moments) {
  std::vector<double> moved;
  for (const LayerReport& layer : report.layers) moved.push_back(layer.residual_before);
  const auto [least, most] = std::minmax_element(moved.begin(), moved.end());
  const char* word = moments == "reset" ? "reset" : moments == "rotate" ? "rotated" : "kept";
  return restore_title(report) + ", which SFT had moved by " + fixed(100 * *least, 2) + " to " + fixed(100 * *most, 2) + " %; moments " + word;
}

}  // namespace

RestoreEveryHook::RestoreEveryHook(const RestoreConfigSection& config, const Snapshot& snapshot, std::filesystem::path rows, int64_t resumed_step,
                                   Console& console, const Requests* requests)
    : config_(config), every_(restore_interval(config)), snapshot_(snapshot), rows_(std::move(rows)), console_(console), requests_(requests) {
  keep_rows_up_to(rows_, resumed_step);
}

void RestoreEveryHook::after_step(const StepReport& report, TrainState& state) {
  const bool asked = requests_ != nullptr && requests_->restore;
  const bool due = every_ > 0 && report.step % every_ == 0;
  if (!(due || asked) || report.step == report.total_steps) return;
  restore_between_steps(config_, snapshot_, rows_, report.step, "", state, console_);
}

void restore_between_steps(const RestoreConfigSection& config, const Snapshot& snapshot, const std::filesystem::path& rows, int64_t step,
                           const std::string& reason, TrainState& state, Console& console) {
  Rotations rotations;
  const RestoreReport done = restore(state.weights, snapshot, config, &rotations);
  follow(state.optim, done, rotations, config.optimizer_state);
  nlohmann::ordered_json row = {{"step", step}, {"optimizer_state", config.optimizer_state}};
  if (!reason.empty()) row["reason"] = reason;
  const nlohmann::json told = to_json(done);
  for (const auto& [key, value] : told.items()) row[key] = value;
  JsonLinesWriter(rows).write_row(row);
  console.line(line_of(done, config.optimizer_state));
}

}  // namespace qkr
