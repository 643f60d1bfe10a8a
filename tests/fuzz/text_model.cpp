// tokenizer.json, tokenizer_config.json and chat templates: trainer/hf, trainer/data/text_model.cpp.
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/fuzz/target.h"
#include "tests/support/fixtures.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/data/dataset.h"

namespace qkr::fuzz {
namespace {

std::string tokenizer_of(const std::string& model, const std::string& rest) {
  return R"({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{"id": 5, "content": "<s>", )"
         R"("single_word": false, "lstrip": false, )"
         R"("rstrip": true, "normalized": false, "special": true}], )" +
         rest + R"(, "model": )" + model + "}";
}

std::vector<std::string> small_tokenizers() {
  return {
      tokenizer_of(
          R"({"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null, )"
          R"("end_of_word_suffix": null, "fuse_unk": true, )"
          R"("byte_fallback": true, "vocab": {"<unk>": 0, "a": 1, "b": 2, "ab": 3, "<0x0A>": 4}, "merges": ["a b"]})",
          R"("normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Prepend", )"
          R"("prepend": "a"}, {"type": "Replace", "pattern": {"String": " "}, "content": "b"}]}, )"
          R"("pre_tokenizer": null, "post_processor": {"type": "TemplateProcessing", )"
          R"("single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], )"
          R"("pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [5], )"
          R"("tokens": ["<s>"]}}}, )"
          R"("decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}, )"
          R"({"type": "Strip", "content": " ", "start": 1, "stop": 0}]})"),
      tokenizer_of(
          R"({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", )"
          R"("max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1, "##b": 2}})",
          R"("normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, )"
          R"("strip_accents": null, "lowercase": true}, )"
          R"("pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": {"type": "ByteLevel", )"
          R"("add_prefix_space": true, "trim_offsets": true, "use_regex": true}, )"
          R"("decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true})"),
      tokenizer_of(
          R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.0]], )"
          R"("byte_fallback": false})",
          R"("normalizer": null, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Split", )"
          R"("pattern": {"Regex": "\\p{N}{1,3}|\\s+"}, )"
          R"("behavior": "Isolated", "invert": false}, {"type": "Metaspace", "replacement": "▁", )"
          R"("prepend_scheme": "first", "split": true}]}, )"
          R"("post_processor": null, "decoder": {"type": "Metaspace", "replacement": "▁", )"
          R"("prepend_scheme": "always", "split": true})"),
      test::read_file(test::source_dir() / "tests" / "data" / "text" / "tokenizer.json")};
}

void check_tokenizer(const Tokenizer& tokenizer) {
  for (const std::string& text : {std::string(), std::string("ab a  b\n<s>123"), std::string("é😀\0x", 8)}) {
    for (const bool add_special : {false, true}) {
      accepts({"tokenizer.json:"}, [&] {
        const Encoding encoding = tokenizer.encode(text, add_special);
        require(encoding.ids.size() == encoding.starts.size(), "every token has its place");
        for (size_t i = 0; i < encoding.ids.size(); ++i) {
          require(encoding.starts[i] >= 0 && encoding.starts[i] <= static_cast<int64_t>(text.size()),
                  "a token begins within its text");
          require(encoding.ids[i] >= 0 && encoding.ids[i] < tokenizer.vocab_size(),
                  concat("ids are below the vocabulary's size, got ", encoding.ids[i]));
        }
        require(is_utf8(tokenizer.decode(encoding.ids)), "decoded text is UTF-8");
      });
    }
  }
}

void check_spans(const Rendered& rendered) {
  int64_t at = 0;
  const int64_t size = static_cast<int64_t>(rendered.text.size());
  for (const Span& span : rendered.assistant_spans) {
    require(span.begin >= at && span.end >= span.begin && span.end <= size, "spans are in order and within the text");
    at = span.end;
  }
  require(is_utf8(rendered.text), "a rendered text is UTF-8");
}

