// Fine-tunes and restores from one's own program, with one's own hook: embed run.yaml 9.0 [resume]
#include <ATen/ops/scalar_tensor.h>
#include <qk_restore/fine_tune.h>

#include <cstdlib>
#include <iostream>

// Ends the run once the running mean of the loss is low enough, and asks for a checkpoint there. The mean is in every
// checkpoint, so that a resumed run ends where an undisturbed one does.
class Enough : public qkr::Hook {
 public:
  Enough(double loss, qkr::Requests& requests) : loss_(loss), requests_(requests) {}

  void after_step(const qkr::StepReport& report, qkr::TrainState& state) override {
    mean_ = report.step == 1 ? report.loss : 0.5 * (mean_ + report.loss);
    if (mean_ > loss_) return;
    std::cout << "enough at step " << report.step << " of " << state.weights.size() << " weights\n";
    requests_.finish = requests_.save = true;
  }

  std::string name() const override { return "enough"; }
  qkr::HookState state() const override {
    qkr::HookState kept;
    kept.tensors.set("mean", at::scalar_tensor(mean_, at::kDouble));
    return kept;
  }
  void set_state(const qkr::HookState& kept) override {
    mean_ = kept.tensors.at("mean").item<double>();
    requests_.finish = mean_ <= loss_;
  }

 private:
  double loss_, mean_ = 0;
  qkr::Requests& requests_;
};

int main(int argc, char** argv) try {
  qkr::FineTune job;
  job.config = qkr::load_config(argc > 1 ? argv[1] : "run.yaml", {"qk_restore.method=procrustes"});
  job.out = &std::cout;
  job.hooks.push_back(std::make_unique<Enough>(argc > 2 ? std::atof(argv[2]) : 1.0, job.requests));
  job.resume = argc > 3;
  return qkr::fine_tune(job) == qkr::RunEnd::kFinished ? 0 : 4;
} catch (const qkr::Error& error) {
  std::cerr << "embed: " << error.what() << "\n";
  return static_cast<int>(error.code());
}
