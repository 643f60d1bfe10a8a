#include "tests/fuzz/target.h"

#include <algorithm>
#include <fstream>

#include "tests/support/tmpdir.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::fuzz {
namespace {

constexpr size_t kLongestLine = 2000;  // bytes of a refusal: a terminal's screen

void check_line(const std::string& line, const std::vector<std::string>& places) {
  const auto begins = [&](const std::string& place) { return starts_with(line, place); };
  require(std::any_of(places.begin(), places.end(), begins),
          "a refusal begins with the file's name, got " + quoted(line, 200));
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; };
  require(std::none_of(line.begin(), line.end(), is_control),
          "a refusal is one line of printable text, got " + quoted(line, 400));
  require(is_utf8(line), "a refusal is UTF-8, got " + quoted(line, 400));
  require(line.size() <= kLongestLine,
          concat("a refusal has at most ", kLongestLine, " bytes, got ", line.size(), ": ", quoted(line, 400)));
}

bool accepts_by(const std::function<void()>& work, const std::function<void(const std::string&)>& check) {
  try {
    work();
    return true;
  } catch (const Error& error) {
    require(error.code() == ExitCode::kBadInput,
            concat("a refusal ends with exit code 2, got ", static_cast<int>(error.code())));
    check(error.what());
    return false;
  }
}

}  // namespace

void require(bool kept, const std::string& promise) {
  if (!kept) throw Finding(promise);
}

bool accepts(const std::vector<std::string>& places, const std::function<void()>& work) {
  return accepts_by(work, [&](const std::string& text) { check_line(text, places); });
}

bool accepts_or_lists(const std::vector<std::string>& places, const std::function<void()>& work) {
  return accepts_by(work, [&](const std::string& text) {
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find('\n', begin), text.size());
      check_line(text.substr(begin, end - begin), places);
      begin = end + 1;
    }
  });
}

std::vector<Part> parts_of(std::string_view input) {
  constexpr std::string_view kMark = "=== ";
  std::vector<Part> parts;
  for (size_t at = 0; at < input.size();) {
    const size_t line_end = std::min(input.find('\n', at), input.size());
    const std::string_view line = input.substr(at, line_end - at);
    const size_t begin = std::min(line_end + 1, input.size());
    const size_t next = std::min(input.find("\n=== ", begin == 0 ? 0 : begin - 1), input.size());
    if (starts_with(line, kMark)) {
      const size_t end = std::max(begin, next);
      parts.push_back({std::string(line.substr(kMark.size())), input.substr(begin, end - begin)});
    }
    at = next + 1;
  }
  return parts;
}

const std::string& scratch() {
  static const test::TmpDir dir;
  static const std::string path = dir.path().string();
  return path;
}

std::string write_scratch(const std::string& name, std::string_view bytes) {
  const std::filesystem::path path = std::filesystem::path(scratch()) / name;
  if (!std::filesystem::exists(path.parent_path())) std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path.string();
}

std::vector<Target> all_targets() {
  return {json_target(),      safetensors_target(),      shards_target(),   config_target(), rows_target(),
          tokenizer_target(), tokenizer_config_target(), template_target(), model_target(),  checkpoint_target(),
          results_target(),   haystack_target(),         report_target()};
}

}  // namespace qkr::fuzz
