#include "trainer/data/row.h"

#include <algorithm>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/data/json_members.h"
#include "trainer/io/json_text.h"

namespace qkr {
namespace {

using Json = nlohmann::json;

std::string field_names(const Json& row) {
  std::vector<std::string> names;
  for (const auto& item : row.items()) names.push_back(item.key());
  return names.empty() ? "none" : shown_names(names);
}

// What a row of another format looks like.
std::string other_format(const Json& row) {
  if (row.contains("messages")) return "; set data.format: messages";
  if (row.contains("conversations")) return "; the form {conversations: [{from, value}]} is not read: write {messages: [{role, content}]}";
  if (row.contains("prompt") && row.contains("completion")) return "; set data.format: prompt_completion";
  if (row.contains("text")) return "; set data.format: text";
  return "";
}

const std::string& text_field(const Json& row, const std::string& name, const std::string& key, const std::string& place) {
  const auto found = row.find(name);
  if (found == row.end()) {
    fail(place, ": must have the field ", quoted(name), " (", key, "), got ", field_names(row), other_format(row));
  }
  if (!found->is_string()) fail(place, ": ", name, ": must be a string, got ", found->type_name());
  return found->get_ref<const std::string&>();
}

// `begin` and `end` are bytes of the encoded text, spans in order.
std::vector<uint8_t> mask_of(const Encoding& encoding, const std::vector<Span>& spans) {
  std::vector<uint8_t> trained(encoding.ids.size(), 0);
  size_t span = 0;
  for (size_t t = 0; t < trained.size(); ++t) {
    const int64_t start = encoding.starts[t];
    while (span < spans.size() && spans[span].end <= start) ++span;
    trained[t] = span < spans.size() && spans[span].begin <= start ? 1 : 0;
  }
  return trained;
}

// Texts to tokens, for the rows of one configuration.
struct RowEncoder {
  const DataConfigSection& config;
  const TextModel& text;
  bool* beginning;  // see read_row

