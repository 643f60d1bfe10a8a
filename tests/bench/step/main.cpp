// bench_step [--device=auto|cpu|cuda]: what the operators' kernels save in a training step of HypeNet-2B, predicted
// from the operators alone and measured on the whole step.
#include <ATen/ATen.h>

#include <chrono>
#include <iostream>
#include <numeric>

#include "tests/bench/step/composites.h"
#include "tests/bench/step/operators.h"
#include "tests/bench/support.h"
#include "trainer/core/text.h"
#include "trainer/model/decoder.h"
#include "trainer/optim/adamw.h"

namespace qkr::bench {
namespace {

// Milliseconds of a call among calls of its kind, as a step makes them: the host is ahead, the caches are warm with
// nothing of use.
double ms_of(const std::function<void()>& call) {
  if (!call) return 0;
  call();
  const int calls = on_gpu() ? 20 : 1;
  std::vector<double> times;
  for (int repeat = 0; repeat < 5; ++repeat) {
    times.push_back(time_ms([&] {
                      for (int i = 0; i < calls; ++i) call();
                    }) /
                    calls);
  }
  return median(times);
}

struct Costs {
  std::vector<double> forward, backward;  // ms a call

  explicit Costs(const std::vector<StepOperator>& operators) {
    for (const StepOperator& op : operators) {
      forward.push_back(ms_of(op.forward));
      backward.push_back(ms_of(op.backward));
    }
  }
  double of_step(const StepOperator& op, size_t i) const {
    return static_cast<double>(op.calls) * (static_cast<double>(op.forwards) * forward[i] + backward[i]);
  }
};

NamedTensors random_weights(const Architecture& a, at::Device device) {
  NamedTensors weights;
  for (const WeightSpec& spec : weight_specs(a)) {
    const auto fp32 = at::TensorOptions(device).dtype(at::kFloat);
    const at::Tensor w = spec.init == WeightSpec::Init::kNormal ? at::randn(spec.shape, fp32) * a.initializer_range
                         : spec.init == WeightSpec::Init::kOnes ? at::ones(spec.shape, fp32)
                                                                : at::zeros(spec.shape, fp32);
    weights.set(spec.name, w.to(at::kBFloat16).set_requires_grad(true));
  }
  return weights;
}

// Forward, loss, backward, norm and update of one packed row.
class TrainingStep {
 public:
  TrainingStep(const Architecture& a, const Segments& segments, at::Device device)
      : decoder_(a, random_weights(a, device)),
        optimizer_(OptimConfigSection{}, decoder_.weights()),
        segments_(segments),
        tokens_(at::randint(a.vocab_size, {segments.tokens()}, at::TensorOptions(device).dtype(at::kLong))) {
    decoder_.checkpoint_activations(true);
  }

  // The median of some steps after two, ms.
  double measure(int steps) {
    std::vector<double> times;
    for (int i = 0; i < steps + 2; ++i) {
      wait_for_device();
      const auto start = std::chrono::steady_clock::now();
      run();
      wait_for_device();
      if (i >= 2)
        times.push_back(std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count());
    }
    return median(times);
  }
  double loss() const { return loss_; }

 private:
  void run() {
    const at::AutoGradMode grad(true);
    const at::Tensor targets = tokens_.roll(-1);
    const at::Tensor loss = decoder_.loss(tokens_, targets, segments_, 1.0 / static_cast<double>(segments_.tokens()));
    loss.backward();
    optimizer_.step(++step_, 1e-6, optimizer_.grad_norm());
    loss_ = loss.item<double>();
  }

  Decoder decoder_;
  AdamW optimizer_;
  const Segments& segments_;
  at::Tensor tokens_;
  int64_t step_ = 0;
  double loss_ = 0;
};

// Rows of the table; returns the predicted saving of a step in ms.
double print_operators(const std::vector<StepOperator>& operators, const Costs& kernels, const Costs& composites) {
  std::cout
      << "| operator | shape | calls | forward, ms: kernel / composite | backward, ms: kernel / composite | of a step, ms: kernels / composites | saved, ms |\n"
         "|---|---|--:|--:|--:|--:|--:|\n";
  double with = 0, without = 0;
  for (size_t i = 0; i < operators.size(); ++i) {
    const StepOperator& op = operators[i];
    const double a = kernels.of_step(op, i), b = composites.of_step(op, i);
    with += a, without += b;
    std::cout << "| " << op.name << " | " << op.shape << " | " << op.calls << " x (" << op.forwards << " + 1) | "
              << fixed(kernels.forward[i], 3) << " / " << fixed(composites.forward[i], 3) << " | "
              << fixed(kernels.backward[i], 3) << " / " << fixed(composites.backward[i], 3) << " | " << fixed(a, 1)
              << " / " << fixed(b, 1) << " | " << fixed(b - a, 1) << " |\n";
  }
  std::cout << "| together | | | | | " << fixed(with, 1) << " / " << fixed(without, 1) << " | "
            << fixed(without - with, 1) << " |\n\n";
  return without - with;
}

Segments documents(bool small, at::Device device) {
  const std::vector<int64_t> lengths =
      small ? std::vector<int64_t>{5, 20, 7} : std::vector<int64_t>{4096, 1024, 2048, 512, 2560, 6144};
  std::vector<int64_t> cu = {0};
  for (const int64_t length : lengths) cu.push_back(cu.back() + length);
  return Segments::packed(cu, device);
}

void run() {
  const at::Device where = device();
  const Architecture model = hypenet(!on_gpu());
  const Segments segments = documents(!on_gpu(), where);
  double predicted = 0;
  {
    const std::vector<StepOperator> operators = step_operators(model, segments, where);
    const Costs kernels(operators);
    const Composites overrides;
    const Costs composites(operators);
    predicted = print_operators(operators, kernels, composites);
  }
  const int steps = on_gpu() ? 5 : 1;
  TrainingStep step(model, segments, where);
  const double before = step.measure(steps), loss = step.loss();
  double without = 0;
  {
    const Composites overrides;
    without = step.measure(steps);
  }
  const double with = 0.5 * (before + step.measure(steps));
  const auto rate = [&](double ms) { return fixed(static_cast<double>(segments.tokens()) / ms * 1e3, 0); };
  std::cout << "step of " << segments.tokens() << " tokens in " << segments.count() << " documents, "
            << model.layers.size() << " layers: kernels " << fixed(with, 1) << " ms (" << rate(with)
            << " tokens/s), composites " << fixed(without, 1) << " ms (" << rate(without) << " tokens/s); saved "
            << fixed(without - with, 1) << " ms, predicted " << fixed(predicted, 1) << " ms ("
            << fixed(100 * predicted / (without - with), 0) << " %); loss " << fixed(loss, 3) << " to "
            << fixed(step.loss(), 3) << "\n";
}

}  // namespace
}  // namespace qkr::bench

int main(int argc, char** argv) {
  const std::string choice = argc > 1 ? argv[1] : "--device=auto";
  if (argc > 2 || (choice != "--device=auto" && choice != "--device=cpu" && choice != "--device=cuda")) {
    std::cerr << "bench_step: must be called as bench_step [--device=auto|cpu|cuda]\n";
    return 2;
  }
  const bool gpu = choice != "--device=cpu" && at::hasCUDA();
  if (choice == "--device=cuda" && !gpu) {
    std::cerr << "bench_step: --device=cuda needs a GPU, and there is none\n";
    return 2;
  }
  qkr::bench::set_device(gpu ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU));
  const at::NoGradGuard no_grad;
  qkr::bench::run();
  return 0;
}
