// bench_decode --model 9b --tokens 262144: prefill and decoding of a random model on this device, beside the same matrix products and
// the same attention alone, measured in the same run. bench_decode --model 9b --save FOLDER --tokenizer DIR leaves that model as a folder.
#include <CLI/CLI.hpp>
#include <iostream>

#include "tests/bench/decode/measure.h"
#include "tests/bench/decode/random_model.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

int main(int argc, char** argv) {
  qkr::bench::DecodeBench bench;
  std::string device = "auto", save, tokenizer;
  CLI::App app{"Prefill and decoding of a random model."};
  app.add_option("--model", bench.model, "2b, 5b or 9b: HypeNet's sizes; or a config.json");
  app.add_option("--tokens", bench.tokens, "of the prompt that is prefilled; 0: none is");
  app.add_option("--chunk", bench.chunk, "tokens of one prefill call; 0: what the probe takes");
  app.add_option("--batches", bench.batches, "sequences that are decoded together");
  app.add_option("--prompt", bench.prompt, "tokens of each of them");
  app.add_option("--steps", bench.steps, "that are timed");
  app.add_flag("--floors", bench.floors_alone, "of the prefill, the products and the attention alone");
  CLI::Option* const folder = app.add_option("--save", save, "measure nothing: write the model as a folder");
  folder->needs(app.add_option("--tokenizer", tokenizer, "--save: the model folder whose tokenizer it takes")->needs(folder));
  app.add_option("--device", device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  CLI11_PARSE(app, argc, argv);
  try {
    bench.device = device != "cpu" && at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
    if (device == "cuda" && !bench.device.is_cuda()) qkr::fail("--device must be cpu or auto on this machine, got cuda");
    if (save.empty()) {
      qkr::bench::run(bench);
    } else {
      qkr::bench::save_random_model(bench.model, tokenizer, save, bench.device);
    }
  } catch (const std::exception& error) {
    std::cerr << "bench_decode: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