  Encoding encode(std::string_view whole, bool add_special) const {
    const Tokenizer& tokenizer = *text.tokenizer;
    if (beginning == nullptr || whole.size() <= kLargeText || config.over_length == "truncate") return tokenizer.encode(whole, add_special);
    size_t end = kLargeText;
    while (end > 0 && (static_cast<unsigned char>(whole[end]) & 0xC0) == 0x80) --end;  // not within a character
    Encoding first = tokenizer.encode(whole.substr(0, end), add_special);
    *beginning = static_cast<int64_t>(first.ids.size()) / 2 > config.max_length;
    return *beginning ? first : tokenizer.encode(whole, add_special);
  }
};

Sample from_conversation(const RowEncoder& encoder, std::string_view messages, std::string_view tools, const std::string& place) {
  try {
    const Rendered rendered = encoder.text.chat_template->render(messages, tools);
    Encoding encoding = encoder.encode(rendered.text, /*add_special=*/false);
    std::vector<uint8_t> trained = mask_of(encoding, rendered.assistant_spans);
    return {std::move(encoding.ids), std::move(trained)};
  } catch (const Error& error) {
    throw Error(error.code(), place + ": " + error.what());
  }
}

// Tokens that begin at byte `from` or later are trained, and so is the end-of-text token put after them, unless the text or
// the tokenizer has put it there already.
Sample from_raw(const RowEncoder& encoder, std::string_view raw, size_t from) {
  const TextModel& text = encoder.text;
  Encoding encoding = encoder.encode(raw, /*add_special=*/true);
  Sample sample{std::move(encoding.ids), {}};
  for (const int64_t start : encoding.starts) sample.trained.push_back(start >= static_cast<int64_t>(from) ? 1 : 0);
  if (text.eos_id < 0) return sample;
  if (sample.ids.empty() || sample.ids.back() != text.eos_id) {
    sample.ids.push_back(text.eos_id);
    sample.trained.push_back(1);
  }
  sample.trained.back() = 1;
  return sample;
}

Sample from_messages(const RowEncoder& encoder, const Json& row, std::string_view json, const std::string& place) {
  if (!row.contains("messages")) fail(place, ": must have the field 'messages', got ", field_names(row), other_format(row));
  check_messages(row["messages"], place);
  const auto tools = row.find("tools");
  if (tools != row.end() && !tools->is_null() && !tools->is_array()) {
    fail(place, ": tools: must be a list or null, got ", tools->type_name());
  }
  return from_conversation(encoder, json_member(json, "messages", "[]"), json_member(json, "tools", "null"), place);
}

Sample from_pair(const RowEncoder& encoder, const Json& row, const std::string& place) {
  const DataConfigSection& config = encoder.config;
  const std::string& prompt = text_field(row, config.prompt_field, "data.prompt_field", place);
  const std::string& completion = text_field(row, config.completion_field, "data.completion_field", place);
  if (config.prompt_template == "chat") {
    const Json messages = {{{"role", "user"}, {"content", prompt}}, {{"role", "assistant"}, {"content", completion}}};
    return from_conversation(encoder, messages.dump(), "null", place);
  }
  const std::string before = prompt + config.separator;
  return from_raw(encoder, before + completion, before.size());
}

std::string message_place(const std::string& place, size_t index) { return concat(place, ": messages[", index, "]"); }

void check_message(const Json& message, const std::string& place) {
  static const std::vector<std::string> kRoles = {"system", "user", "assistant", "tool"};
  if (!message.is_object()) fail(place, ": must be an object, got ", message.type_name());
  const auto role = message.find("role");
  if (role == message.end()) {
    const bool share_gpt = message.contains("from") && message.contains("value");
    fail(place, ".role: must be given, got ", field_names(message), share_gpt ? "; write role and content for from and value" : "");
  }
  if (!role->is_string()) fail(place, ".role: must be a string, got ", role->type_name());
  const std::string& name = role->get_ref<const std::string&>();
  if (std::find(kRoles.begin(), kRoles.end(), name) == kRoles.end()) {
    fail(place, ".role: must be one of ", join(kRoles), ", got ", quoted(name), did_you_mean(name, kRoles));
  }
  const auto content = message.find("content");
  if (content == message.end() || !content->is_string()) {
    const std::string got = content == message.end() ? "none" : content->is_array() ? "a list" : content->type_name();
    const bool may_be_empty = content == message.end() || content->is_null();
    fail(place, ".content: must be a string, got ", got, may_be_empty ? "; write \"\" where there is none" : "");
  }
  const auto reasoning = message.find("reasoning_content");
  if (reasoning != message.end() && !reasoning->is_string() && !reasoning->is_null()) {
    fail(place, ".reasoning_content: must be a string or null, got ", reasoning->type_name());
  }
  const auto calls = message.find("tool_calls");
  if (calls != message.end() && !calls->is_array() && !calls->is_null()) {
    fail(place, ".tool_calls: must be a list or null, got ", calls->type_name());
  }
}

}  // namespace

void check_messages(const Json& messages, const std::string& place) {
  if (!messages.is_array()) fail(place, ": messages: must be a list, got ", messages.type_name());
  if (messages.empty()) fail(place, ": messages: must not be empty, got []");
  for (size_t i = 0; i < messages.size(); ++i) check_message(messages[i], message_place(place, i));
}

void check_text_model(const DataConfigSection& config, const TextModel& text) {
  const bool pair = config.format == "prompt_completion";
  const bool chat = config.format == "messages" || (pair && config.prompt_template == "chat");
  if (chat && text.chat_template == nullptr) {
    fail(text.folder, ": must have a chat template for data.", pair ? "prompt_template: chat" : "format: messages",
         ", got none (neither chat_template.jinja nor one in tokenizer_config.json); name a Jinja file with model.chat_template");
  }
  if (pair && !chat && text.eos_id < 0) {
    fail(text.folder, ": must have an end-of-text token to end each completion with, got none (eos_token in "
         "tokenizer_config.json, eos_token_id in generation_config.json or config.json)");
  }
}

Sample read_row(const DataConfigSection& config, const TextModel& text, std::string_view json, const std::string& file, int64_t line,
                bool* beginning) {
  const std::string place = concat(file, ":", line);
  const size_t first = json.find_first_not_of(" \t\r");
  if (first != std::string_view::npos && json[first] == '[') {
    fail(place, ": must be one JSON object a line, got the start of a JSON list");
  }
  const Json row = parse_json(json, file, line);
  if (!row.is_object()) fail(place, ": must be a JSON object, got ", row.type_name());
  const RowEncoder encoder{config, text, beginning};
  if (config.format == "messages") return from_messages(encoder, row, json, place);
  if (config.format == "prompt_completion") return from_pair(encoder, row, place);
  return from_raw(encoder, text_field(row, config.text_field, "data.text_field", place), 0);
}

int64_t count_labels(const Sample& sample) {
  return sample.ids.empty() ? 0 : std::count(sample.trained.begin() + 1, sample.trained.end(), uint8_t{1});
}

void truncate_sample(Sample& sample, int64_t max_length) {
  if (sample.size() <= max_length) return;
  const auto size = static_cast<size_t>(max_length);
  std::vector<uint8_t>& trained = sample.trained;
  const bool through_turn = trained[size - 1] != 0 && trained[size] != 0;  // a turn goes on beyond what is kept
  const bool worth_ending = through_turn && size > 1 && trained[size - 2] != 0;
  const auto last_trained = std::find(trained.rbegin(), trained.rend(), uint8_t{1});
  const int32_t end_of_turn = worth_ending ? *(sample.ids.rbegin() + (last_trained - trained.rbegin())) : 0;
  sample.ids.resize(size);
  trained.resize(size);
  if (worth_ending) {
    sample.ids.back() = end_of_turn;
    return;
  }
  if (through_turn) trained.back() = 0;
  while (!trained.empty() && trained.back() == 0) {
    trained.pop_back();
    sample.ids.pop_back();
  }
}

}  // namespace qkr
