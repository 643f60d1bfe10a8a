// One paragraph a case while they run, then a Markdown table of all.
#pragma once

#include <benchmark/benchmark.h>

#include <string>
#include <vector>

#include "tests/bench/limits.h"

namespace qkr::bench {

struct Timing {
  std::string name;
  double ms;  // the median
  size_t calls;
  std::string accuracy;
};

struct Result {
  std::string op, shape;
  Work work;
  std::vector<Timing> timings;  // ours, then the peers
};

// Of the case registered as `name`, once it has run.
const Result* find_result(const std::string& name);

class TableReporter : public benchmark::BenchmarkReporter {
 public:
  explicit TableReporter(const Limits& limits) : limits_(limits) {}
  bool ReportContext(const Context&) override;
  void ReportRuns(const std::vector<Run>& runs) override;
  void Finalize() override;

  size_t cases() const { return rows_.size(); }
  size_t errors() const { return errors_; }

 private:
  std::string row(const Result& result) const;

  const Limits& limits_;
  std::vector<Result> rows_;
  size_t errors_ = 0;
};

}  // namespace qkr::bench
