// The trainer inside another program, in one call: what sft-train does, with hooks of the program's own. Installed as
// <qk_restore/fine_tune.h>; CMake: find_package(qk_restore CONFIG), target qk_restore::trainer. examples/embed uses it.
#pragma once

#include <memory>
#include <ostream>
#include <vector>

#include "trainer/config/parse.h"
#include "trainer/config/run_config.h"
#include "trainer/core/error.h"
#include "trainer/loop/hook.h"

namespace qkr {

// `config`: load_config(file, overrides), or a RunConfig filled in place (check_config() says what is wrong with one).
// `hooks`: called after each step, before its log row, restore, checkpoint and probe, in their order; after_run() comes
// before the end's probe, restore and export. A hook that keeps a reference to `requests` may set what the run is to
// do.
struct FineTune {
  RunConfig config;
  std::vector<std::unique_ptr<Hook>> hooks;  // used up by the run
  Requests requests;
  bool resume = false;          // as --resume
  std::ostream* out = nullptr;  // what sft-train prints goes here; null: nowhere
};

// The whole run: reads, trains, restores by config.qk_restore, measures, writes config.output. Throws Error whose
// code() is the exit code that sft-train would end with. Process-wide: deterministic algorithms are switched on, TF32
// off. No signal is listened for.
RunEnd fine_tune(FineTune& job);

}  // namespace qkr
