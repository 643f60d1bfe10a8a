// A line a step: on the console, in log.jsonl, in TensorBoard's event files.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/io/event_file.h"
#include "trainer/io/json_lines.h"
#include "trainer/loop/hook.h"

namespace qkr {

class LogHook : public Hook {
 public:
  // Rows of `folder`/log.jsonl after `resumed_step` are cut off: those steps will be done again.
  LogHook(const LogConfigSection& config, const std::filesystem::path& folder, int64_t resumed_step, Console& console);

  void after_step(const StepReport& report, TrainState& state) override;

  // Values that other hooks measured: in the row of the step that is being logged, or in a row of their own, {"step", "event", ...},
  // between those of the steps. TensorBoard gets both.
  using Values = std::vector<std::pair<std::string, double>>;
  void add_to_next_row(const Values& values) { added_.insert(added_.end(), values.begin(), values.end()); }
  void write_apart(int64_t step, const std::string& event, const Values& values);

 private:
  void write_events(const StepReport& report);

  LogConfigSection config_;
  Console& console_;
  std::unique_ptr<JsonLinesWriter> rows_;
  std::unique_ptr<EventFileWriter> events_;
  Values added_;
};

// "step  12/300  loss 1.2345  norm 0.87  lr 1.00e-05  12,345 tok/s  3.2 GiB  eta 2m10s"
std::string step_line(const StepReport& report);

}  // namespace qkr
