// The tokenizer wrapper on a small byte-level tokenizer of our own (tests/data/chat/make_tokenizer.py).
#include "trainer/hf/tokenizer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "tests/hf/support.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"

namespace qkr::test {
namespace {

constexpr int32_t kEndOfText = 292, kImStart = 293, kImEnd = 294, kThink = 295;

const std::string& small_json() {
  static const std::string json = read_file(data_dir() / "tokenizer.json");
  return json;
}

const Tokenizer& small() {
  static const Tokenizer tokenizer(small_json(), "small");
  return tokenizer;
}

TEST(Tokenizer, EncodesAndDecodes) {
  const std::string text = "the river and é 🦊\n";
  const Encoding encoding = small().encode(text);
  EXPECT_LT(encoding.ids.size(), text.size());  // there are merges
  EXPECT_EQ(encoding.ids.size(), encoding.starts.size());
  EXPECT_EQ(small().decode(encoding.ids), text);
  EXPECT_EQ(small().ids(text), encoding.ids);
  EXPECT_TRUE(small().encode("").ids.empty());
  EXPECT_EQ(small().decode({}), "");
}

TEST(Tokenizer, StartsAreTheFirstBytesWhiteSpaceIncluded) {
  // The file asks for trimmed offsets (tokens then "begin" after their space); the mask needs the true ones.
  const Encoding encoding = small().encode("the river\n\nand");
  EXPECT_EQ(encoding.starts, (std::vector<int64_t>{0, 3, 9, 11, 12, 13}));
  EXPECT_EQ(small().decode({encoding.ids[1]}), " river");
}

TEST(Tokenizer, ATokenInsideACharacterHasTheCharactersOffset) {
  const Encoding encoding = small().encode("a🦊b");
  EXPECT_EQ(encoding.starts, (std::vector<int64_t>{0, 1, 1, 1, 1, 5}));
}

TEST(Tokenizer, StartsAreOffsetsInTheTextGivenNotInItsNormalForm) {
  const std::string decomposed = "e\xCC\x81x";  // NFC makes it é: two bytes, one token
  const Encoding encoding = small().encode(decomposed);
  EXPECT_EQ(encoding.ids, small().ids("éx"));
  EXPECT_EQ(encoding.starts, (std::vector<int64_t>{0, 3}));
}

TEST(Tokenizer, AddedTokensAreCutFirst) {
  const std::vector<int32_t> ids = small().ids("<|im_start|>user\n<think><|im_end|>");
  EXPECT_EQ(ids.front(), kImStart);
  EXPECT_EQ(ids[ids.size() - 2], kThink);
  EXPECT_EQ(ids.back(), kImEnd);
  EXPECT_EQ(small().decode(ids, true), "user\n<think>");  // <think> is added, but not special
}

TEST(Tokenizer, AddSpecialRunsThePostProcessor) {
  const Encoding encoding = small().encode("the", true);
  EXPECT_EQ(encoding.ids.front(), kEndOfText);
  EXPECT_EQ(encoding.ids.size(), small().ids("the").size() + 1);
  EXPECT_EQ(small().ids("the").front(), small().token_to_id("the"));
}

TEST(Tokenizer, TheFilesTruncationIsIgnored) {  // it says 4
  EXPECT_EQ(small().ids(std::string(100, 'z')).size(), 100u);
}

TEST(Tokenizer, Vocabulary) {
  EXPECT_EQ(small().vocab_size(), 297);
  EXPECT_EQ(small().token_to_id("<|im_end|>"), kImEnd);
  EXPECT_EQ(small().token_to_id("nothing like it"), std::nullopt);
}

TEST(Tokenizer, IdsWithoutATokenDecodeToNothing) {
  EXPECT_EQ(small().decode({5000, *small().token_to_id("the"), 297}), "the");
  EXPECT_EQ(small().decode({0xC3}), "\xEF\xBF\xBD");  // half a character
  EXPECT_EQ(QKR_MESSAGE_OF(small().decode({-1})), "small: decode: an id must not be negative, got -1");
}

TEST(Tokenizer, BadTextIsNamed) {
  EXPECT_EQ(QKR_MESSAGE_OF(small().encode("ab\xFF")),
            "small: encode: text must be UTF-8, got a bad byte at offset 2");
  EXPECT_NE(QKR_MESSAGE_OF((void)small().token_to_id("\xC3")), "");
}

TEST(Tokenizer, IsMovable) {
  Tokenizer first(small_json(), "first");
  Tokenizer second = std::move(first);
  EXPECT_EQ(second.vocab_size(), 297);
}

TEST(Tokenizer, EncodesFromSeveralThreads) {
  const std::string text = "the river and the <|im_end|> ending é\n\n\n";
  const std::vector<int32_t> want = small().ids(text);
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 200; ++i) wrong += small().ids(text) != want;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

// One replacement in the file.
std::string with(const std::string& from, const std::string& to) {
  std::string json = small_json();
  const size_t at = json.find(from);
  if (at == std::string::npos) throw std::runtime_error("not in the file: " + from);
  return json.replace(at, from.size(), to);
}

TEST(Tokenizer, HostileFilesAreErrorsAndNeverEndTheProcess) {
  const std::string deep = std::string(100000, '[');
  const std::string deep_model = R"({"version": "1.0", "model": )" + std::string(100000, '{');
  int number = 0;
  for (const std::string& json : {
           std::string(),
           std::string("null"),
           std::string("[]"),
           std::string("{}"),
           std::string("{\"version\": \"1.0\", \"model\": null}"),
           std::string("\xFF\xFE{}"),
           std::string("\0\0\0", 3),
           deep,
           deep_model,
           small_json().substr(0, small_json().size() / 2),
           with("\"BPE\"", "\"XYZ\""),
           with("\"id\": 292", "\"id\": 99999999999999999999"),
           with("\"id\": 292", "\"id\": -1"),
           with("\"the\": ", "\"the\": 4294967295, \"thf\": "),
           with("\"the\": ", "\"the\": 1e999, \"thf\": "),
           with("\\\\p{L}", "((((("),
           with("[\"t\", \"h\"]", "[\"t\", \"missing\"]"),
           with("\"NFC\"", "\"Precompiled\", \"precompiled_charsmap\": \"AAAA\""),
       }) {
    const std::string message = QKR_MESSAGE_OF(Tokenizer(json, "bad.json"));
    EXPECT_EQ(message.substr(0, 46), "bad.json: must be a tokenizer.json, got an err") << "case " << number;
    ++number;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

// The parts that other families' files are made of, numbers in them included.
TEST(Tokenizer, SentencePieceStyleFilesLoad) {
  const std::string json =
      R"({"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": null,
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
      {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
      {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": true, "byte_fallback": true,
      "vocab": {"<s>": 0, "▁": 1, "a": 2, "▁a": 3, "b": 4, "<0xC3>": 5, "<0xA9>": 6}, "merges": ["▁ a"]}})";
  const Tokenizer tokenizer(json, "sp");
  const Encoding encoding = tokenizer.encode("a b\xC3\xA9", true);
  EXPECT_EQ(encoding.ids, (std::vector<int32_t>{0, 3, 1, 4, 5, 6}));
  EXPECT_EQ(encoding.starts, (std::vector<int64_t>{0, 0, 1, 2, 3, 3}));
  EXPECT_EQ(tokenizer.decode(encoding.ids, true), "a b\xC3\xA9");
}

TEST(Tokenizer, UnigramFilesLoad) {
  const std::string json =
      R"({"version": "1.0", "added_tokens": [], "normalizer": {"type": "Strip", "strip_left": true, "strip_right": true},
    "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
    "post_processor": null, "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true},
    "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["▁", -2.5], ["a", -1e-1], ["▁a", -3], ["b", -1.5]], "byte_fallback": false}})";
  const Tokenizer tokenizer(json, "uni");
  EXPECT_EQ(tokenizer.decode(tokenizer.ids("ab a")), "ab a");
  EXPECT_EQ(tokenizer.vocab_size(), 5);
}

// What a model looks up beyond its embedding is another's memory.
TEST(Tokenizer, IdsBeyondTheVocabularyAreRefused) {
  const std::string json =
      R"({"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "decoder": null,
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": false, "byte_fallback": false, "vocab": {"a": 0, "b": 1}, "merges": []}})";
  const Tokenizer tokenizer(json, "t.json");
  EXPECT_EQ(tokenizer.ids("ab"), (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(QKR_MESSAGE_OF(tokenizer.ids("ab", true)), "t.json: encode: ids must be below 2, the vocabulary's size, got 7");
}

TEST(Tokenizer, ErrorsAreOfBoundedLength) {
  EXPECT_LT(QKR_MESSAGE_OF(Tokenizer("{\"version\": \"" + std::string(5000, 'n') + "\"}", "bad.json")).size(), 1100u);
}

TEST(Tokenizer, ErrorsAreBadInput) {
  try {
    Tokenizer("{}", "bad.json");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kBadInput);
  }
}

}  // namespace
}  // namespace qkr::test
