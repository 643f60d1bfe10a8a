#include "ops/recorded_step.h"

namespace qkr {
namespace {

StepRecorder& recorder() {
  static StepRecorder made = nullptr;
  return made;
}

}  // namespace

bool set_step_recorder(StepRecorder made) {
  recorder() = made;
  return true;
}

std::unique_ptr<RecordedStep> record_step(c10::Device device, const std::function<void()>& work, std::string* why_not) {
  if (!device.is_cuda()) {
    *why_not = "a CPU has none";
  } else if (recorder() == nullptr) {
    *why_not = "built without CUDA";
  } else {
    return recorder()(device, work, why_not);
  }
  return nullptr;
}

}  // namespace qkr
