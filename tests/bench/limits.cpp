#include "tests/bench/limits.h"

#include <ATen/Parallel.h>

#include <cstdio>
#include <fstream>
#include <memory>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr::bench {
namespace {

double median_seconds(int runs, const std::function<void()>& run) {
  run();
  std::vector<double> times;
  for (int i = 0; i < runs; ++i) times.push_back(time_ms(run) / 1e3);
  return median(times);
}

// Random numbers: a product of zeros draws less power and runs faster than real data does.
double product_rate(int64_t n, at::ScalarType type) {
  const at::Tensor a = at::randn({n, n}, on_device(type)), b = at::randn({n, n}, on_device(type));
  at::Tensor c = at::empty_like(a);
  return 2.0 * n * n * n / median_seconds(on_gpu() ? 9 : 3, [&] { at::mm_out(c, a, b); });
}

double copy_rate(int64_t bytes) {
  const at::Tensor from = at::randint(256, {bytes}, on_device(at::kByte)), to = at::empty_like(from);
  return 2.0 * bytes / median_seconds(on_gpu() ? 15 : 5, [&] { to.copy_(from); });
}

// The first line that nvidia-smi answers to a query, or "".
std::string ask_driver(const std::string& fields) {
  const std::string command = "nvidia-smi --id=0 --query-gpu=" + fields + " --format=csv,noheader 2>/dev/null";
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> pipe(::popen(command.c_str(), "r"), ::pclose);
  char line[256] = "";
  if (pipe == nullptr || std::fgets(line, sizeof line, pipe.get()) == nullptr) return "";
  const std::string text = line;
  return text.substr(0, text.find('\n'));
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (starts_with(line, "model name")) return line.substr(line.find(": ") + 2);
  }
  return "CPU";
}

// Asked while a second of products is queued: an idle card tells its idle clocks.
std::string clocks_under_load(double product_seconds) {
  const at::Tensor a = at::randn({8192, 8192}, on_device(at::kBFloat16));
  at::Tensor c = at::empty_like(a);
  for (double queued = 0; queued < 1; queued += product_seconds) at::mm_out(c, a, a);
  const std::string clocks = ask_driver("clocks.sm,clocks.mem,power.draw,temperature.gpu");
  wait_for_device();
  return clocks;
}

}  // namespace

double Limits::of(Limit limit) const {
  switch (limit) {
    case Limit::kCopy: return copy;
    case Limit::kFp64: return fp64;
    case Limit::kFp32: return fp32;
    case Limit::kBf16: return bf16;
  }
  TORCH_INTERNAL_ASSERT(false);
}

Limits measure_limits() {
  const int64_t n = on_gpu() ? 4096 : 384, n_bf16 = on_gpu() ? 8192 : 128;
  Limits limits;
  limits.copy = copy_rate(on_gpu() ? int64_t{1} << 30 : int64_t{32} << 20);
  limits.fp64 = product_rate(n, at::kDouble);
  limits.fp32 = product_rate(n, at::kFloat);
  limits.bf16 = product_rate(n_bf16, at::kBFloat16);
  limits.gemm_shape = concat(n, "³, bf16 ", n_bf16, "³");
  limits.device = on_gpu() ? ask_driver("name,driver_version") : concat(cpu_name(), ", ", at::get_num_threads(), " threads");
  if (on_gpu()) limits.clocks = clocks_under_load(2.0 * n_bf16 * n_bf16 * n_bf16 / limits.bf16);
  return limits;
}

std::string rate_text(Limit limit, double per_second) {
  const bool large = per_second >= 1e12;
  const double value = per_second / (large ? 1e12 : 1e9);
  return fixed(value, value < 10 ? 2 : 1) + (large ? " T" : " G") + (limit == Limit::kCopy ? "B/s" : "F/s");
}

}  // namespace qkr::bench
