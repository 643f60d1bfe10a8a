// A folder's files into another folder, by the kernel: nothing of them passes through this process's memory, and what is a hole
// in the source is a hole in the copy. Failing to read is kBadInput; failing to write is kRunFailed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace qkr {

struct FolderFile {
  std::filesystem::path name;  // relative to the folder
  int64_t size = 0;            // bytes
  int64_t allocated = 0;       // bytes that a copy takes on disk: `size` less the holes
};

// Every file below `folder`, by name. Links to files (a Hugging Face cache is made of them) are followed; a link to a folder,
// or to nothing, and what is neither file nor folder is an Error that names it.
std::vector<FolderFile> list_folder(const std::filesystem::path& folder);

// Told the bytes just done, at most every 64 MiB; may throw to stop the work.
using CopyWatch = std::function<void(int64_t bytes)>;

// `to` is made, or replaced.
void copy_file_data(const std::filesystem::path& from, const std::filesystem::path& to, const CopyWatch& watch = {});

// `to` becomes another name of the file that `from` is or links to. False where the file system cannot do that (another device,
// no permission, too many links).
bool link_file(const std::filesystem::path& from, const std::filesystem::path& to);

// Replaces bytes in the middle of a file; the rest stays.
void overwrite_bytes(const std::filesystem::path& file, int64_t offset, std::string_view bytes);

// 64 hex digits, as sha256sum prints them.
std::string file_sha256(const std::filesystem::path& file, const CopyWatch& watch = {});

// A digest of each file that all cores compute at once: SHA-256 of the SHA-256 digests (their hex digits, end to end) of the
// file's pieces of kDigestPiece bytes, the last of which may be shorter; an empty file has none. 64 hex digits.
constexpr int64_t kDigestPiece = int64_t{64} << 20;
std::vector<std::string> files_digests(const std::vector<std::filesystem::path>& files);

}  // namespace qkr
