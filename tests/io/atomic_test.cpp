#include "trainer/io/atomic.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/io/support.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"

namespace qkr::test {
namespace {

int count_of(const fs::path& folder) {
  return static_cast<int>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

ExitCode code_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.code();
  }
  return ExitCode::kDone;
}

TEST(ReadTextFile, GivesTheBytesOrSaysWhy) {
  const TmpDir dir;
  EXPECT_EQ(read_text_file(dir.write("a.txt", std::string("x\0\r\n", 4))), std::string("x\0\r\n", 4));
  EXPECT_EQ(read_text_file(dir.write("empty", "")), "");
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(dir / "none")), (dir / "none").string() + ": must exist, got no such file");
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(dir.path())), dir.path().string() + ": must be a regular file, got a folder");
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(dir / "a.txt", 3)), (dir / "a.txt").string() + ": must be at most 3 B, got 4 B");
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(dir / "a.txt/b")), (dir / "a.txt/b").string() + ": must be readable, got Not a directory");
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);  // must not wait for a writer
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(dir / "pipe")), (dir / "pipe").string() + ": must be a regular file, got something else");
}

TEST(ReadTextFile, NamesAMissingPermission) {
  const TmpDir dir;
  fs::permissions(dir.path(), fs::perms::all);
  const fs::path secret = dir.write("secret", "x");
  fs::permissions(secret, fs::perms::none);
  const WithoutRights nobody;
  if (!nobody.ok()) GTEST_SKIP() << "needs to give up root's rights, and may not";
  EXPECT_EQ(QKR_MESSAGE_OF(read_text_file(secret)), secret.string() + ": must be readable, got Permission denied");
}

TEST(AtomicFile, ReplacesTheTargetAtCommitOnly) {
  const TmpDir dir;
  const fs::path path = dir.write("f", "old");
  {
    AtomicFile file(path);
    file.write("new");
    EXPECT_EQ(read_file(path), "old");
  }  // given up
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_of(dir.path()), 1);
  write_file_atomically(path, "newer");
  EXPECT_EQ(read_file(path), "newer");
  EXPECT_EQ(count_of(dir.path()), 1);
}

TEST(AtomicFile, ReplacesALeftoverAndNeverWritesThroughALink) {
  const TmpDir dir;
  const fs::path victim = dir.write("victim", "precious");
  fs::create_symlink(victim, dir / "f.partial");
  write_file_atomically(dir / "f", "text");
  EXPECT_EQ(read_file(dir / "f"), "text");
  EXPECT_EQ(read_file(victim), "precious");
}

TEST(AtomicFile, SaysWhyItCannotBegin) {
  const TmpDir dir;
  EXPECT_EQ(QKR_MESSAGE_OF(AtomicFile(dir / "no/f")), (dir / "no/f").string() + ": must be writable, got No such file or directory");
  EXPECT_EQ(QKR_MESSAGE_OF(AtomicFile(dir.path())), dir.path().string() + ": must be a file to write, got a folder");
  EXPECT_EQ(code_of([&] { AtomicFile(dir / "no/f"); }), ExitCode::kBadInput);
  fs::permissions(dir.path(), fs::perms::owner_read | fs::perms::owner_exec | fs::perms::others_read | fs::perms::others_exec);
  const WithoutRights nobody;
  if (!nobody.ok()) GTEST_SKIP() << "needs to give up root's rights, and may not";
  EXPECT_EQ(QKR_MESSAGE_OF(AtomicFile(dir / "f")), (dir / "f").string() + ": must be writable, got Permission denied");
}

