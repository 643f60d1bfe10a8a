// What watches a run. The loop knows this word and nothing that implements it.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/core/hook_state.h"
#include "trainer/core/train_state.h"

namespace qkr {

// What one optimizer step did. Loss and norm are those before the update.
struct StepReport {
  int64_t step = 0, total_steps = 0;
  double epoch = 0;
  double loss = 0;       // mean over the step's labelled tokens, all micro-batches together; nats
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0, trained_tokens = 0;  // of this step
  int64_t tokens_seen = 0;                 // of the run
  double seconds = 0, tokens_per_second = 0;
  int64_t memory_bytes = 0;  // peak: the GPU allocator's, or the process's resident set on a CPU
  double eta_seconds = 0;
};

// What a hook may ask of the run between steps. The hook that asks sets it; the loop carries out `finish`, the hooks whose business the
// others are carry those out after the same step, in their order; who sets them clears them before it asks anew.
struct Requests {
  bool finish = false;   // no further step: the run ends as if its plan had ended here
  bool stop = false;     // no further step: the run ends as if a signal had asked for it
  bool restore = false, save = false, probe = false;
};

enum class RunEnd { kFinished, kStopped };  // kStopped: a signal asked for it

// Called between steps, never inside one, in the order in which hooks were added. May read the whole state, and change it.
class Hook {
 public:
  virtual ~Hook() = default;
  virtual void before_run(TrainState&) {}
  virtual void after_step(const StepReport&, TrainState&) {}
  virtual void after_run(RunEnd, TrainState&) {}

  // State that must survive a stop. A hook with a name, letters, digits, - and _, has its state in every checkpoint, as it is between the
  // steps, and takes it back before before_run() of a resumed run. set_state() may throw: the line that the user sees names file and hook.
  virtual std::string name() const { return ""; }
  virtual HookState state() const { return {}; }
  virtual void set_state(const HookState&) {}
};

}  // namespace qkr
