#include "tests/bench/support.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <map>

namespace qkr::bench {
namespace {

at::Device& chosen_device() {
  static at::Device chosen(at::kCPU);
  return chosen;
}

auto& groups() {
  static std::map<std::string, void (*)()> all;
  return all;
}

// More than any L2, and 0.1 ms of writing on an H200: the host is done with its launches by then.
void flush_cache() {
  static const at::Tensor scratch = at::empty({int64_t{512} << 20}, on_device(at::kByte));
  scratch.zero_();
}

double wall_ms(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

at::Device device() { return chosen_device(); }
void set_device(at::Device device) { chosen_device() = device; }

bool add_group(const std::string& name, void (*add_cases)()) { return groups().emplace(name, add_cases).second; }

void add_all_groups() {
  for (const auto& [name, add_cases] : groups()) add_cases();
}

double time_ms(const std::function<void()>& run) {
  if (!on_gpu()) return wall_ms(run);
  const c10::impl::VirtualGuardImpl guard(device().type());
  c10::Event start(device().type(), c10::EventFlag::BACKEND_DEFAULT), stop(device().type(), c10::EventFlag::BACKEND_DEFAULT);
  flush_cache();
  start.record(guard.getStream(device()));
  run();
  stop.record(guard.getStream(device()));
  stop.synchronize();
  return start.elapsedTime(stop);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : 0.5 * (values[half - 1] + values[half]);
}

void wait_for_device() {
  if (on_gpu()) c10::impl::VirtualGuardImpl(device().type()).synchronizeDevice(device().index());
}

}  // namespace qkr::bench