std::vector<std::string> template_seeds() {
  const std::string file = test::read_file(test::source_dir() / "tests" / "data" / "chat" / "families.jsonl");
  std::vector<std::string> seeds;
  for (size_t begin = 0, end = 0; begin < file.size(); begin = end + 1) {
    end = std::min(file.find('\n', begin), file.size());
    const auto family = nlohmann::ordered_json::parse(file.substr(begin, end - begin), nullptr, false);
    if (!family.is_object()) continue;
    seeds.push_back(concat("=== template\n", family["template"].get<std::string>(), "\n=== special\n",
                           family["special"].dump(), "\n=== messages\n", family["cases"].back()["messages"].dump(),
                           "\n=== tools\n", family["tools"].dump()));
  }
  return seeds;
}

void run_template(std::string_view input) {
  std::string source, special = "{}", messages = "[]", tools = "null";
  for (const Part& part : parts_of(input)) {
    (part.name == "special"    ? special
     : part.name == "messages" ? messages
     : part.name == "tools"    ? tools
                               : source) = part.text;
  }
  accepts({"t.jinja:", "message", "tools", "template variables", "special tokens"}, [&] {
    const ChatTemplate chat(source, special, "t.jinja");
    check_spans(chat.render(messages, tools));
    check_spans(chat.render(messages, tools, {.add_generation_prompt = true, .allow_dropped = true}));
  });
}

}  // namespace

Target tokenizer_target() {
  Target target;
  target.name = "tokenizer";
  target.seeds = small_tokenizers();
  target.words = {"\"WordLevel\"",  "\"Lowercase\"",         "\"NFKD\"",       "\"Precompiled\"",
                  "\"Digits\"",     "\"UnicodeScripts\"",    "\"Whitespace\"", "\"CTC\"",
                  "\"BPEDecoder\"", "\"RobertaProcessing\"", "\"(a+)+$\"",     "\"(?:\"",
                  "\"\\\\p{L}\"",   "\"MergedWithPrevious\""};
  target.run = [](std::string_view input) {
    accepts({"tokenizer.json:"}, [&] { check_tokenizer(Tokenizer(input, "tokenizer.json")); });
  };
  return target;
}

Target tokenizer_config_target() {
  Target target;
  target.name = "tokenizer_config";
  target.seeds = {
      R"(=== tokenizer_config.json
{"eos_token": "<|endoftext|>", "bos_token": null, "unk_token": {"content": "<|im_end|>", "lstrip": false},
 "additional_special_tokens": ["<|im_start|>", {"content": "x"}],
 "chat_template": [{"name": "tool_use", "template": "{{ tools }}"},
  {"name": "default", "template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"}]}
=== chat_template.jinja
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
)",
      "=== tokenizer_config.json\n{\"chat_template\": \"{{ messages[0].content }}\"}\n"
      "=== generation_config.json\n{\"eos_token_id\": [261, 259]}\n",
      "=== config.json\n{\"eos_token_id\": 259, \"model_type\": \"llama\"}\n"
      "=== generation_config.json\n{\"eos_token_id\": null}\n"};
  target.run = [](std::string_view input) {
    static const std::string folder = [] {
      write_scratch("text/tokenizer.json",
                    test::read_file(test::source_dir() / "tests" / "data" / "text" / "tokenizer.json"));
      return scratch() + "/text";
    }();
    static const std::set<std::string> kFiles = {"tokenizer_config.json", "generation_config.json", "config.json",
                                                 "chat_template.jinja"};
    for (const std::string& file : kFiles) std::filesystem::remove(folder + "/" + file);
    for (const Part& part : parts_of(input)) {
      if (kFiles.count(part.name) != 0) write_scratch("text/" + part.name, part.text);
    }
    accepts({folder}, [&] {
      const TextModel text = TextModel::load(folder, "");
      require(text.eos_id >= -1, "an end-of-text token is an id");
    });
  };
  return target;
}

Target template_target() {
  Target target;
  target.name = "template";
  target.seeds = template_seeds();
  target.words = {"{% generation %}",
                  "{% endgeneration %}",
                  "{{",
                  "}}",
                  "{%",
                  "%}",
                  "{#",
                  "loop.index0",
                  "namespace(a=1)",
                  "range(10)",
                  "|tojson",
                  "|trim",
                  "messages",
                  "raise_exception('a\\nb')",
                  "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
                  "'x' * 1000000",
                  "[1] * 1000000",
                  "is defined",
                  "strftime_now('%d')",
                  ".split('a')[-1]",
                  "**",
                  "//",
                  "~"};
  target.run = run_template;
  return target;
}

}  // namespace qkr::fuzz
