// Tiny models and samples for the tests of a run: the fixtures' models, samples made of numbers, all that run() needs.
#pragma once

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/device.h"
#include "tests/support/fixtures.h"
#include "trainer/loop/run.h"
#include "trainer/loop/trainable.h"
#include "trainer/model/folder.h"

namespace qkr::test {

inline ModelSource tiny_source(const std::string& name) {
  return ModelSource::read((source_dir() / "tests" / "data" / "models" / name / "model").string(), "checkpoint");
}

inline Decoder tiny_decoder(const std::string& name, at::ScalarType dtype) {
  return load_decoder(tiny_source(name), dtype, at::kCPU);
}

// One sample a length, tokens below 200. None, one, two or three quarters of it, in turn, have no label, so that the share of
// labelled tokens differs from sample to sample.
inline std::vector<Sample> tiny_samples(const std::vector<int64_t>& lengths, uint64_t seed = 1) {
  std::vector<Sample> samples;
  uint64_t state = seed;
  for (size_t i = 0; i < lengths.size(); ++i) {
    Sample sample;
    sample.line = static_cast<int64_t>(i) + 1;
    const int64_t prompt = lengths[i] * static_cast<int64_t>(i % 4) / 4;
    for (int64_t t = 0; t < lengths[i]; ++t) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      sample.ids.push_back(static_cast<int32_t>(3 + (state >> 33) % 197));
      sample.trained.push_back(t >= prompt ? 1 : 0);
    }
    samples.push_back(std::move(sample));
  }
  return samples;
}

inline std::vector<Row> row_each(const std::vector<Sample>& samples) {
  std::vector<Row> rows;
  for (size_t i = 0; i < samples.size(); ++i) rows.push_back({static_cast<int64_t>(i)});
  return rows;
}

// A name that GoogleTest allows for a parameter.
inline std::string test_name(std::string text) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return text;
}

// A hook made of functions.
struct TestHook : Hook {
  std::function<void(TrainState&)> before;
  std::function<void(const StepReport&, TrainState&)> step;
  std::function<void(RunEnd, TrainState&)> after;
  void before_run(TrainState& state) override {
    if (before) before(state);
  }
  void after_step(const StepReport& report, TrainState& state) override {
    if (step) step(report, state);
  }
  void after_run(RunEnd end, TrainState& state) override {
    if (after) after(end, state);
  }
};

// A run on the CPU with everything that it refers to. Reports are kept.
class TinyRun {
 public:
  TinyRun(const RunConfig& run_config, Decoder model, std::vector<Sample> with_samples, std::vector<Row> with_rows)
      : config(run_config),
        samples(std::move(with_samples)),
        rows(std::move(with_rows)),
        decoder(std::move(model)),
        optimizer(marked(), decoder.weights()),
        state{decoder.weights(), optimizer.state()} {
    add_hook().step = [this](const StepReport& report, TrainState&) { reports.push_back(report); };
  }
  TinyRun(const TinyRun&) = delete;

  TestHook& add_hook() {
    auto hook = std::make_unique<TestHook>();
    TestHook& added = *hook;
    hooks.push_back(std::move(hook));
    return added;
  }

  RunEnd go() {
    Run work{config, decoder, samples, rows, optimizer, state, hooks, stop, &requests};
    return run(work);
  }

  RunConfig config;
  std::vector<Sample> samples;
  std::vector<Row> rows;
  Decoder decoder;
  AdamW optimizer;
  TrainState state;
  std::vector<std::unique_ptr<Hook>> hooks;
  std::atomic<bool> stop{false};
  Requests requests;
  std::vector<StepReport> reports;

 private:
  const OptimConfigSection& marked() {
    mark_trainable(decoder, config.train);
    return config.optim;
  }
};

// A configuration in which every part of a step does something: warm-up, decay, clipping, weight decay, several
// micro-batches.
inline RunConfig busy_config() {
  RunConfig config;
  config.data.max_length = 48;
  config.train.epochs = 1000;
  config.train.max_steps = 20;
  config.train.tokens_per_step = 80;
  config.train.micro_batch_tokens = 48;
  config.optim.lr = 2e-3;
  config.optim.warmup = 5;
  config.optim.weight_decay = 0.1;
  return config;
}

inline NamedTensors copy_of(const NamedTensors& tensors) {
  NamedTensors copies;
  for (const auto& [name, tensor] : tensors) copies.set(name, tensor.detach().clone());
  return copies;
}

inline void expect_same_tensors(const NamedTensors& got, const NamedTensors& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, tensor] : want) EXPECT_TRUE(same_bytes(got.at(name), tensor)) << name;
}

// Everything that a resume carries over.
inline void expect_same_state(const TrainState& got, const TrainState& want) {
  expect_same_tensors(got.weights, want.weights);
  expect_same_tensors(got.optim, want.optim);
  EXPECT_EQ(got.step, want.step);
  EXPECT_EQ(got.next_sample, want.next_sample);
  EXPECT_EQ(got.tokens_seen, want.tokens_seen);
  EXPECT_EQ(got.tokens_trained, want.tokens_trained);
}

}  // namespace qkr::test
