// How a model goes through many prompts: those of a cell share the prefill of what they begin with, and are decoded together.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/decoder.h"
#include "trainer/probe/runner.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr {

struct EngineOptions {
  int64_t prefill_chunk = 32768;  // tokens of one prefill call at most
  int64_t batch = 0;              // prompts that are decoded together; 0: as many as fit, 32 at most
  bool record_steps = true;       // a CUDA graph a step, where that is possible
  bool share_prefixes = true;
};

// What an engine did; added up over its calls.
struct EngineUse {
  int64_t prompts = 0, prompt_tokens = 0, prefilled_tokens = 0;  // prefilled: what was left after sharing
  double prefill_seconds = 0;
  int64_t steps = 0, new_tokens = 0;  // a step gives each of the prompts that still go on a token
  double step_seconds = 0;
  int64_t batch = 0;         // the largest that was used
  int64_t peak_bytes = 0;    // of GPU memory that the process held at most so far, weights included; 0 on a CPU
  std::string not_recorded;  // why steps were launched kernel by kernel; "": they were not
};

// "prefilled 41210 of 80412 prompt tokens (51%, ...) in 3.34 s, 12345 a second; decoded ...; the process held 28.7 GiB of ...".
std::string use_text(const EngineUse& use);

// Greedy text as generate_greedy's. `decoder` and `use` must outlive it. Results differ between batch sizes by the rounding of the
// matrix products alone.
TextEngine text_engine(const Decoder& decoder, const EngineOptions& options, EngineUse* use);

// Answers as answer_reader's.
ReadEngine read_engine(const Decoder& decoder, const EngineOptions& options, EngineUse* use);

}  // namespace qkr
