// Every model of $QKR_FIXTURES/models against the numbers of its official class, in the accuracy of that folder's README.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/accuracy.h"
#include "tests/support/fixtures.h"
#include "trainer/io/safetensors.h"
#include "trainer/model/folder.h"
#include "trainer/model/generate.h"

namespace qkr {
namespace {

using test::fixtures_dir;
using test::max_abs_difference;
using test::relative_rms;

// Jet-Nemotron has a mixer of its own that this program does not run yet.
const std::set<std::string> kLaterFamilies = {"jet"};

struct Fixture {
  std::string name;
  nlohmann::json measured;
  std::filesystem::path folder;
};

std::vector<Fixture> fixtures() {
  std::vector<Fixture> found;
  const auto root = fixtures_dir() / "models";
  const auto index = nlohmann::json::parse(test::read_file(root / "index.json"));
  for (const auto& entry : index.at("fixtures")) {
    const std::string name = entry.at("name");
    if (kLaterFamilies.count(entry.at("family").get<std::string>()) != 0) continue;
    found.push_back({name, entry.at("measured"), root / name});
  }
  return found;
}

Decoder load(const Fixture& fixture, at::ScalarType dtype, at::Device device, const std::string& scaling = "checkpoint") {
  return load_decoder(ModelSource::read((fixture.folder / "model").string(), scaling), dtype, device);
}

// The rows of a [B, T] batch as one packed row.
Segments rows_packed(const at::Tensor& ids, at::Device device) {
  std::vector<int64_t> offsets = {0};
  for (int64_t b = 0; b < ids.size(0); ++b) offsets.push_back(offsets.back() + ids.size(1));
  return Segments::packed(offsets, device);
}

// labels [B, T], unshifted → targets [B T]: position t predicts label t + 1 of its own row.
at::Tensor targets_of(const at::Tensor& labels) {
  at::Tensor targets = at::full_like(labels, -100);
  targets.narrow(1, 0, labels.size(1) - 1).copy_(labels.narrow(1, 1, labels.size(1) - 1));
  return targets.flatten();
}

struct Outcome {
  at::Tensor logits, loss;
};

Outcome run(const Decoder& decoder, const SafetensorsFile& io, bool with_grad) {
  const at::Tensor ids = io.tensor("input_ids");
  const at::Device device = decoder.device();
  const Segments segments = rows_packed(ids, device);
  const at::Tensor targets = targets_of(io.tensor("labels").clone()).to(device);
  const double labelled = static_cast<double>((targets >= 0).sum().item<int64_t>());
  for (const auto& [name, weight] : decoder.weights()) weight.set_requires_grad(with_grad);
  Outcome out;
  out.loss = decoder.loss(ids.flatten().to(device), targets, segments, 1.0 / labelled);
  if (with_grad) out.loss.backward();
  const at::NoGradGuard no_grad;
  out.logits = decoder.logits(decoder.forward(ids.flatten().to(device), segments)).view({ids.size(0), ids.size(1), -1});
  return out;
}

std::vector<at::Device> devices() {
  if (at::hasCUDA()) return {at::Device(at::kCPU), at::Device(at::kCUDA, 0)};
  return {at::Device(at::kCPU)};
}

class FixturesModel : public testing::TestWithParam<std::tuple<Fixture, at::Device>> {
 protected:
  const Fixture& fixture() const { return std::get<0>(GetParam()); }
  at::Device device() const { return std::get<1>(GetParam()); }
};

TEST_P(FixturesModel, Fp32LogitsLossAndEveryGradient) {
  const SafetensorsFile io(fixture().folder / "io.safetensors");
  const Decoder decoder = load(fixture(), at::kFloat, device());
  const Outcome out = run(decoder, io, true);
  EXPECT_LE(max_abs_difference(out.logits.cpu(), io.tensor("logits")), 1e-3);
  EXPECT_LE(max_abs_difference(out.loss.cpu(), io.tensor("loss")), 1e-5);
  for (const auto& [name, weight] : decoder.weights()) {
    ASSERT_TRUE(weight.grad().defined()) << name;
    EXPECT_LE(relative_rms(weight.grad().cpu(), io.tensor("grad." + name)), 1e-4) << name;
  }
}

TEST_P(FixturesModel, Fp32WithRecomputedActivationsIsTheSame) {
  const SafetensorsFile io(fixture().folder / "io.safetensors");
  Decoder decoder = load(fixture(), at::kFloat, device());
  decoder.checkpoint_activations(true);
  const Outcome out = run(decoder, io, true);
  EXPECT_LE(max_abs_difference(out.loss.cpu(), io.tensor("loss")), 1e-5);
  for (const auto& [name, weight] : decoder.weights()) {
    ASSERT_TRUE(weight.grad().defined()) << name;
    EXPECT_LE(relative_rms(weight.grad().cpu(), io.tensor("grad." + name)), 1e-4) << name;
  }
}

TEST_P(FixturesModel, Bf16LogitsLossAndGradients) {
  const SafetensorsFile io(fixture().folder / "io.safetensors");
  const Decoder decoder = load(fixture(), at::kBFloat16, device());
  const Outcome out = run(decoder, io, true);
  EXPECT_LE(relative_rms(out.logits.cpu(), io.tensor("logits")), 2 * fixture().measured.at("bf16_rel_rms").get<double>());
  EXPECT_LE(max_abs_difference(out.loss.cpu(), io.tensor("loss")), 0.05);
  double wrong = 0, right = 0;
  for (const auto& [name, weight] : decoder.weights()) {
    const at::Tensor want = io.tensor("grad." + name).to(at::kDouble);
    wrong += (weight.grad().cpu().to(at::kDouble) - want).square().sum().item<double>();
    right += want.square().sum().item<double>();
  }
  EXPECT_LE(std::sqrt(wrong / right), 2 * fixture().measured.at("bf16_grad_global_rel").get<double>());
}

// Greedy decoding through the cache, the prompt in one piece and in pieces of 7.
void expect_decode(const Decoder& decoder, const SafetensorsFile& io, const std::string& suffix, bool with_logits) {
  const at::NoGradGuard no_grad;
  const at::Tensor prompt = io.tensor("prompt_ids").flatten(), want = io.tensor("output_ids" + suffix).flatten();
  const at::Tensor want_logits = io.tensor("step_logits" + suffix).squeeze(0);
  for (const int64_t piece : {prompt.size(0), int64_t{7}}) {
    DecoderCache cache;
    at::Tensor hidden;
    for (int64_t begin = 0; begin < prompt.size(0); begin += piece) {
      const int64_t count = std::min(piece, prompt.size(0) - begin);
      hidden = decoder.forward(prompt.narrow(0, begin, count).to(decoder.device()),
                               Segments::continued(begin, count, decoder.device()), &cache);
    }
    for (int64_t step = 0; step < want.size(0); ++step) {
      const at::Tensor logits = decoder.logits(hidden.narrow(0, hidden.size(0) - 1, 1)).squeeze(0);
      if (with_logits) {
        EXPECT_LE(max_abs_difference(logits.cpu(), want_logits[step]), 1e-3) << "step " << step;
      }
      ASSERT_EQ(logits.argmax().item<int64_t>(), want[step].item<int64_t>()) << "step " << step << ", pieces of " << piece;
      hidden = decoder.forward(want.narrow(0, step, 1).to(decoder.device()),
                               Segments::continued(cache.length, 1, decoder.device()), &cache);
    }
  }
}

TEST_P(FixturesModel, Decode) {
  const SafetensorsFile io(fixture().folder / "decode.safetensors");
  expect_decode(load(fixture(), at::kFloat, device()), io, "", true);
  if (fixture().measured.value("bf16_greedy_agree", 0.0) == 1.0) expect_decode(load(fixture(), at::kBFloat16, device()), io, "", false);
}

TEST_P(FixturesModel, GenerateGivesTheSameTokens) {
  const SafetensorsFile io(fixture().folder / "decode.safetensors");
  const at::Tensor prompt = io.tensor("prompt_ids").flatten().to(at::kInt), want = io.tensor("output_ids").flatten().to(at::kInt);
  GreedyOptions options;
  options.max_new_tokens = want.size(0);
  options.prefill_chunk = 9;
  const auto made = generate_greedy(load(fixture(), at::kFloat, device()),
                                    std::vector<int32_t>(prompt.data_ptr<int32_t>(), prompt.data_ptr<int32_t>() + prompt.numel()), options);
  EXPECT_EQ(made, std::vector<int32_t>(want.data_ptr<int32_t>(), want.data_ptr<int32_t>() + want.numel()));
}

TEST_P(FixturesModel, LogitsScaling) {
  const SafetensorsFile io(fixture().folder / "io.safetensors"), decode(fixture().folder / "decode.safetensors");
  if (!io.contains("logits_scaled")) GTEST_SKIP() << fixture().name << " has no scaled logits";
  const Decoder hype500 = load(fixture(), at::kFloat, device(), "hype 500");
  const Outcome out = run(hype500, io, false);
  EXPECT_LE(max_abs_difference(out.logits.cpu(), io.tensor("logits_scaled")), 1e-3);
  EXPECT_LE(max_abs_difference(out.loss.cpu(), io.tensor("loss_scaled")), 1e-5);
  expect_decode(hype500, decode, "_scaled", true);
  if (!io.contains("logits_scaled_hype4")) return;
  const Outcome strong = run(load(fixture(), at::kFloat, device(), "hype 4"), io, false);
  EXPECT_LE(max_abs_difference(strong.logits.cpu(), io.tensor("logits_scaled_hype4")), 1e-3);
}

// Chunked prefill equals one-shot prefill, and prefill + decode the full forward, at every split. fp64 leaves no room for luck.
TEST_P(FixturesModel, EverySplitOfThePrefillGivesTheSameHiddenStates) {
  const SafetensorsFile io(fixture().folder / "io.safetensors");
  const Decoder decoder = load(fixture(), at::kDouble, device());
  const at::NoGradGuard no_grad;
  const at::Tensor ids = io.tensor("input_ids")[0].to(device());
  const at::Tensor whole = decoder.forward(ids, Segments::packed({0, ids.size(0)}, device()));
  for (const int64_t piece : {1, 3, 16, 63, 64, 65}) {
    DecoderCache cache;
    std::vector<at::Tensor> parts;
    for (int64_t begin = 0; begin < ids.size(0); begin += piece) {
      const int64_t count = std::min<int64_t>(piece, ids.size(0) - begin);
      parts.push_back(decoder.forward(ids.narrow(0, begin, count), Segments::continued(begin, count, device()), &cache));
    }
    // RoPE angles are fp32 as officially, everything else fp64.
    EXPECT_LE(max_abs_difference(at::cat(parts, 0), whole), 1e-9) << "pieces of " << piece;
  }
}

// Packed equals separate: logits and every gradient.
TEST_P(FixturesModel, PackedEqualsSeparate) {
  const SafetensorsFile io(fixture().folder / "io.safetensors");
  const Decoder packed = load(fixture(), at::kDouble, device()), separate = load(fixture(), at::kDouble, device());
  const at::Tensor ids = io.tensor("input_ids").flatten().to(device());
  const std::vector<int64_t> offsets = {0, 1, 32, 32, 65, 70, ids.size(0)};  // one token, odd lengths, an empty sample
  at::Tensor targets = at::roll(ids, -1);
  for (size_t s = 1; s < offsets.size(); ++s) targets[offsets[s] - 1] = -100;
  for (const Decoder* d : {&packed, &separate}) {
    for (const auto& [name, weight] : d->weights()) weight.set_requires_grad(true);
  }
  const at::Tensor loss = packed.loss(ids, targets, Segments::packed(offsets, device()), 0.01);
  loss.backward();
  double sum = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) {
    const int64_t begin = offsets[s], length = offsets[s + 1] - begin;
    if (length == 0) continue;
    const at::Tensor part = separate.loss(ids.narrow(0, begin, length), targets.narrow(0, begin, length),
                                          Segments::packed({0, length}, device()), 0.01);
    part.backward();
    sum += part.item<double>();
  }
  EXPECT_NEAR(loss.item<double>(), sum, 1e-10);
  for (const auto& [name, weight] : packed.weights()) {
    EXPECT_LE(relative_rms(weight.grad(), separate.weights().at(name).grad()), 1e-9) << name;
  }
}

TEST(FixturesModelOfLaterFamilies, AreNamed) {
  const auto index = nlohmann::json::parse(test::read_file(fixtures_dir() / "models" / "index.json"));
  std::string later;
  for (const auto& entry : index.at("fixtures")) {
    if (kLaterFamilies.count(entry.at("family").get<std::string>()) != 0) later += " " + entry.at("name").get<std::string>();
  }
  if (!later.empty()) GTEST_SKIP() << "not run, because this program has no such mixer yet:" << later;
}

std::string name_of(const testing::TestParamInfo<std::tuple<Fixture, at::Device>>& info) {
  std::string name = std::get<0>(info.param).name + (std::get<1>(info.param).is_cuda() ? "_cuda" : "_cpu");
  std::replace_if(name.begin(), name.end(), [](char c) { return !std::isalnum(static_cast<unsigned char>(c)); }, '_');
  return name;
}

// Without a prefix, so that --gtest_filter=Fixtures* finds them.
INSTANTIATE_TEST_SUITE_P(, FixturesModel, testing::Combine(testing::ValuesIn(fixtures()), testing::ValuesIn(devices())), name_of);

}  // namespace
}  // namespace qkr
