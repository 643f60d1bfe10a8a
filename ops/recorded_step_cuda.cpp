#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "ops/recorded_step.h"

namespace qkr {
namespace {

class CudaStep : public RecordedStep {
 public:
  at::cuda::CUDAGraph graph;
  void replay() override { graph.replay(); }
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

// A capture that failed has to be ended all the same, or the stream and the allocator stay in it.
void abandon(CudaStep& step) {
  try {
    step.graph.capture_end();
  } catch (const std::exception&) {  // says again that the capture failed
  }
  (void)cudaGetLastError();
}

std::unique_ptr<RecordedStep> record(c10::Device device, const std::function<void()>& work, std::string* why_not) {
  const c10::cuda::CUDAGuard on_device(device);
  const c10::cuda::CUDAStream outside = c10::cuda::getCurrentCUDAStream();
  const c10::cuda::CUDAStream stream = c10::cuda::getStreamFromPool();
  auto step = std::make_unique<CudaStep>();
  C10_CUDA_CHECK(cudaStreamSynchronize(outside));
  {
    const c10::cuda::CUDAStreamGuard on_stream(stream);
    work();  // here and not on the outer stream: cuBLAS has a workspace a stream
    work();
    C10_CUDA_CHECK(cudaStreamSynchronize(stream));
    try {
      // Other threads of the process (a run's writers) may go on using the device.
      step->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
      work();
      step->graph.capture_end();
    } catch (const std::exception& error) {
      *why_not = first_line(error.what());
      abandon(*step);
      return nullptr;
    }
    C10_CUDA_CHECK(cudaStreamSynchronize(stream));
  }
  return step;
}

[[maybe_unused]] const bool kSet = set_step_recorder(record);

}  // namespace
}  // namespace qkr
