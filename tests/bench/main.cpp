// bench_ops [--device=auto|cpu|cuda] [--benchmark_filter=REGEX --benchmark_min_time=S ...]: our operators against their peers.
#include <benchmark/benchmark.h>

#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "tests/bench/limits.h"
#include "tests/bench/report.h"
#include "tests/bench/support.h"

namespace {

// Takes --device=X out of the arguments; the rest is Google Benchmark's.
std::string take_device(std::vector<char*>& arguments) {
  const std::string flag = "--device=";
  std::string device = "auto";
  std::erase_if(arguments, [&](const char* argument) {
    const bool ours = std::strncmp(argument, flag.c_str(), flag.size()) == 0;
    if (ours) device = argument + flag.size();
    return ours;
  });
  return device;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<char*> arguments(argv, argv + argc);
  const std::string device = take_device(arguments);
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;
  if (device != "auto" && device != "cpu" && device != "cuda") {
    std::cerr << "bench_ops: --device must be auto, cpu or cuda, got " << device << "\n";
    return 2;
  }
  if (device == "cuda" && !at::hasCUDA()) {
    std::cerr << "bench_ops: --device=cuda needs a GPU, and there is none\n";
    return 2;
  }
  const bool gpu = device != "cpu" && at::hasCUDA();
  qkr::bench::set_device(gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU));
  at::NoGradGuard no_grad;
  qkr::bench::add_all_groups();
  const qkr::bench::Limits limits = qkr::bench::measure_limits();
  qkr::bench::TableReporter table(limits);
  benchmark::RunSpecifiedBenchmarks(&table);
  return table.errors() == 0 && table.cases() > 0 ? 0 : 1;
}
