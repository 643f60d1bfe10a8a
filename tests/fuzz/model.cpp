// config.json and the names in a model folder's weights: trainer/model/architecture.h, folder.h.
#include "trainer/model/folder.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/fuzz/target.h"
#include "tests/support/fixtures.h"
#include "trainer/core/error.h"
#include "trainer/io/safetensors.h"

namespace qkr::fuzz {
namespace {

constexpr uint64_t kMostData = uint64_t{1} << 32;

// A file of that header whose data is a hole as long as the header says.
void write_weights(std::string_view header) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  uint64_t end = 0;
  const auto json = nlohmann::json::parse(header, nullptr, false);
  for (const auto& entry : json.is_object() ? json : nlohmann::json::object()) {
    const auto offsets = entry.is_object() && entry.contains("data_offsets") ? entry["data_offsets"] : nlohmann::json();
    if (offsets.is_array() && offsets.size() == 2 && offsets[1].is_number_unsigned())
      end = std::max(end, offsets[1].get<uint64_t>());
  }
  const std::string path = write_scratch("model/model.safetensors", bytes + std::string(header));
  std::filesystem::resize_file(path, 8 + header.size() + std::min(end, kMostData));
}

// The header that a small model of that configuration has.
std::string header_for(const std::string& config) {
  nlohmann::ordered_json header;
  int64_t at = 0;
  for (const WeightSpec& spec : weight_specs(parse_architecture(config, "seed"))) {
    int64_t bytes = 2;
    for (const int64_t size : spec.shape) bytes *= size;
    header[spec.name] = {{"dtype", "BF16"}, {"shape", spec.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  return header.dump();
}

void check_architecture(const Architecture& architecture) {
  require(!architecture.layers.empty() && architecture.hidden_size > 0 && architecture.vocab_size > 0,
          "an architecture has layers and sizes");
  if (architecture.layers.size() > 64) return;
  for (const WeightSpec& spec : weight_specs(architecture)) {
    for (const int64_t size : spec.shape)
      require(size > 0, concat("weights have positive sizes, got ", size, " in ", spec.name));
  }
  require(mixer_layers(architecture).size() == architecture.layers.size(), "every layer has its mixer");
}

}  // namespace

Target model_target() {
  Target target;
  target.name = "model";
  for (const char* name : {"hypenet-gqa-untied", "hypenet-tiny", "llama-tiny", "qwen2-tiny", "qwen3-tiny"}) {
    const std::string config =
        test::read_file(test::source_dir() / "tests" / "data" / "models" / name / "model" / "config.json");
    target.seeds.push_back("=== config.json\n" + config);
    target.seeds.push_back("=== config.json\n" + config + "\n=== header\n" + header_for(config));
  }
  target.words = {"\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0},",
                  "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0},",
                  "\"rope_parameters\": {\"rope_theta\": 1e6, \"rope_type\": \"default\"},",
                  "\"quantization_config\": {}",
                  "\"layer_types\": [\"sliding_attention\"],",
                  "\"attn_logits_scaling\": \"hype 500\"",
                  "\"sliding_window\": 16,",
                  "\"use_sliding_window\": true,",
                  "\"unknown\\nkey\": 1,"};
  target.run = [](std::string_view input) {
    static const std::string folder = scratch() + "/model";
    std::string_view config, header;
    for (const Part& part : parts_of(input)) (part.name == "header" ? header : config) = part.text;
    write_scratch("model/config.json", config);
    accepts({folder}, [&] {
      const ModelSource source = ModelSource::read(folder, "checkpoint");
      check_architecture(source.architecture);
      if (header.empty() || source.architecture.layers.size() > 64) return;
      write_weights(header);
      check_weights(source);
    });
    accepts({folder}, [&] { ModelSource::read(folder, "hype 500"); });
  };
  return target;
}

}  // namespace qkr::fuzz
