// The probe on a model folder, without a run.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/hooks/console.h"
#include "trainer/probe/comparison.h"

namespace qkr {

struct ProbeFolderOptions {
  std::string model;
  std::string output;   // JSON lines; "": none
  std::string heads;    // JSON lines of the heads' attention on the needle; "": nobody looks
  bool resume = false;  // output may be there: what it holds is not measured again
  std::string device = "auto", dtype = "bfloat16", logits_scaling = "checkpoint";
  int64_t batch = 0;  // prompts decoded together; 0: what fits
  std::string stage = "probe", reading = "generate";  // reading: generate, teacher_forced or both
  std::string prompts;        // a file of the user's own prompts instead of the section's needles; ""
  int64_t prompt_limit = 0;   // the first so many of them; 0: all
  ProbeConfigSection section;
};

// Measures all items of the section and returns their results, those of an earlier process first. Error: an output that exists
// without resume, or that holds results of another model, tokenizer, haystack, prompt or setting.
std::vector<ItemResult> probe_folder(const ProbeFolderOptions& options, Console& console);

// The table of rates.
std::string results_text(const std::vector<ItemResult>& results);

// Rows of a result file; "FILE:STAGE" those of one stage. Error: no such file, no rows, no such stage.
NamedResults read_results(const std::string& file);

// Two result files as they are, or two model folders, measured one after the other; both of one kind.
std::pair<NamedResults, NamedResults> compared_results(const ProbeFolderOptions& options, const std::string& first,
                                                       const std::string& second, Console& console);

}  // namespace qkr
