// Where golden data lies. Fixtures: $QKR_FIXTURES, else ../shared/fixtures, else the copies in tests/data. Assets (a real
// tokenizer, a book) are never in the tree: $QKR_ASSETS, else ../shared/assets; a test that needs one skips and says so.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

namespace qkr::test {

namespace fs = std::filesystem;

inline fs::path source_dir() { return QKR_SOURCE_DIR; }

inline fs::path fixtures_dir() {
  if (const char* given = std::getenv("QKR_FIXTURES")) return given;
  const fs::path beside = source_dir() / ".." / "shared" / "fixtures";
  return fs::exists(beside) ? beside : source_dir() / "tests" / "data";
}

inline fs::path assets_dir() {
  if (const char* given = std::getenv("QKR_ASSETS")) return given;
  return source_dir() / ".." / "shared" / "assets";
}

inline std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace qkr::test

// Skips the test, naming what is absent.
#define QKR_NEED_PATH(path) \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "needs " << (path).string() << ", which is not here"
