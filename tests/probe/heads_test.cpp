#include "trainer/probe/heads.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/accuracy.h"
#include "tests/support/byte_codec.h"
#include "tests/support/fixtures.h"
#include "tests/support/tmpdir.h"
#include "trainer/data/dataset.h"
#include "trainer/model/folder.h"
#include "trainer/probe/generated_text.h"

namespace qkr {
namespace {

using at::Tensor;

std::string tiny_folder() { return (test::source_dir() / "examples/tiny/model").string(); }

Decoder tiny_model() { return load_decoder(ModelSource::read(tiny_folder(), "checkpoint"), at::kFloat, at::kCPU); }

std::vector<NeedleItem> items_of(const TextCodec& codec, std::vector<std::string> tasks, const std::string& mode = "base") {
  ProbeConfigSection config;
  config.tasks = std::move(tasks);
  config.lengths = {2048};
  config.samples = 2;
  config.mode = mode;
  const Haystack haystack(generated_text(60000), "text");
  return draw_items(config, &haystack, codec);
}

std::string text_of(const TextCodec& codec, const std::vector<int32_t>& ids, const TokenRange& range) {
  return codec.decode({ids.begin() + range.begin, ids.begin() + range.end});
}

// The tokens of the place decode to the sentence and to the answer, but for the space that a token may begin with.
TEST(NeedlePlace, HoldsTheSentenceAndTheAnswerOfEveryTask) {
  const TextCodec codec = text_codec(TextModel::load(tiny_folder(), ""));
  std::vector<std::string> tasks;
  for (const NeedleTask task : needle_tasks()) tasks.emplace_back(needle_task_name(task));
  for (const std::string mode : {"base", "default", "chat"}) {
    if (mode != "base" && !codec.chat) continue;
    for (const NeedleItem& item : items_of(codec, tasks, mode)) {
      SCOPED_TRACE(mode + " " + item.id);
      const NeedlePlace place = needle_place(item, codec);
      const std::string needle = text_of(codec, place.ids, place.needle), answer = text_of(codec, place.ids, place.answer);
      const std::string want = item.task == NeedleTask::kVariableTracking ? "VAR " + item.value + " = " + item.key : " is: " + item.value + ".";
      EXPECT_NE(needle.find(want), std::string::npos) << needle;
      EXPECT_LE(needle.size(), (item.task == NeedleTask::kVariableTracking ? want.size() : needle.find(want) + want.size()) + 1) << needle;
      if (item.task != NeedleTask::kVariableTracking) {
        EXPECT_LE(needle.find("One of the special magic"), 1u) << needle;
      }
      EXPECT_NE(answer.find(item.value), std::string::npos) << answer;
      EXPECT_LE(answer.size(), item.value.size() + 2) << answer;  // a space before, a comma behind
      EXPECT_GE(place.answer.begin, static_cast<int64_t>(item.ids.size()) - 1);
    }
  }
}

// " 1" is one token here: a range that ends between its characters takes it in, one that begins there too.
TEST(NeedlePlace, ATokenThatARangeCutsBelongsToIt) {
  const TextCodec codec = test::pair_codec();
  const std::string text = "ab 1cd";
  std::vector<int32_t> ids = {7};  // a BOS
  const std::vector<int32_t> body = codec.encode(text);
  ids.insert(ids.end(), body.begin(), body.end());  // 7 a b " 1" c d
  const auto range = [&](size_t begin, size_t end) {
    const TokenRange r = token_range(text, begin, end, ids, 1, codec);
    return std::pair(r.begin, r.end);
  };
  EXPECT_EQ(range(0, 2), std::pair(int64_t{1}, int64_t{3}));
  EXPECT_EQ(range(0, 3), std::pair(int64_t{1}, int64_t{4}));
  EXPECT_EQ(range(3, 5), std::pair(int64_t{3}, int64_t{5}));
  EXPECT_EQ(range(4, 6), std::pair(int64_t{4}, int64_t{6}));
}

TEST(NeedlePlace, APromptWithoutItsSentenceIsRefused) {
  NeedleItem item;
  item.id = "mine/1";
  item.prompt = "What is it?";
  item.value = "42";
  EXPECT_EQ(QKR_MESSAGE_OF(needle_place(item, test::byte_codec())), "mine/1: must hold its needle's sentence so that heads can be looked at, got none");
}

// What the cache keeps is what attention took: softmax(q k) v through the gate and W_O is the mixer's own result.
TEST(KeptQueries, AreThoseThatAttentionTook) {
  const Decoder decoder = tiny_model();
  const int64_t layer = decoder.architecture().softmax_layers()[0], count = 30;
  const SoftmaxShape& shape = decoder.architecture().layers[static_cast<size_t>(layer)].softmax;
  const SoftmaxMixer mixer(shape, 1e-6, decoder.weights(), "model.layers." + std::to_string(layer) + ".self_attn.");
  at::manual_seed(5);
  const Tensor a = at::randn({count, mixer.q.weight.size(1)});
  const Segments segments = Segments::continued(0, count, at::kCPU);
  ForwardContext context{segments, Rotary(decoder.architecture(), at::kCPU).table(segments.positions, at::kFloat), 1 + at::rand({count}), count, nullptr};
  LayerCache cache;
  cache.keep_q = true;
  const c10::InferenceMode no_autograd;
  const Tensor want = mixer(a, context, &cache);
  const int64_t group = shape.heads / shape.kv_heads;
  const auto heads_first = [&](const Tensor& x, int64_t times) { return x.narrow(0, 0, count).repeat_interleave(times, 1).transpose(0, 1); };
  const Tensor future = at::ones({count, count}, at::kBool).triu(1);
  const Tensor logits = at::matmul(heads_first(cache.q, 1), heads_first(cache.k, group).transpose(1, 2)) / std::sqrt(static_cast<double>(shape.head_dim));
  Tensor mixed = at::matmul(at::softmax(logits.masked_fill(future, -INFINITY), 2), heads_first(cache.v, group)).transpose(0, 1).reshape({count, -1});
  if (mixer.gate.weight.defined()) mixed = mixed * mixer.gate(a).sigmoid();
  EXPECT_LE(test::relative_rms(mixer.o(mixed), want), 1e-5);
  LayerCache forgetful;
  mixer(a, context, &forgetful);
  EXPECT_FALSE(forgetful.q.defined());
}

// Against the whole softmax of all rows of one forward pass; in chunks of any size.
TEST(NeedleMasses, AreTheWholeSoftmaxs) {
  const Decoder decoder = tiny_model();
  at::manual_seed(3);
  const Tensor random = at::randint(decoder.architecture().vocab_size, {90}, at::kInt);
  const NeedlePlace place{{random.const_data_ptr<int32_t>(), random.const_data_ptr<int32_t>() + 90}, {12, 25}, {80, 84}};
  const c10::InferenceMode no_autograd;
  DecoderCache cache;
  cache.capacity = 90;
  cache.layers.resize(decoder.architecture().layers.size());
  for (LayerCache& layer : cache.layers) layer.keep_q = true;
  decoder.forward(random.to(at::kLong), Segments::continued(0, 90, at::kCPU), &cache);
  for (const int64_t chunk : {1000, 79, 40, 7}) {
    const auto masses = needle_masses(decoder, place, chunk);
    const std::vector<int64_t> layers = decoder.architecture().softmax_layers();
    ASSERT_EQ(masses.size(), layers.size());
    for (size_t i = 0; i < layers.size(); ++i) {
      const SoftmaxShape& shape = decoder.architecture().layers[static_cast<size_t>(layers[i])].softmax;
      const LayerCache& kept = cache.layers[static_cast<size_t>(layers[i])];
      ASSERT_EQ(static_cast<int64_t>(masses[i].size()), shape.heads);
      for (int64_t h = 0; h < shape.heads; ++h) {
        double want = 0;
        for (int64_t row = 79; row < 83; ++row) {  // they predict tokens 80 .. 83
          const Tensor k = kept.k.narrow(0, 0, row + 1).select(1, h / (shape.heads / shape.kv_heads)).to(at::kDouble);
          const Tensor p = at::softmax(k.mv(kept.q[row][h].to(at::kDouble)) / std::sqrt(static_cast<double>(shape.head_dim)), 0);
          want += p.narrow(0, 12, 13).sum().item<double>() / 4;
        }
        EXPECT_NEAR(masses[i][static_cast<size_t>(h)], want, 1e-5) << "layer " << layers[i] << " head " << h << " chunk " << chunk;
      }
    }
  }
  NeedlePlace no_answer = place;
  no_answer.answer = {0, 4};
  EXPECT_EQ(QKR_MESSAGE_OF(needle_masses(decoder, no_answer, 7)), "heads: the answer must stand within the input, behind its first token, got 0 .. 4");
}

TEST(HeadResults, AreLinesOfTheirOwn) {
  const Decoder decoder = tiny_model();
  const TextCodec codec = text_codec(TextModel::load(tiny_folder(), ""));
  const std::vector<NeedleItem> items = items_of(codec, {"niah_single_1"});
  HeadResult like;
  like.stage = "start";
  like.model = "abc";
  int64_t called = 0;
  const auto results = run_heads(items, decoder, codec, like, 4096, [&](const HeadResult&, int64_t done, int64_t total) {
    EXPECT_EQ(done, ++called);
    EXPECT_EQ(total, 2);
  });
  ASSERT_EQ(results.size(), 2u);
  const nlohmann::ordered_json row = to_json(results[1]);
  EXPECT_EQ(row["stage"], "start");
  EXPECT_EQ(row["id"], items[1].id);
  EXPECT_EQ(row["model"], "abc");
  EXPECT_EQ(row["layers"].size(), row["mass"].size());
  for (const auto& layer : row["mass"]) {
    for (const auto& share : layer) EXPECT_TRUE(share.get<double>() >= 0 && share.get<double>() <= 1);
  }
  EXPECT_EQ(row["needle"].size(), 2u);
  EXPECT_EQ(called, 2);
}

}  // namespace
}  // namespace qkr
