// Fine-tunes and restores from one's own program, with one's own hook: embed run.yaml 9.0
#include <qk_restore/fine_tune.h>

#include <cstdlib>
#include <iostream>

// Ends the run once a step's loss is low enough, and asks for a checkpoint there.
class Enough : public qkr::Hook {
 public:
  Enough(double loss, qkr::Requests& requests) : loss_(loss), requests_(requests) {}

  void after_step(const qkr::StepReport& report, qkr::TrainState& state) override {
    if (report.loss > loss_) return;
    std::cout << "enough at step " << report.step << " of " << state.weights.size() << " weights\n";
    requests_.finish = requests_.save = true;
  }

 private:
  double loss_;
  qkr::Requests& requests_;
};

int main(int argc, char** argv) try {
  qkr::FineTune job;
  job.config = qkr::load_config(argc > 1 ? argv[1] : "run.yaml", {"qk_restore.method=procrustes"});
  job.out = &std::cout;
  job.hooks.push_back(std::make_unique<Enough>(argc > 2 ? std::atof(argv[2]) : 1.0, job.requests));
  return qkr::fine_tune(job) == qkr::RunEnd::kFinished ? 0 : 4;
} catch (const qkr::Error& error) {
  std::cerr << "embed: " << error.what() << "\n";
  return static_cast<int>(error.code());
}
