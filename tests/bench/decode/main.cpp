// bench_decode --model 9b --tokens 262144: prefill and decoding of a random model on this device, beside the same matrix products and
// the same attention alone, measured in the same run.
#include <CLI/CLI.hpp>
#include <iostream>

#include "tests/bench/decode/measure.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

int main(int argc, char** argv) {
  qkr::bench::DecodeBench bench;
  std::string device = "auto";
  CLI::App app{"Prefill and decoding of a random model."};
  app.add_option("--model", bench.model, "2b, 5b or 9b: HypeNet's sizes; or a config.json");
  app.add_option("--tokens", bench.tokens, "of the prompt that is prefilled; 0: none is");
  app.add_option("--chunk", bench.chunk, "tokens of one prefill call; 0: what the probe takes");
  app.add_option("--batches", bench.batches, "sequences that are decoded together");
  app.add_option("--prompt", bench.prompt, "tokens of each of them");
  app.add_option("--steps", bench.steps, "that are timed");
  app.add_option("--device", device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  CLI11_PARSE(app, argc, argv);
  try {
    bench.device = device != "cpu" && at::hasCUDA() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
    if (device == "cuda" && !bench.device.is_cuda()) qkr::fail("--device must be cpu or auto on this machine, got cuda");
    qkr::bench::run(bench);
  } catch (const std::exception& error) {
    std::cerr << "bench_decode: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
