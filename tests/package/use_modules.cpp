// Another program: links LibTorch alone, loads the operators and the two exported modules, and checks what they give
// against its own arithmetic. use_modules libqk_restore_ops.so FOLDER
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/script.h>

#include <iostream>
#include <stdexcept>
#include <string>

namespace {

using Weights = c10::Dict<std::string, at::Tensor>;

void need(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what + ": does not hold");
}

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a.to(at::kDouble) - b.to(at::kDouble)).norm() / b.to(at::kDouble).norm()).item<double>();
}

Weights as_dict(const at::Tensor& q, const at::Tensor& k) {
  Weights weights;
  weights.insert("q", q);
  weights.insert("k", k);
  return weights;
}

void check_restore(const std::string& file) {
  torch::jit::Module module = torch::jit::load(file);
  const at::Tensor pre = at::randn({24, 16}), post = pre + 0.3 * at::randn({24, 16});
  c10::List<c10::List<std::string>> layers;
  layers.push_back(c10::List<std::string>({"q", "k"}));
  const auto restore = [&](const char* method, double number) {
    const auto out = module
                         .get_method("restore")({as_dict(pre.narrow(0, 0, 16), pre.narrow(0, 16, 8)),
                                                 as_dict(post.narrow(0, 0, 16), post.narrow(0, 16, 8)), layers,
                                                 std::string(method), number})
                         .toGenericDict();
    return at::cat({out.at("q").toTensor(), out.at("k").toTensor()});
  };
  need(restore("plain", 0).equal(pre), "plain is the weights of before");
  need(distance(restore("lerp", 0.25), pre + 0.25 * (post - pre)) < 1e-6, "lerp is a quarter of the way");
  // R = U V^T of the singular value decomposition of pre^T post + mu I, mu = anchor mean|diag|.
  at::Tensor m = pre.to(at::kDouble).t().mm(post.to(at::kDouble));
  m = m + 0.01 * m.diagonal().abs().mean() * at::eye(16, at::kDouble);
  const auto [u, s, vh] = at::linalg_svd(m);
  need(distance(restore("procrustes", 0.01), pre.to(at::kDouble).mm(u.mm(vh))) < 1e-6, "procrustes is pre R");
  try {
    restore("nosuch", 0);
    need(false, "an unknown method is refused");
  } catch (const std::exception& error) {
    need(std::string(error.what()).find("method must be plain, lerp or procrustes") != std::string::npos,
         "the refusal names the methods");
  }
}

void check_answers(const std::string& file) {
  torch::jit::Module module = torch::jit::load(file);
  const at::Tensor head = at::randn({50, 8}), hidden = at::randn({12, 8});
  const at::Tensor logits = hidden.mm(head.t()), likeliest = logits.argmax(1);
  const at::Tensor answer = likeliest.narrow(0, 8, 3).clone();  // what greedy decoding says after places 8, 9 and 10
  const auto score = [&](const at::Tensor& tokens) {
    return module.get_method("score")({hidden, head, tokens}).toGenericDict();
  };
  const auto found = score(answer);
  need(found.at("found").toDouble() == 1 && found.at("rank").toDouble() == 0, "the likeliest tokens are found");
  const double mean =
      at::log_softmax(logits.to(at::kDouble), 1).narrow(0, 8, 3).gather(1, answer.unsqueeze(1)).mean().item<double>();
  need(std::abs(found.at("logprob").toDouble() - mean) < 1e-5, "logprob is the mean log-probability");
  answer[1] = (answer[1] + 1) % 50;
  const auto lost = score(answer);
  need(lost.at("found").toDouble() == 0 && lost.at("rank").toDouble() > 0, "another token is not found");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("use_modules libqk_restore_ops.so FOLDER");
  if (dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) == nullptr) throw std::runtime_error(dlerror());
  at::manual_seed(1);
  check_restore(std::string(argv[2]) + "/restore.pt");
  check_answers(std::string(argv[2]) + "/answers.pt");
  std::cout << "both modules give what they say\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << "use_modules: " << error.what() << "\n";
  return 1;
}
