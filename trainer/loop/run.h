// One run: steps until the plan ends, hooks between them.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/train_state.h"
#include "trainer/data/dataset.h"
#include "trainer/loop/hook.h"
#include "trainer/loop/plan.h"
#include "trainer/model/decoder.h"
#include "trainer/optim/adamw.h"

namespace qkr {

// Everything that a run works on. The references outlive it.
struct Run {
  const RunConfig& config;
  Decoder& decoder;
  const std::vector<Sample>& samples;
  const std::vector<Row>& rows;
  AdamW& optimizer;
  TrainState& state;
  std::vector<std::unique_ptr<Hook>>& hooks;
  const std::atomic<bool>& stop_asked;  // looked at between steps
  const Requests* requests = nullptr;   // of its hooks; none: nobody asks
};

// The micro-batch size in tokens that the configuration means.
int64_t micro_batch_tokens(const RunConfig& config);

// The plan over `rows`.
BatchPlan make_plan(const RunConfig& config, const std::vector<Sample>& samples, const std::vector<Row>& rows);

// From state.step to the end of the plan. Error (run failed) naming the step and the first layer if loss or gradient is not
// finite; weights and optimizer are then as they were before that step. Without a labelled token in it a step is refused.
RunEnd run(Run& run);

}  // namespace qkr
