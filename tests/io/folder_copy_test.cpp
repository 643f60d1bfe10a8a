#include "trainer/io/folder_copy.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/core/digest.h"
#include "trainer/core/error.h"

namespace qkr::test {
namespace {

int64_t allocated(const fs::path& file) {
  struct stat info {};
  EXPECT_EQ(::stat(file.c_str(), &info), 0);
  return static_cast<int64_t>(info.st_blocks) * 512;
}

// 5 MiB of bytes, 64 MiB of hole, one byte, 3 MiB of hole.
fs::path sparse_file(const TmpDir& folder) {
  std::string text(5 << 20, '\0');
  for (size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13 | 1);
  const fs::path file = folder.write("sparse", text);
  fs::resize_file(file, int64_t{64} << 20);
  overwrite_bytes(file, (int64_t{64} << 20) + (5 << 20), "x");
  fs::resize_file(file, (int64_t{64} << 20) + (8 << 20) + 1);
  return file;
}

TEST(ListFolder, GivesEveryFileBelowSortedAndFollowsLinksToFiles) {
  const TmpDir folder, elsewhere;
  folder.write("b", "12");
  folder.write("sub/a", "123");
  fs::create_symlink(elsewhere.write("blob", "12345"), folder / "a");
  const std::vector<FolderFile> files = list_folder(folder.path());
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].name, "a");
  EXPECT_EQ(files[0].size, 5);
  EXPECT_EQ(files[1].name, "b");
  EXPECT_EQ(files[2].name, fs::path("sub/a"));
}

TEST(ListFolder, RefusesWhatIsNoFile) {
  const TmpDir folder, elsewhere;
  fs::create_symlink(elsewhere.path(), folder / "linked");
  EXPECT_EQ(QKR_MESSAGE_OF(list_folder(folder.path())),
            (folder / "linked").string() + ": must be a file or a folder, got a link to a folder or a special file");
  fs::remove(folder / "linked");
  fs::create_symlink(elsewhere / "nothing", folder / "dangling");
  EXPECT_EQ(QKR_MESSAGE_OF(list_folder(folder.path())), (folder / "dangling").string() + ": must be readable, got No such file or directory");
  EXPECT_EQ(QKR_MESSAGE_OF(list_folder(folder / "absent")),
            (folder / "absent").string() + ": must be a readable folder, got No such file or directory");
}

TEST(CopyFileData, KeepsBytesAndHolesAndTellsAllOfThem) {
  const TmpDir folder;
  const fs::path from = sparse_file(folder), to = folder / "copy";
  int64_t told = 0;
  copy_file_data(from, to, [&](int64_t bytes) { told += bytes; });
  EXPECT_EQ(told, static_cast<int64_t>(fs::file_size(from)));
  EXPECT_EQ(fs::file_size(to), fs::file_size(from));
  EXPECT_EQ(file_sha256(to), file_sha256(from));
  EXPECT_LT(allocated(to), 8 << 20);
}

TEST(CopyFileData, ReplacesALongerFileAndCopiesAnEmptyOne) {
  const TmpDir folder;
  copy_file_data(folder.write("from", "short"), folder.write("to", "much longer"));
  EXPECT_EQ(read_file(folder / "to"), "short");
  copy_file_data(folder.write("empty", ""), folder / "to");
  EXPECT_EQ(read_file(folder / "to"), "");
}

TEST(CopyFileData, StopsWhereTheWatchThrows) {
  const TmpDir folder;
  const fs::path from = folder.write("from", std::string(1 << 20, 'x'));
  EXPECT_THROW(copy_file_data(from, folder / "to", [](int64_t) { fail_run("enough"); }), Error);
}

TEST(CopyFileData, NamesTheFileThatFails) {
  const TmpDir folder;
  EXPECT_EQ(QKR_MESSAGE_OF(copy_file_data(folder / "absent", folder / "to")), (folder / "absent").string() + ": must exist, got no such file");
  const fs::path to = folder / "no" / "to";
  EXPECT_EQ(QKR_MESSAGE_OF(copy_file_data(folder.write("from", "x"), to)), to.string() + ": must be written, got No such file or directory");
}

TEST(LinkFile, MakesAnotherNameOfWhatALinkPointsTo) {
  const TmpDir folder;
  const fs::path blob = folder.write("blob", "x");
  fs::create_symlink(blob, folder / "link");
  EXPECT_TRUE(link_file(folder / "link", folder / "to"));
  EXPECT_FALSE(fs::is_symlink(folder / "to"));
  EXPECT_TRUE(fs::equivalent(blob, folder / "to"));
}

TEST(OverwriteBytes, LeavesTheRest) {
  const TmpDir folder;
  const fs::path file = folder.write("file", "0123456789");
  overwrite_bytes(file, 3, "abc");
  EXPECT_EQ(read_file(file), "012abc6789");
}

TEST(FileSha256, IsThatOfTheBytes) {
  const TmpDir folder;
  const std::string text(9 << 20, 'q');  // more than one buffer
  EXPECT_EQ(file_sha256(folder.write("file", text)), sha256_hex(text));
  EXPECT_EQ(file_sha256(folder.write("file", "")), sha256_hex(""));
}

TEST(FilesDigests, AreThoseOfThePieces) {
  const TmpDir folder;
  const fs::path large = folder.write("large", "x"), small = folder.write("small", "abc"), empty = folder.write("empty", "");
  fs::resize_file(large, 2 * kDigestPiece + 5);
  overwrite_bytes(large, kDigestPiece + 1, "y");
  std::string piece(kDigestPiece, '\0');
  piece[0] = 'x';
  const std::string first = sha256_hex(piece);
  piece[0] = '\0';
  piece[1] = 'y';
  const std::string second = sha256_hex(piece);
  const std::vector<std::string> digests = files_digests({small, large, empty, small});
  EXPECT_EQ(digests, (std::vector<std::string>{sha256_hex(sha256_hex("abc")), sha256_hex(first + second + sha256_hex(std::string(5, '\0'))),
                                               sha256_hex(""), sha256_hex(sha256_hex("abc"))}));
  overwrite_bytes(large, 2 * kDigestPiece + 4, "\1");
  EXPECT_NE(files_digests({large})[0], digests[1]);
  EXPECT_EQ(QKR_MESSAGE_OF(files_digests({folder / "none"})), (folder / "none").string() + ": must exist, got no such file");
}

}  // namespace
}  // namespace qkr::test
