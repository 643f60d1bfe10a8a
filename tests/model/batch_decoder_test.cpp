// Decoding together and prefilling from shared beginnings against one prompt at a time, on every fixture model.
#include "trainer/model/batch_decoder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "tests/support/accuracy.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/model/folder.h"
#include "trainer/model/generate.h"
#include "trainer/model/prefix_prefill.h"

namespace qkr {
namespace {

using Ids = std::vector<int32_t>;

std::vector<std::string> fixture_names() {
  std::vector<std::string> names;
  const auto index = nlohmann::json::parse(test::read_file(test::fixtures_dir() / "models" / "index.json"));
  for (const auto& entry : index.at("fixtures")) {
    if (entry.at("family") != "jet") names.push_back(entry.at("name"));
  }
  return names;
}

Decoder load(const std::string& name, at::ScalarType dtype, at::Device device) {
  const auto folder = test::fixtures_dir() / "models" / name / "model";
  return load_decoder(ModelSource::read(folder.string(), "checkpoint"), dtype, device);
}

Ids some_ids(const Decoder& decoder, int64_t count, int64_t seed) {
  at::Generator random = at::detail::createCPUGenerator(static_cast<uint64_t>(seed));
  const at::Tensor ids = at::randint(decoder.architecture().vocab_size, {count}, random, at::TensorOptions(at::kInt));
  return {ids.const_data_ptr<int32_t>(), ids.const_data_ptr<int32_t>() + count};
}

// Prompts of different lengths, some of which begin alike.
std::vector<Ids> prompts_of(const Decoder& decoder) {
  const Ids text = some_ids(decoder, 90, 1);
  std::vector<Ids> prompts;
  for (const int64_t shared : {0, 40, 17, 88, 64, 33, 64}) {
    Ids ids(text.begin(), text.begin() + shared);
    const Ids rest = some_ids(decoder, 5 + shared % 11, 100 + static_cast<int64_t>(prompts.size()));
    ids.insert(ids.end(), rest.begin(), rest.end());
    prompts.push_back(std::move(ids));
  }
  for (const int32_t last : {7, 8, 9}) {  // one token behind whole chunks: its step changes a Lightning state in place
    prompts.emplace_back(text.begin(), text.begin() + 48);
    prompts.back().push_back(last);
  }
  return prompts;
}

Ids alone(const Decoder& decoder, const Ids& prompt, int64_t count, int64_t chunk) {
  GreedyOptions options;
  options.max_new_tokens = count;
  options.prefill_chunk = chunk;
  return generate_greedy(decoder, prompt, options);
}

// All prompts, `slots` at a time; prompt p gets 20 + 3 (p % 4) new tokens.
std::vector<Ids> together(const Decoder& decoder, const std::vector<Ids>& prompts, int64_t slots, bool record, bool reuse, std::string* why_not) {
  BatchDecoder batch(decoder, slots, 140, record);
  *why_not = batch.why_not_recorded();
  std::vector<PrefillPrompt> asked;
  for (const Ids& ids : prompts) asked.push_back({&ids, static_cast<int64_t>(ids.size()) - 1});
  const PrefillPlan plan = plan_prefill(asked, 16, prompts.size(), reuse);
  PrefixPrefill prefill(decoder);
  std::vector<Ids> made(prompts.size());
  for (size_t begin = 0; begin < plan.steps.size(); begin += static_cast<size_t>(slots)) {
    std::vector<std::pair<int64_t, size_t>> going;  // slot, prompt
    for (size_t i = begin; i < std::min(begin + static_cast<size_t>(slots), plan.steps.size()); ++i) {
      const PrefillStep& step = plan.steps[i];
      const int64_t slot = static_cast<int64_t>(i - begin);
      DecoderCache cache = batch.prefill_cache(slot);
      const at::Tensor hidden = prefill.run(prompts[step.prompt], step, cache);
      made[step.prompt].push_back(static_cast<int32_t>(batch.start(slot, cache, hidden)));
      going.emplace_back(slot, step.prompt);
    }
    while (!going.empty()) {
      const std::vector<int64_t> tokens = batch.step();
      std::erase_if(going, [&](const auto& one) {
        made[one.second].push_back(static_cast<int32_t>(tokens[static_cast<size_t>(one.first)]));
        const bool last = made[one.second].size() == 20 + 3 * (one.second % 4);
        if (last) batch.stop(one.first);
        return last;
      });
    }
  }
  return made;
}

class FixturesBatch : public testing::TestWithParam<std::string> {};

TEST_P(FixturesBatch, SaysWhatEachPromptAloneSays) {
  const Decoder decoder = load(GetParam(), at::kFloat, at::kCPU);
  const std::vector<Ids> prompts = prompts_of(decoder);
  std::vector<Ids> want;
  for (size_t p = 0; p < prompts.size(); ++p) want.push_back(alone(decoder, prompts[p], 20 + 3 * static_cast<int64_t>(p % 4), 16));
  std::string why_not;
  for (const int64_t slots : {1, 3, 7}) {
    for (const bool reuse : {false, true}) EXPECT_EQ(together(decoder, prompts, slots, true, reuse, &why_not), want) << slots << reuse;
  }
  EXPECT_EQ(why_not, "only CUDA has them (cpu, Float)");
}

// Not nearly: the same bits, because chunks begin at the same places.
TEST_P(FixturesBatch, SharedBeginningsGiveTheSameBits) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const Decoder decoder = load(GetParam(), dtype, at::kCPU);
    const std::vector<Ids> prompts = prompts_of(decoder);
    std::vector<PrefillPrompt> asked;
    for (const Ids& ids : prompts) asked.push_back({&ids, static_cast<int64_t>(ids.size()) - 1});
    const auto hidden_of = [&](bool reuse, bool own_caches) {
      PrefixPrefill prefill(decoder);
      std::vector<at::Tensor> found(prompts.size());
      DecoderCache one;
      one.capacity = 100;
      for (const PrefillStep& step : plan_prefill(asked, 16, prompts.size(), reuse).steps) {
        DecoderCache fresh;
        DecoderCache& cache = own_caches ? fresh : one;
        cache.length = 0;
        for (LayerCache& layer : cache.layers) layer.state = at::Tensor();
        found[step.prompt] = prefill.run(prompts[step.prompt], step, cache).clone();
        EXPECT_EQ(cache.length, static_cast<int64_t>(prompts[step.prompt].size()));
      }
      return found;
    };
    const std::vector<at::Tensor> want = hidden_of(false, true);
    for (const bool own_caches : {false, true}) {
      const std::vector<at::Tensor> shared = hidden_of(true, own_caches);
      for (size_t p = 0; p < prompts.size(); ++p) EXPECT_TRUE(at::equal(shared[p], want[p])) << c10::toString(dtype) << " " << p;
    }
  }
}

