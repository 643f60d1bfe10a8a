// PyTorch's own checks of custom operators, in Python, on the library as Python loads it.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/support/fixtures.h"

namespace qkr::test {

// `script` of tests/ops must end well with the library as its argument. Skips where there is no Python with torch.
inline void expect_opcheck_passes(const std::string& script) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "a Python without AddressSanitizer cannot load a library with it";
#endif
  const auto venv = source_dir() / "build" / "venv" / "bin" / "python";
  const std::string python = std::filesystem::exists(venv) ? venv.string() : "/usr/bin/python3";
  const auto library = std::filesystem::path(QKR_BINARY_DIR) / "lib" / "libqk_restore_ops.so";
  const auto file = source_dir() / "tests" / "ops" / script;
  QKR_NEED_PATH(std::filesystem::path(python));
  QKR_NEED_PATH(library);
  if (std::system((python + " -c 'import torch' 2> /dev/null").c_str()) != 0) GTEST_SKIP() << python << " has no torch";
  EXPECT_EQ(std::system(("OMP_NUM_THREADS=1 " + python + " " + file.string() + " " + library.string()).c_str()), 0);
}

}  // namespace qkr::test
