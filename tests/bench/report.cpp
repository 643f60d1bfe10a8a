#include "tests/bench/report.h"

#include <iomanip>
#include <iostream>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {
namespace {

std::string ms_text(double ms) { return fixed(ms, ms < 1 ? 4 : ms < 10 ? 3 : ms < 100 ? 2 : 1); }

std::string ratio_text(double ratio) { return fixed(ratio, ratio < 10 ? 2 : ratio < 100 ? 1 : 0); }

double rate(const Result& result) { return result.work.amount / (result.timings[0].ms / 1e3); }

std::string share_text(double share) { return fixed(100 * share, share < 0.1 ? 1 : 0) + " %"; }

// "a" or "a / b": a cell that speaks of every peer.
template <class Say>
std::string of_peers(const Result& result, Say&& say) {
  std::vector<std::string> words;
  for (size_t i = 1; i < result.timings.size(); ++i) words.push_back(say(result.timings[i]));
  return words.empty() ? "–" : join(words, " / ");
}

std::string accuracy_cell(const Result& result) {
  std::vector<std::string> words;
  for (const Timing& timing : result.timings) {
    if (!timing.accuracy.empty()) words.push_back(timing.name + ": " + timing.accuracy);
  }
  return join(words, "; ");
}

}  // namespace

bool TableReporter::ReportContext(const Context&) {
  GetOutputStream() << limits_.device << "\nlimits: copy " << rate_text(Limit::kCopy, limits_.copy) << ", products of " << limits_.gemm_shape
                    << ": fp64 " << rate_text(Limit::kFp64, limits_.fp64) << ", fp32 " << rate_text(Limit::kFp32, limits_.fp32) << ", bf16 "
                    << rate_text(Limit::kBf16, limits_.bf16) << "\n";
  if (!limits_.clocks.empty()) GetOutputStream() << "clocks of SMs and memory, power, °C under load: " << limits_.clocks << "\n";
  return true;
}

void TableReporter::ReportRuns(const std::vector<Run>& runs) {
  std::ostream& out = GetOutputStream();
  for (const Run& run : runs) {
    const std::string name = run.run_name.function_name;
    const Result* result = find_result(name);
    if (run.run_type == Run::RT_Aggregate) continue;
    if (run.error_occurred || result == nullptr) {
      ++errors_;
      out << "\n" << name << "\n  ERROR " << run.error_message << std::endl;
      continue;
    }
    rows_.push_back(*result);
    out << "\n" << name << ": " << rate_text(result->work.limit, rate(*result)) << ", "
        << share_text(rate(*result) / limits_.of(result->work.limit)) << " of the limit\n";
    for (const Timing& timing : result->timings) {
      out << "  " << std::left << std::setw(14) << timing.name << std::right << std::setw(10) << ms_text(timing.ms) << " ms"
          << std::setw(8) << ratio_text(timing.ms / result->timings[0].ms) << "x" << std::setw(6) << timing.calls << " calls  "
          << timing.accuracy << "\n";
    }
    out << std::flush;
  }
}

std::string TableReporter::row(const Result& result) const {
  const double ours = result.timings[0].ms;
  return concat("| ", result.op, " | ", result.shape, " | ", ms_text(ours), " | ", rate_text(result.work.limit, rate(result)), " | ",
                share_text(rate(result) / limits_.of(result.work.limit)), " | ", of_peers(result, [](const Timing& t) { return t.name; }), " | ",
                of_peers(result, [](const Timing& t) { return ms_text(t.ms); }), " | ",
                of_peers(result, [&](const Timing& t) { return ratio_text(t.ms / ours); }), " | ", accuracy_cell(result), " |\n");
}

void TableReporter::Finalize() {
  std::ostream& out = GetOutputStream();
  out << "\nMedians. The limit is that of the device, above, of this run.\n\n"
      << "| operator | shape | ours, ms | rate | of the limit | peer | peer, ms | peer / ours | accuracy |\n"
      << "|---|---|--:|--:|--:|---|--:|--:|---|\n";
  for (const Result& result : rows_) out << row(result);
  if (errors_ > 0) out << "\n" << errors_ << " of " << rows_.size() + errors_ << " cases FAILED\n";
  out << std::flush;
}

}  // namespace qkr::bench
