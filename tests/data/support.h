// What the tests of the data room share: a byte-level tokenizer of 262 tokens in tests/data/text, and rows written to a file.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/data/dataset.h"

namespace qkr::test {

// Bytes are their own ids; "\n\n" is 256, " t" 257, ">\n" 258; then the special tokens.
constexpr int32_t kEos = 259, kImStart = 260, kImEnd = 261;

inline std::string text_folder() { return (source_dir() / "tests" / "data" / "text").string(); }

inline const TextModel& text_model() {
  static const TextModel model = TextModel::load(text_folder(), "");
  return model;
}

// Rows in a file of their own, and a configuration that reads it.
struct Rows {
  TmpDir dir;
  DataConfigSection config;

  explicit Rows(const std::string& lines, const std::string& format = "messages") {
    config.train = {dir.write("a.jsonl", lines).string()};
    config.format = format;
    config.max_length = 100;
  }
  const std::string& file() const { return config.train[0]; }
  Dataset load() const { return Dataset::load(config, text_model()); }

  // The error of load() with the file's path cut to "a.jsonl".
  std::string error() const {
    std::string text = QKR_MESSAGE_OF(load());
    const std::string folder = dir.path().string() + "/";
    for (size_t at; (at = text.find(folder)) != std::string::npos;) text.erase(at, folder.size());
    return text;
  }
};

// The ids of ASCII text by the byte-level tokenizer where none of its merges applies.
inline std::vector<int32_t> bytes(const std::string& text) {
  std::vector<int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  return ids;
}

// The trained part of a sample between brackets.
inline std::string shown(const Sample& sample) { return inspect_sample(sample, *text_model().tokenizer, false); }

}  // namespace qkr::test
