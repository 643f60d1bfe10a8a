// qk_restore.at: every N. The selected weights go back between steps, and the optimizer follows, so that the run goes on from the
// restored weights. Added before the checkpoint and probe hooks: what they see of such a step is the restored state.
#pragma once

#include <filesystem>
#include <string>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/loop/hook.h"
#include "trainer/restore/snapshot.h"

namespace qkr {

// after_step: after every N-th step but the last, which the end's restore takes, and where another hook asks for it. The masters of
// what was written become the written values (their low halves zero); the moments by qk_restore.optimizer_state:
//   reset    become 0
//   rotate   turn with the weights that R turned (trainer/optim/moments.h), as if the gradients had been taken before R; those of
//            what else went back become 0
//   keep     stay: right as far as the gradients of the last steps were already taken in the basis that R leads to
// A row a restore in `rows`; those after `resumed_step` are cut off, as those steps will be done again.
class RestoreEveryHook : public Hook {
 public:
  RestoreEveryHook(const RestoreConfigSection& config, const Snapshot& snapshot, std::filesystem::path rows, int64_t resumed_step, Console& console,
                   const Requests* requests = nullptr);
  void after_step(const StepReport& report, TrainState& state) override;

 private:
  RestoreConfigSection config_;
  int64_t every_;
  const Snapshot& snapshot_;
  std::filesystem::path rows_;
  Console& console_;
  const Requests* requests_;
};

// What RestoreEveryHook does at such a step, for another that has found a reason to: it stands in the row and on the console.
void restore_between_steps(const RestoreConfigSection& config, const Snapshot& snapshot, const std::filesystem::path& rows, int64_t step,
                           const std::string& reason, TrainState& state, Console& console);

}  // namespace qkr
