// Hooks that write the state: checkpoints during a run, the restore and the exported model at its end. Ten lines of glue each;
// the work is done in the rooms checkpoint, restore and model.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "trainer/checkpoint/checkpoint.h"
#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/loop/hook.h"
#include "trainer/model/folder.h"
#include "trainer/restore/restore.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// Saves every checkpoint.every steps, where a hook asks for it, and once more where a signal stops the run.
class CheckpointHook : public Hook {
 public:
  // `requests`: another hook may ask for a checkpoint of a step; `more`: what other hooks put into each.
  CheckpointHook(const CheckpointConfigSection& config, std::filesystem::path folder, Identity identity, Console& console,
                 const Requests* requests = nullptr, WriteMore more = {})
      : config_(config), folder_(std::move(folder)), identity_(std::move(identity)), console_(console), requests_(requests),
        more_(std::move(more)) {}
  void before_run(TrainState& state) override;
  void after_step(const StepReport& report, TrainState& state) override;
  void after_run(RunEnd end, TrainState& state) override;

 private:
  void save(const TrainState& state);

  CheckpointConfigSection config_;
  std::filesystem::path folder_;  // <run>/checkpoints
  Identity identity_;
  Console& console_;
  const Requests* requests_;
  WriteMore more_;
  int64_t saved_step_ = -1;
};

// "restore plain: W_Q and W_K of 2 softmax layers".
std::string restore_title(const RestoreReport& report);
// The same, then a line a layer in the method's own terms.
std::string restore_text(const RestoreReport& report);

// After the last step: the selected weights go back by the configured method, masters follow, restore.json says what was done.
class RestoreHook : public Hook {
 public:
  RestoreHook(const RestoreConfigSection& config, const Snapshot& snapshot, std::filesystem::path json_file, Console& console)
      : config_(config), snapshot_(snapshot), json_file_(std::move(json_file)), console_(console) {}
  void after_run(RunEnd end, TrainState& state) override;

 private:
  RestoreConfigSection config_;
  const Snapshot& snapshot_;
  std::filesystem::path json_file_;
  Console& console_;
};

// After the last step: the weights as they are then, as a Hugging Face folder.
class ExportHook : public Hook {
 public:
  ExportHook(std::filesystem::path folder, const ModelSource& source, Console& console)
      : folder_(std::move(folder)), source_(source), console_(console) {}
  void after_run(RunEnd end, TrainState& state) override;

 private:
  std::filesystem::path folder_;
  const ModelSource& source_;
  Console& console_;
};

}  // namespace qkr
