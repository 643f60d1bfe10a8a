// The text side of a model folder: which file wins, and what is said when one is absent or wrong.
#include <gtest/gtest.h>

#include "tests/data/support.h"

namespace qkr {
namespace {

namespace fs = std::filesystem;

struct Folder {
  test::TmpDir dir;
  Folder() { dir.write("tokenizer.json", test::read_file(test::text_folder() + "/tokenizer.json")); }
  std::string path() const { return dir.path().string(); }
  TextModel load(const std::string& jinja = "") const { return TextModel::load(path(), jinja); }
};

std::string first_words(const TextModel& model) {
  return model.chat_template->render("[{\"role\":\"user\",\"content\":\"q\"}]", "null", {.want_spans = false}).text;
}

TEST(TextModel, EndOfTextComesFromTheTokenizerConfigThenTheOthers) {
  Folder folder;
  EXPECT_EQ(folder.load().eos_id, -1);
  EXPECT_EQ(folder.load().chat_template, nullptr);
  folder.dir.write("config.json", "{\"eos_token_id\": 5}");
  EXPECT_EQ(folder.load().eos_id, 5);
  folder.dir.write("generation_config.json", "{\"eos_token_id\": [7, 8]}");
  EXPECT_EQ(folder.load().eos_id, 7);
  folder.dir.write("generation_config.json", "{\"eos_token_id\": null}");
  EXPECT_EQ(folder.load().eos_id, 5);
  folder.dir.write("tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}");
  EXPECT_EQ(folder.load().eos_id, test::kImEnd);
}

TEST(TextModel, TheTemplateThatWins) {
  Folder folder;
  folder.dir.write("generation_config.json", "{}");
  folder.dir.write("tokenizer_config.json", "{\"chat_template\": \"one {{ messages[0].content }}\"}");
  EXPECT_EQ(first_words(folder.load()), "one q");
  EXPECT_EQ(folder.load().template_name, folder.path() + "/tokenizer_config.json");
  folder.dir.write("chat_template.jinja", "two {{ messages[0].content }}");
  EXPECT_EQ(first_words(folder.load()), "two q");
  const std::string own = folder.dir.write("own.jinja", "three {{ messages[0].content }}").string();
  EXPECT_EQ(first_words(folder.load(own)), "three q");
  EXPECT_EQ(folder.load(own).template_name, own);
}

TEST(TextModel, NamesWhatIsMissingOrWrong) {
  const test::TmpDir empty;
  const std::string path = empty.path().string();
  EXPECT_EQ(QKR_MESSAGE_OF(TextModel::load(path, "")).rfind(path + "/tokenizer.json: no such file", 0), 0u);
  EXPECT_EQ(QKR_MESSAGE_OF(TextModel::load(path + "/x", "")), path + "/x: must be a model folder, got no such path");
  Folder folder;
  EXPECT_NE(QKR_MESSAGE_OF(folder.load("/absent.jinja")).find("/absent.jinja"), std::string::npos);
  folder.dir.write("generation_config.json", "{\"eos_token_id\": \"x\"}");
  EXPECT_EQ(QKR_MESSAGE_OF(folder.load()),
            folder.path() + "/generation_config.json: eos_token_id: must be a token id or a list of them, got \"x\"");
  folder.dir.write("generation_config.json", "{\"eos_token_id\": \"" + std::string(500, 'x') + "\"}");
  EXPECT_LT(QKR_MESSAGE_OF(folder.load()).size(), folder.path().size() + 200);
  folder.dir.write("tokenizer_config.json", "{\"eos_token\": \"<no>\"}");
  EXPECT_EQ(QKR_MESSAGE_OF(folder.load()),
            folder.path() + "/tokenizer_config.json: eos_token: must be a token of tokenizer.json, got '<no>'");
  folder.dir.write("tokenizer_config.json", "{");
  EXPECT_EQ(QKR_MESSAGE_OF(folder.load()).rfind(folder.path() + "/tokenizer_config.json", 0), 0u);
  folder.dir.write("generation_config.json", "{}");
  folder.dir.write("tokenizer_config.json", "{\"chat_template\": \"{% if %}\"}");
  EXPECT_EQ(QKR_MESSAGE_OF(folder.load()).rfind(folder.path() + "/tokenizer_config.json", 0), 0u);
  folder.dir.write("tokenizer.json", "{}");
  EXPECT_EQ(QKR_MESSAGE_OF(folder.load()).rfind(folder.path() + "/tokenizer.json", 0), 0u);
}

}  // namespace
}  // namespace qkr
