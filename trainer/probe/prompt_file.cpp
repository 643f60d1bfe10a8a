#include "trainer/probe/prompt_file.h"

#include <algorithm>

#include "trainer/core/digest.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {

std::vector<NeedleItem> prompt_items(const std::vector<OwnPrompt>& prompts, const std::string& name, const std::string& mode,
                                     const TextCodec& codec) {
  if (mode != "base" && mode != "chat") fail("mode: must be base or chat for prompts from a file, which have no answer prefix, got ", mode);
  if (mode == "chat" && !codec.chat) fail("mode: chat needs a chat template, and the model has none");
  if (prompts.empty()) fail(name, ": must hold prompts, got none");
  std::vector<NeedleItem> items;
  int64_t longest = 0;
  for (const OwnPrompt& own : prompts) {
    const int64_t index = static_cast<int64_t>(items.size());
    if (own.prompt.empty() || own.answer.empty()) {
      fail(name, ": prompt ", index, " must have a prompt and an answer, got an empty ", own.prompt.empty() ? "prompt" : "answer");
    }
    NeedleItem& item = items.emplace_back();
    const std::string input = mode == "chat" ? codec.chat(own.prompt) : own.prompt;
    item.name = name;
    item.index = index;
    item.mode = mode;
    item.value = own.answer;
    item.prompt = own.prompt;
    item.ids = mode == "base" ? codec.input_prefix : std::vector<int32_t>();
    const std::vector<int32_t> text = codec.encode(input);
    item.ids.insert(item.ids.end(), text.begin(), text.end());
    item.prompt_tokens = static_cast<int64_t>(item.ids.size());
    // The answer too: another one makes another question of it.
    item.id = concat(name, "/", index, "#", sha256_hex(input + "\n" + own.answer).substr(0, 8));
    longest = std::max(longest, item.prompt_tokens);
  }
  for (NeedleItem& item : items) item.length = longest;
  return items;
}

}  // namespace qkr
