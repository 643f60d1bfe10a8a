// Whether a measurement keeps a gate's bound: from the rows of the probe alone, so that a resumed run judges as an undisturbed one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/probe/runner.h"

namespace qkr {

struct GateJudgement {
  bool broken = false;    // by the last measurement
  int64_t in_a_row = 0;   // measurements up to the last one that broke the bound
  std::string bound;      // "min", "max_drop" or "max": the first that the last measurement broke, or ""
  double value = 0, limit = 0;  // of that bound: percent, points (of the drop) or nats
  std::string text;       // "recall of probe/niah_single_1 is 20.0 % [5.7, 51.0] of 10 prompts at step-4, below min 80"; "" unbroken

  bool acts(const GateConfigSection& gate) const { return in_a_row >= gate.in_a_row; }
};

// The stages that count for a gate, in the order of their measurement. Of a step at which a gate put the weights back, actions other
// than restore see the measurement after it; restore sees those since the last time that it acted, and neither "start" nor "end", as there is
// nothing to put back at one and the run's own restore follows the other. `end_is_restored`: "end" does not count, "restored" follows it.
std::vector<std::string> stages_for(const GateConfigSection& gate, const std::vector<ItemResult>& results, bool end_is_restored);

// A gate on recall, at the last of `stages`. No stage, or no prompt of the metric in it: nothing is broken.
GateJudgement judge_recall(const GateConfigSection& gate, const ProbeConfigSection& probe, const std::vector<ItemResult>& results,
                       const std::vector<std::string>& stages);

// A gate on the loss; `losses` of all steps up to now, or enough of the last ones.
GateJudgement judge_loss(const GateConfigSection& gate, const std::vector<double>& losses, int64_t step);

}  // namespace qkr
