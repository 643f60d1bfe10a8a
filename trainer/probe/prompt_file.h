// Prompts of the user's own as items of the probe: what to ask, and the text that the answer must hold.
#pragma once

#include <string>
#include <vector>

#include "trainer/probe/items.h"

namespace qkr {

struct OwnPrompt {
  std::string prompt, answer;
};

// One item a prompt, in their order, scored and recorded like a needle's: a hit if the greedy text holds `answer` (RULER's rule: in either
// case, anywhere). The cell is `name`; its length is that of the longest prompt in tokens. mode: base (raw text, after the
// tokenizer's prefix) or chat (a user's turn). Error: no prompts, an empty prompt or answer, a mode that needs an answer prefix or a
// chat template that is not there.
std::vector<NeedleItem> prompt_items(const std::vector<OwnPrompt>& prompts, const std::string& name, const std::string& mode,
                                     const TextCodec& codec);

}  // namespace qkr