TEST_P(FixturesBatch, ARecordedStepEqualsALaunchedOne) {
  if (!at::hasCUDA()) GTEST_SKIP() << "needs a GPU";
  const Decoder decoder = load(GetParam(), at::kBFloat16, at::Device(at::kCUDA, 0));
  const std::vector<Ids> prompts = prompts_of(decoder);
  std::string recorded, launched;
  for (const int64_t slots : {1, 3}) {
    const std::vector<Ids> want = together(decoder, prompts, slots, false, true, &launched);
    EXPECT_EQ(together(decoder, prompts, slots, true, true, &recorded), want) << slots;
    EXPECT_EQ(recorded, decoder.step_is_recordable() ? "" : "attention without flash attention needs lengths on the host (cuda:0, BFloat16)");
    EXPECT_EQ(launched, "not asked for");
  }
}

INSTANTIATE_TEST_SUITE_P(, FixturesBatch, testing::ValuesIn(fixture_names()), [](const auto& one) {
  std::string name = one.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

Decoder tiny_model() {
  return load_decoder(ModelSource::read((test::source_dir() / "examples/tiny/model").string(), "checkpoint"), at::kFloat, at::kCPU);
}

TEST(BatchDecoder, RefusesWhatDoesNotFit) {
  const Decoder decoder = tiny_model();
  EXPECT_EQ(QKR_MESSAGE_OF(BatchDecoder(decoder, 0, 10, true)), "decode: slots must be at least 1, got 0");
  BatchDecoder batch(decoder, 2, 12, false);
  PrefixPrefill prefill(decoder);
  const Ids prompt = some_ids(decoder, 4, 3);
  const auto start = [&](int64_t slot, const Ids& ids) {
    DecoderCache cache = batch.prefill_cache(slot);
    const at::Tensor hidden = prefill.run(ids, {0, 16, 0, {}}, cache);
    return static_cast<int32_t>(batch.start(slot, cache, hidden));
  };
  EXPECT_EQ(QKR_MESSAGE_OF(start(0, some_ids(decoder, 12, 4))), "decode: a prompt of 12 tokens leaves no room in 12");
  start(0, some_ids(decoder, 10, 4));
  batch.step();
  batch.step();
  EXPECT_EQ(QKR_MESSAGE_OF(batch.step()), "decode: a sequence is longer than its slot of 12");
  batch.stop(0);
  Ids made = {start(1, prompt)};  // beside a full slot that waits, and must write within its own rows
  const auto first_rows = [&] {
    std::vector<at::Tensor> rows;
    for (const LayerCache& layer : batch.prefill_cache(1).layers) {
      if (layer.k.defined()) rows.push_back(layer.k[0].clone());
    }
    return at::cat(rows);
  };
  const at::Tensor rows = first_rows();
  while (made.size() < 8) made.push_back(static_cast<int32_t>(batch.step()[1]));
  EXPECT_EQ(made, alone(decoder, prompt, 8, 16));
  EXPECT_TRUE(at::equal(first_rows(), rows));
  EXPECT_EQ(QKR_MESSAGE_OF(prefill.run({}, {0, 16, 0, {}}, *std::make_unique<DecoderCache>())), "prefill: the prompt must have a token, got none");
}

TEST(BatchDecoder, CountsASlotsBytes) {
  const Decoder decoder = tiny_model();
  const BatchCache cache = decoder.batch_cache(3, 50);
  int64_t bytes = 0;
  for (const LayerCache& layer : cache.layers) {
    for (const at::Tensor& t : {layer.k, layer.v, layer.state}) bytes += t.defined() ? static_cast<int64_t>(t.nbytes()) : 0;
  }
  EXPECT_EQ(3 * slot_bytes(decoder.architecture(), at::kFloat, 50), bytes);
  EXPECT_EQ(slots_that_fit(decoder, 50, 64, 8), 8);
  EXPECT_EQ(slots_that_fit(decoder, int64_t{1} << 40, 64, 8), 1);
}

}  // namespace
}  // namespace qkr
