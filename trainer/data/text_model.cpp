#include <nlohmann/json.hpp>

#include <filesystem>

#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"
#include "trainer/data/dataset.h"
#include "trainer/io/atomic.h"
#include "trainer/io/json_text.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

std::string read_if_there(const fs::path& path) { return fs::exists(path) ? read_text_file(path) : ""; }

// eos_token_id of generation_config.json or config.json: a number, or a list of which the first counts. -1: none.
int32_t eos_id_of(const fs::path& path) {
  if (!fs::exists(path)) return -1;
  const nlohmann::json config = read_json_file(path);
  if (!config.is_object() || !config.contains("eos_token_id")) return -1;
  nlohmann::json id = config["eos_token_id"];
  if (id.is_array() && !id.empty()) id = nlohmann::json(id[0]);
  if (id.is_null()) return -1;
  if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
    fail(path.string(), ": eos_token_id: must be a token id or a list of them, got ", shown_words(config["eos_token_id"].dump(), 80));
  }
  return id.get<int32_t>();
}

// What transformers appends is the tokenizer's eos_token; what it stops at is the generation config's. The first one counts.
int32_t find_eos(const fs::path& folder, const std::string& eos_token, const Tokenizer& tokenizer) {
  if (!eos_token.empty()) {
    const std::optional<int32_t> id = tokenizer.token_to_id(eos_token);
    if (!id) {
      fail((folder / "tokenizer_config.json").string(), ": eos_token: must be a token of tokenizer.json, got ", quoted(eos_token));
    }
    return *id;
  }
  const int32_t id = eos_id_of(folder / "generation_config.json");
  return id >= 0 ? id : eos_id_of(folder / "config.json");
}

}  // namespace

TextModel TextModel::load(const std::string& folder, const std::string& template_override) {
  const fs::path root = folder;
  if (!fs::is_directory(root)) fail(folder, ": must be a model folder, got ", fs::exists(root) ? "a file" : "no such path");
  TextModel text;
  text.folder = folder;
  const fs::path tokenizer_path = root / "tokenizer.json";
  if (!fs::exists(tokenizer_path)) {
    fail(tokenizer_path.string(), ": no such file; the folder must have the fast tokenizer's file (tokenizer.model alone is not read)");
  }
  text.tokenizer = std::make_shared<const Tokenizer>(read_text_file(tokenizer_path), tokenizer_path.string());

  const fs::path config_path = root / "tokenizer_config.json";
  TokenizerConfig config;
  if (fs::exists(config_path)) config = parse_tokenizer_config(read_text_file(config_path), config_path.string());
  text.eos_id = find_eos(root, config.eos_token, *text.tokenizer);

  const fs::path jinja_path = root / "chat_template.jinja";
  std::string source = config.chat_template;
  text.template_name = config_path.string();
  if (!template_override.empty()) {
    source = read_text_file(template_override);
    text.template_name = template_override;
  } else if (const std::string jinja = read_if_there(jinja_path); !jinja.empty()) {
    source = jinja;
    text.template_name = jinja_path.string();
  }
  if (source.empty()) {
    text.template_name.clear();
  } else {
    text.chat_template = std::make_shared<const ChatTemplate>(source, config.special_tokens_json, text.template_name);
  }
  return text;
}

}  // namespace qkr
