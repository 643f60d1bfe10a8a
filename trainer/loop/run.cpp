#include "trainer/loop/run.h"

#include <ATen/ATen.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <utility>

#include "trainer/core/error.h"
#include "trainer/core/lap.h"
#include "trainer/loop/memory.h"
#include "trainer/model/weight_names.h"
#include "trainer/optim/schedule.h"

namespace qkr {
namespace {

struct MicroBatch {
  Batch batch;
  Segments segments;
  at::Tensor tokens, targets;  // on the device
};

std::vector<MicroBatch> load_step(const Run& run, const PlannedStep& planned) {
  const at::Device device = run.decoder.device();
  std::vector<MicroBatch> loaded;
  for (const auto& rows : planned.micro_batches) {
    std::vector<Row> chosen;
    for (const int64_t row : rows) chosen.push_back(run.rows[row]);
    MicroBatch micro;
    micro.batch = make_batch(run.samples, chosen);
    micro.segments = Segments::packed(micro.batch.cu_seqlens, device);
    micro.tokens = micro.batch.tokens.to(device);
    micro.targets = micro.batch.targets.to(device);
    loaded.push_back(std::move(micro));
  }
  return loaded;
}

// How late the backward pass comes to a weight, within the bounds of a name: the LM head first, then the layers from the last down, in each
// the MLP before the mixer, the embedding at the end.
std::pair<int64_t, int64_t> backward_place(const std::string& name) {
  const std::string prefix = kLayersPrefix;
  if (name.compare(0, prefix.size(), prefix) == 0) {
    const bool mixer = name.find(".self_attn.") != std::string::npos || name.find(".input_layernorm.") != std::string::npos;
    return {-1 - std::strtoll(name.c_str() + prefix.size(), nullptr, 10), mixer ? 1 : 0};
  }
  if (name == kEmbeddingName) return {1, 0};
  return {std::numeric_limits<int64_t>::min(), name == kHeadName ? 0 : 1};
}

// Of the weights whose gradient is not finite the one that the backward pass came to first; "" if there is none.
std::string first_non_finite_grad(const Decoder& decoder) {
  std::string first;
  for (const auto& [name, weight] : decoder.weights()) {
    if (!weight.grad().defined() || at::isfinite(weight.grad()).all().item<bool>()) continue;
    if (first.empty() || backward_place(name) < backward_place(first)) first = name;
  }
  return first;
}

// Looks again, with time: which layer first leaves the finite numbers, forward or backward.
[[noreturn]] void fail_non_finite(const Run& run, const std::vector<MicroBatch>& step, int64_t number, double loss, double norm) {
  std::string where;
  for (const MicroBatch& micro : step) {
    where = run.decoder.first_non_finite(micro.tokens, micro.segments);
    if (!where.empty()) break;
  }
  const char* what = std::isfinite(loss) ? "gradient" : "loss";
  if (where.empty()) {
    const std::string weight = first_non_finite_grad(run.decoder);
    const char* alone = std::isfinite(loss) ? "the norm, whose square overflows: every gradient is finite" : "the loss itself";
    where = weight.empty() ? alone : "the gradient of " + weight;
  } else {
    where = "the output of " + where;
  }
  run.optimizer.drop_grads();
  fail_run("step ", number, ": ", what, " must be finite, got loss ", loss, ", gradient norm ", norm, "; first in ", where,
           ". The weights are those of step ", number - 1, "; lower optim.lr, or look at the rows of this step");
}

StepReport train_step(Run& run, const PlannedStep& planned, double lr) {
  Lap lap;
  const std::vector<MicroBatch> step = load_step(run, planned);
  StepReport report;
  report.step = run.state.step + 1;
  report.lr = lr;
  for (const MicroBatch& micro : step) {
    report.tokens += micro.tokens.size(0);
    report.trained_tokens += micro.batch.labelled;
  }
  if (report.trained_tokens == 0) fail_run("step ", report.step, ": must have a labelled token, got none");
  at::Tensor loss = at::zeros({}, at::TensorOptions(run.decoder.device()).dtype(at::kFloat));
  for (const MicroBatch& micro : step) {
    // The mean is over the labelled tokens of the whole step, so that a short micro-batch does not weigh more.
    const at::Tensor part = run.decoder.loss(micro.tokens, micro.targets, micro.segments, 1.0 / static_cast<double>(report.trained_tokens));
    part.backward();
    loss += part.detach();
  }
  const at::Tensor norm = run.optimizer.grad_norm();
  report.loss = loss.item<double>();
  report.grad_norm = norm.item<double>();
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    fail_non_finite(run, step, report.step, report.loss, report.grad_norm);
  }
  run.optimizer.step(report.step, lr, norm);
  run.state.step = report.step;
  run.state.next_sample = planned.next_sample;
  run.state.tokens_seen += report.tokens;
  run.state.tokens_trained += report.trained_tokens;
  report.tokens_seen = run.state.tokens_seen;
  report.seconds = lap.seconds();
  report.tokens_per_second = static_cast<double>(report.tokens) / report.seconds;
  report.memory_bytes = peak_memory_bytes(run.decoder.device());
  return report;
}

}  // namespace

int64_t micro_batch_tokens(const RunConfig& config) {
  return config.train.micro_batch_tokens > 0 ? config.train.micro_batch_tokens : config.data.max_length;
}

BatchPlan make_plan(const RunConfig& config, const std::vector<Sample>& samples, const std::vector<Row>& rows) {
  std::vector<int64_t> row_tokens;
  for (const Row& row : rows) {
    int64_t tokens = 0;
    for (const int64_t sample : row) tokens += samples[sample].size();
    row_tokens.push_back(tokens);
  }
  return BatchPlan(std::move(row_tokens), config.train, micro_batch_tokens(config));
}

RunEnd run(Run& run) {
  BatchPlan plan = make_plan(run.config, run.samples, run.rows);
  const Schedule schedule(run.config.optim, plan.total_steps());
  run.decoder.checkpoint_activations(run.config.train.checkpoint_activations == "block");
  for (const auto& hook : run.hooks) hook->before_run(run.state);
  double mean_seconds = 0;  // a running mean that forgets the slow first steps
  RunEnd end = RunEnd::kFinished;
  const auto finish_asked = [&] { return run.requests != nullptr && run.requests->finish; };
  while (run.state.step < plan.total_steps() && !finish_asked()) {
    if (run.stop_asked.load() || (run.requests != nullptr && run.requests->stop)) {
      end = RunEnd::kStopped;
      break;
    }
    const PlannedStep planned = plan.step_at(run.state.next_sample);
    StepReport report = train_step(run, planned, schedule.at(run.state.step + 1));
    report.total_steps = plan.total_steps();
    report.epoch = plan.epoch_at(planned.next_sample);
    mean_seconds = mean_seconds == 0 ? report.seconds : 0.9 * mean_seconds + 0.1 * report.seconds;
    report.eta_seconds = mean_seconds * static_cast<double>(plan.total_steps() - report.step);
    for (const auto& hook : run.hooks) hook->after_step(report, run.state);
  }
  for (const auto& hook : run.hooks) hook->after_run(end, run.state);
  return end;
}

}  // namespace qkr
