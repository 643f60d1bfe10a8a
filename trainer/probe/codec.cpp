#include "trainer/probe/codec.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "trainer/core/error.h"

namespace qkr {

TextCodec text_codec(const TextModel& text) {
  if (!text.tokenizer) fail(text.folder, ": the probe needs a tokenizer");
  const std::shared_ptr<const Tokenizer> tokenizer = text.tokenizer;
  TextCodec codec;
  codec.many_threads = true;
  codec.encode = [tokenizer](std::string_view bytes) { return tokenizer->ids(bytes); };
  codec.decode = [tokenizer](const std::vector<int32_t>& ids) {
    return tokenizer->decode(ids, /*skip_special=*/true);
  };
  const std::vector<int32_t> plain = tokenizer->ids("a"),
                             special = tokenizer->ids("a", /*add_special=*/true);
  const auto body = std::search(special.begin(), special.end(), plain.begin(), plain.end());
  codec.input_prefix.assign(special.begin(), body == special.end() ? special.begin() : body);
  if (const std::shared_ptr<const ChatTemplate> chat = text.chat_template) {
    codec.chat = [chat](const std::string& message) {
      RenderOptions options;
      options.add_generation_prompt = true;
      options.want_spans = false;
      const nlohmann::json turn = nlohmann::json::array({{{"role", "user"}, {"content", message}}});
      return chat->render(turn.dump(), "null", options).text;
    };
  }
  return codec;
}

}  // namespace qkr
