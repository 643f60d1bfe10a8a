// A haystack for runs that bring none: plain English-like sentences of our own, made by a small
// grammar.
#pragma once

#include <cstdint>
#include <string>

#include "trainer/probe/haystack.h"

namespace qkr {

// At least `words` words in paragraphs; the same on every platform, and a shorter text is the
// beginning of a longer one.
std::string generated_text(int64_t words);

// The haystack called "generated": 300,000 words, longer than 256K tokens of any tokenizer;
// repeated beyond.
Haystack generated_haystack();

}  // namespace qkr
