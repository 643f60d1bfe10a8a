// What a gate looks at: one word of the configuration.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

struct GateMetric {
  bool loss = false;    // of each step; else recall
  std::string task;     // "": of every task
  int64_t length = 0;   // 0: of every length

  bool holds(const std::string& cell_task, int64_t cell_length) const {
    return !loss && (task.empty() || task == cell_task) && (length == 0 || length == cell_length);
  }
};

// "loss", "probe", "probe/TASK", "probe/TASK/LENGTH" with a task and a length that the probe measures; nullopt for anything else.
std::optional<GateMetric> parse_gate_metric(const std::string& metric, const ProbeConfigSection& probe);

// All that parse_gate_metric takes, for messages.
std::vector<std::string> gate_metrics(const ProbeConfigSection& probe);

}  // namespace qkr
