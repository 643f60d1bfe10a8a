// Device work that is launched again and again with the same shapes and addresses, recorded once: a CUDA graph.
#pragma once

#include <c10/core/Device.h>

#include <functional>
#include <memory>
#include <string>

namespace qkr {

// What was recorded, and the memory of its intermediate tensors. To be destroyed before the tensors that it reads and writes.
class RecordedStep {
 public:
  virtual ~RecordedStep() = default;
  virtual void replay() = 0;  // on the current stream; returns before the device is done
};

// Runs `work` twice (whatever is made at the first call must exist) and records what it launches a third time. `work` may
// neither wait for the device nor read from it, and what it writes is that of two calls afterwards: recording does not run it.
// Null, with the reason in `why_not`, where there is no CUDA or the recording fails; an error of the first two calls is thrown.
std::unique_ptr<RecordedStep> record_step(c10::Device device, const std::function<void()>& work, std::string* why_not);

// How the CUDA part of this library, if it was built, puts itself in: once, when it is loaded.
using StepRecorder = std::unique_ptr<RecordedStep> (*)(c10::Device, const std::function<void()>&, std::string*);
bool set_step_recorder(StepRecorder recorder);

}  // namespace qkr
