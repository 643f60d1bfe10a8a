#include <algorithm>
#include <map>
#include <memory>
#include <optional>

#include "tests/bench/report.h"
#include "tests/bench/support.h"
#include "trainer/core/error.h"

namespace qkr::bench {
namespace {

constexpr double kSlow = 500;        // ms: where a call takes so long, a peer has one, and ours as many as it must
constexpr double kPeerBudget = 300;  // ms in which a peer collects its median, or more for kCalls
constexpr size_t kCalls = 3;         // of ours, one of them by Google Benchmark, however short --benchmark_min_time is

std::map<std::string, Result>& results() {
  static std::map<std::string, Result> all;
  return all;
}

// A case on the bench. Google Benchmark enters a case several times, each with more iterations; the samples of all count.
struct Bench {
  std::string key;
  Case what;
  std::vector<std::vector<double>> samples;
  std::vector<std::string> accuracy;

  void warm_up() {
    for (const Contender& contender : what.contenders) {
      const bool is_peer = &contender != &what.contenders.front();
      const Accuracy seen = contender.accuracy ? contender.accuracy() : Accuracy{};
      if (!seen.good && !is_peer) fail_run("ours is wrong: ", seen.text);
      accuracy.push_back(seen.text);
      const double ms = time_ms(contender.run);
      std::vector<double>& kept = samples.emplace_back();
      if (ms > kSlow) kept.push_back(ms);
    }
    while (samples[0].size() + 1 < kCalls && (samples[0].empty() || samples[0].front() <= kSlow)) take_turns();
  }

  // All contenders in turns, so that clocks and neighbours treat them alike. Returns what ours took.
  double take_turns() {
    for (size_t i = samples.size(); i-- > 1;) {
      if (wants(i)) samples[i].push_back(time_ms(what.contenders[i].run));
    }
    samples[0].push_back(time_ms(what.contenders[0].run));
    return samples[0].back();
  }

 private:
  bool wants(size_t peer) const {
    double total = 0;
    for (const double ms : samples[peer]) total += ms;
    return total < kPeerBudget || (samples[peer].size() < kCalls && samples[peer].front() <= kSlow);
  }
};

std::optional<Bench>& bench() {
  static std::optional<Bench> one;
  return one;
}

Bench& prepare(const std::string& key, const std::function<Case()>& make) {
  if (!bench() || bench()->key != key) {
    bench().reset();
    at::manual_seed(1);
    Bench fresh{key, make(), {}, {}};
    fresh.warm_up();
    bench() = std::move(fresh);
  }
  return *bench();
}

void run_case(benchmark::State& state, const std::string& key, const std::string& op, const std::string& shape,
              const std::function<Case()>& make) {
  Bench& b = prepare(key, make);
  for (auto _ : state) state.SetIterationTime(b.take_turns() / 1e3);
  Result result{op, shape, b.what.work, {}};
  for (size_t i = 0; i < b.samples.size(); ++i) {
    const std::string& name = b.what.contenders[i].name;
    result.timings.push_back({name, median(b.samples[i]), b.samples[i].size(), b.accuracy[i]});
    state.counters[name + "_ms"] = result.timings.back().ms;
  }
  results()[key] = result;
}

}  // namespace

const Result* find_result(const std::string& name) {
  const auto place = results().find(name);
  return place == results().end() ? nullptr : &place->second;
}

void add_case(const std::string& op, const std::string& shape, std::function<Case()> make) {
  const std::string key = op + "/" + shape;
  benchmark::RegisterBenchmark(key.c_str(), [key, op, shape, make = std::move(make)](benchmark::State& state) {
    try {
      run_case(state, key, op, shape, make);
    } catch (const std::exception& error) {
      bench().reset();
      state.SkipWithError(error.what());
    }
  })->UseManualTime()->Unit(benchmark::kMillisecond);
}

}  // namespace qkr::bench
