// A model as the probe uses it.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/model/decoder.h"
#include "trainer/probe/runner.h"
#include "trainer/probe/teacher_forced.h"

namespace qkr {

// Greedy text of `decoder`, which must outlive it. The probe's own rule ends the text, the limit and the end tokens included.
Generator greedy_text(const Decoder& decoder, int64_t prefill_chunk);

// One prefill in chunks, the LM head at the answer's positions alone (qk_restore::answer_logprobs).
AnswerReader answer_reader(const Decoder& decoder, int64_t prefill_chunk);

// 16 hex digits that tell two models apart: of the names, dtypes and shapes of all weights and the sums of the bits of each row and
// each column, taken where the weights are, in the time of reading them. Not proof against forgery. `settings`: what else the
// model's output hangs on.
std::string weights_digest(const NamedTensors& weights, const std::string& settings);

}  // namespace qkr