TEST(AtomicFile, AFullDiskLeavesTheOldFile) {
  const TmpDir dir;
  const fs::path path = dir.write("f", "old");
  std::string message;
  {
    const FileSizeLimit disk(4096);
    message = QKR_MESSAGE_OF(write_file_atomically(path, std::string(10000, 'x')));
    EXPECT_EQ(code_of([&] { write_file_atomically(path, std::string(10000, 'x')); }), ExitCode::kRunFailed);
  }
  EXPECT_NE(message.find(path.string() + ": must be written, got File too large ("), std::string::npos) << message;
  EXPECT_NE(message.find("are free)"), std::string::npos) << message;
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(count_of(dir.path()), 1);
}

TEST(AtomicFolder, ExistsWholeOrNotAtAll) {
  const TmpDir dir;
  const fs::path target = dir / "runs/a/model";
  {
    const AtomicFolder folder(target);
    std::ofstream(folder.path() / "x") << "1";
    EXPECT_FALSE(fs::exists(target));
  }
  EXPECT_EQ(count_of(dir / "runs/a"), 0);
  AtomicFolder folder(target);
  fs::create_directories(folder.path() / "deep");
  std::ofstream(folder.path() / "deep/x") << "2";
  folder.commit();
  EXPECT_EQ(read_file(target / "deep/x"), "2");
  EXPECT_EQ(count_of(dir / "runs/a"), 1);
}

TEST(AtomicFolder, ReplacesTheLeftoverOfAKilledProcess) {
  const TmpDir dir;
  dir.write("m.partial/stale", "old");
  AtomicFolder folder(dir / "m");
  std::ofstream(folder.path() / "x") << "1";
  folder.commit();
  EXPECT_FALSE(fs::exists(dir / "m/stale"));
  EXPECT_FALSE(fs::exists(dir / "m.partial"));
  EXPECT_TRUE(fs::exists(dir / "m/x"));
}

TEST(AtomicFolder, FillsAnEmptyFolderAndRefusesAnotherOne) {
  const TmpDir dir;
  fs::create_directories(dir / "empty");
  AtomicFolder folder(dir.path().string() + "/empty/");  // a trailing slash is the same folder
  std::ofstream(folder.path() / "x") << "1";
  folder.commit();
  EXPECT_TRUE(fs::exists(dir / "empty/x"));
  EXPECT_EQ(QKR_MESSAGE_OF(AtomicFolder(dir / "empty")), (dir / "empty").string() + ": must not exist yet, got a folder that is not empty");
  dir.write("file", "");
  EXPECT_EQ(QKR_MESSAGE_OF(AtomicFolder(dir / "file")), (dir / "file").string() + ": must not exist yet, got a file");
  EXPECT_NE(QKR_MESSAGE_OF(AtomicFolder(dir / "file/x")).find("must be a folder that can be made, got Not a directory"), std::string::npos);
  EXPECT_TRUE(fs::exists(dir / "empty/x"));
}

TEST(FreeBytes, AsksTheFileSystemOfThePathOrItsParents) {
  const TmpDir dir;
  const int64_t here = free_bytes(dir.path());
  EXPECT_GT(here, 0);
  EXPECT_NEAR(static_cast<double>(free_bytes(dir / "not/yet/there")), static_cast<double>(here), 1e9);
  EXPECT_GT(free_bytes("relative/not/there"), 0);
  EXPECT_EQ(QKR_MESSAGE_OF(need_free_bytes(dir.path(), 1, "x")), "");
  const int64_t huge = int64_t{1} << 60;
  const std::string message = QKR_MESSAGE_OF(need_free_bytes(dir / "model", huge, "the model"));
  EXPECT_EQ(message.find((dir / "model").string() + ": needs 1048576.0 TiB for the model, "), 0u) << message;
  EXPECT_NE(message.find(" are free"), std::string::npos);
  EXPECT_EQ(code_of([&] { need_free_bytes(dir.path(), huge, "x"); }), ExitCode::kBadInput);
  EXPECT_EQ(code_of([&] { need_free_bytes(dir.path(), huge, "x", ExitCode::kRunFailed); }), ExitCode::kRunFailed);
}

}  // namespace
}  // namespace qkr::test
