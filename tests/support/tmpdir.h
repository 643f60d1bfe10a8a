// A folder that vanishes with the test.
#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace qkr::test {

class TmpDir {
 public:
  TmpDir() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qkr-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TmpDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TmpDir(const TmpDir&) = delete;
  TmpDir& operator=(const TmpDir&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  // Writes `text` to <folder>/<name> and returns the path.
  std::filesystem::path write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name, std::ios::binary) << text;
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace qkr::test

// The message of the qkr::Error (or any exception) that `statement` throws, or "" if it throws none.
#define QKR_MESSAGE_OF(statement)           \
  [&]() -> std::string {                    \
    try {                                   \
      statement;                            \
    } catch (const std::exception& error) { \
      return error.what();                  \
    }                                       \
    return "";                              \
  }()
