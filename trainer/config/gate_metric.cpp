#include "trainer/config/gate_metric.h"

namespace qkr {

std::vector<std::string> gate_metrics(const ProbeConfigSection& probe) {
  std::vector<std::string> all = {"loss"};
  if (probe.lengths.empty()) return all;
  all.push_back("probe");
  for (const std::string& task : probe.tasks) {
    all.push_back("probe/" + task);
    for (const int64_t length : probe.lengths) all.push_back("probe/" + task + "/" + std::to_string(length));
  }
  return all;
}

std::optional<GateMetric> parse_gate_metric(const std::string& metric, const ProbeConfigSection& probe) {
  if (metric == "loss") return GateMetric{true, "", 0};
  if (probe.lengths.empty()) return std::nullopt;
  if (metric == "probe") return GateMetric{};
  for (const std::string& task : probe.tasks) {
    if (metric == "probe/" + task) return GateMetric{false, task, 0};
    for (const int64_t length : probe.lengths) {
      if (metric == "probe/" + task + "/" + std::to_string(length)) return GateMetric{false, task, length};
    }
  }
  return std::nullopt;
}

}  // namespace qkr
