// safetensors files and the index of a folder of them: trainer/io/safetensors.h.
#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/fuzz/target.h"
#include "trainer/core/error.h"
#include "trainer/io/safetensors.h"

namespace qkr::fuzz {
namespace {

// Length, header, data. The header ends at the first NUL of the input, so that a change of its text keeps the length
// right.
std::string file_of(std::string_view input) {
  const size_t nul = std::min(input.find('\0'), input.size());
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(nul >> (8 * i) & 0xFF);
  return bytes + std::string(input.substr(0, nul)) + std::string(input.substr(std::min(nul + 1, input.size())));
}

void check_entries(const SafetensorsHeader& header, size_t file_size) {
  uint64_t at = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    require(entry.begin == at && entry.end >= entry.begin, "tensors tile the data");
    at = entry.end;
  }
  require(header.data_offset + at == file_size, "the data ends with the file");
}

NamedTensors read_tensors(const SafetensorsFile& file) {
  NamedTensors tensors;
  for (const std::string& name : file.names()) {
    accepts({file.file()}, [&] { tensors.set(name, file.read(name)); });
  }
  return tensors;
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return a.sizes() == b.sizes() && a.scalar_type() == b.scalar_type() &&
         (a.numel() == 0 || std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0);
}

void check_file(const std::string& bytes) {
  const std::string path = write_scratch("in.safetensors", bytes);
  accepts({path}, [&] {
    check_entries(parse_safetensors(bytes, path), bytes.size());
    const SafetensorsFile file(path);
    const NamedTensors tensors = read_tensors(file);
    const std::string copy = scratch() + "/out.safetensors";
    write_safetensors(copy, tensors, file.metadata());
    const SafetensorsFile again(copy);
    require(again.metadata() == file.metadata() && again.names().size() == tensors.size(),
            "a written file holds what it was given");
    for (const auto& [name, tensor] : tensors)
      require(same_bytes(again.tensor(name), tensor), "a tensor is read as it was written");
  });
}

std::string index_of(const std::string& map) {
  return "{\"metadata\": {\"total_size\": 20}, \"weight_map\": " + map + "}";
}

// Two shards, once; the index beside them is the input.
const std::string& shards_folder() {
  static const std::string folder = [] {
    const std::string path = scratch() + "/shards";
    std::filesystem::create_directories(path);
    NamedTensors first, second;
    first.set("w.a", at::arange(3).to(at::kFloat));
    first.set("w.b", at::zeros({0, 2}));
    second.set("w.c", at::ones({2}));
    write_safetensors(path + "/model-00001-of-00002.safetensors", first);
    write_safetensors(path + "/model-00002-of-00002.safetensors", second);
    return path;
  }();
  return folder;
}

}  // namespace

Target safetensors_target() {
  Target target;
  target.name = "safetensors";
  const std::string zeros(64, '\0');
  target.seeds = {
      R"({"__metadata__":{"format":"pt","note":"x"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[24,30]}})" +
          zeros.substr(0, 31),
      R"({"i":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"none":{"dtype":"F64","shape":[0,4],)"
      R"("data_offsets":[8,8]},"flag":{"dtype":"BOOL","shape":[2],"data_offsets":[8,10]}})" +
          zeros.substr(0, 11),
      R"({"f4":{"dtype":"F4","shape":[4],"data_offsets":[0,2]},"u8":{"dtype":"U8","shape":[1,1,2],)"
      R"("data_offsets":[2,4]},"c":{"dtype":"C64","shape":[1],"data_offsets":[4,12]}})" +
          zeros.substr(0, 13),
      "{}   "};
  target.words = {"\"F16\"",
                  "\"F8_E4M3\"",
                  "\"U64\"",
                  "[0,0]",
                  "[1,1,1]",
                  "[4611686018427387904,2]",
                  "[0,9223372036854775807]",
                  "\"shape\"",
                  "\"__metadata__\""};
  target.run = [](std::string_view input) {
    check_file(file_of(input));
    if (input.size() < 200) check_file(std::string(input));
  };
  return target;
}

Target shards_target() {
  Target target;
  target.name = "shards";
  target.seeds = {
      index_of(
          R"({"w.a": "model-00001-of-00002.safetensors", "w.b": "model-00001-of-00002.safetensors", )"
          R"("w.c": "model-00002-of-00002.safetensors"})"),
      index_of("{}")};
  target.words = {"\"model-00001-of-00002.safetensors\"", "\"model.safetensors.index.json\"", "\"w.a\\n\""};
  target.run = [](std::string_view input) {
    shards_folder();
    write_scratch("shards/model.safetensors.index.json", input);
    accepts({shards_folder()}, [&] {
      const SafetensorsFolder folder(shards_folder());
      for (const std::string& name : folder.names())
        require(folder.contains(name) && folder.tensor(name).defined(), "every name has its tensor");
      require(folder.total_bytes() >= 0, "bytes are counted");
    });
  };
  return target;
}

}  // namespace qkr::fuzz
