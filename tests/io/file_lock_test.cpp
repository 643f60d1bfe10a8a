#include "trainer/io/file_lock.h"

#include <gtest/gtest.h>

#include <memory>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"

namespace qkr::test {
namespace {

// Two descriptors of one process are to flock() what two processes are.
TEST(FileLock, IsHeldByOneAndEndsWithIt) {
  const TmpDir dir;
  const fs::path file = dir.write("log.jsonl", "{}\n");
  auto first = std::make_unique<FileLock>(file, "in use");
  EXPECT_EQ(QKR_MESSAGE_OF(FileLock(file, "in use")), "in use");
  first.reset();
  EXPECT_EQ(QKR_MESSAGE_OF(FileLock(file, "in use")), "");
  EXPECT_EQ(read_file(file), "{}\n");
}

TEST(FileLock, MakesTheFileOrSaysWhyNot) {
  const TmpDir dir;
  {
    const FileLock lock(dir / "new", "in use");
  }
  EXPECT_EQ(read_file(dir / "new"), "");
  EXPECT_EQ(QKR_MESSAGE_OF(FileLock(dir / "no" / "such", "in use")),
            (dir / "no" / "such").string() + ": must be writable, got No such file or directory");
}

}  // namespace
}  // namespace qkr::test
