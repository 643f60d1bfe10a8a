// progress.json of a checkpoint: trainer/checkpoint/checkpoint.h.
#include "trainer/checkpoint/checkpoint.h"

#include <ATen/ATen.h>

#include "tests/fuzz/target.h"
#include "tests/support/fixtures.h"
#include "trainer/core/error.h"

namespace qkr::fuzz {
namespace {

TrainState make_state(double value) {
  TrainState state;
  state.weights.set("w", at::full({2, 2}, value));
  state.optim.set("exp_avg.w", at::full({2, 2}, -value));
  state.step = 7;
  state.next_sample = 70;
  return state;
}

// A checkpoint, once; its progress.json is the input.
const std::string& checkpoint_folder() {
  static const std::string folder = [] {
    const std::string path = checkpoint_path(scratch(), 7).string();
    save_checkpoint(path, make_state(1), {{"config", "abc"}, {"data", "def"}}, [](const std::filesystem::path& to) {
      write_scratch(std::filesystem::relative(to, scratch()).string() + "/hook-ema.safetensors", "x");
    });
    return path;
  }();
  return folder;
}

}  // namespace

Target checkpoint_target() {
  Target target;
  target.name = "checkpoint";
  target.seeds = {test::read_file(checkpoint_folder() + "/progress.json")};
  target.words = {"\"\"", "\"..\"", "\".\"", "\"model.safetensors\"", "\"hook-ema.safetensors\"", "\"a\\nb\""};
  target.run = [](std::string_view input) {
    const std::string& folder = checkpoint_folder();
    write_scratch(std::filesystem::path(folder).filename().string() + "/progress.json", input);
    TrainState state = make_state(0);
    const bool loaded = accepts({folder}, [&] {
      const Progress progress = load_checkpoint(folder, state);
      require(
          progress.step >= 0 && progress.next_sample >= 0 && progress.tokens_seen >= 0 && progress.tokens_trained >= 0,
          "counters are not negative");
      require(state.step == progress.step && state.next_sample == progress.next_sample,
              "the counters are those of the file");
      accepts({folder}, [&] {
        require_identity(folder, progress.identity, {{"config", "abc"}, {"data", "def"}, {"none", ""}});
      });
    });
    const double want = loaded ? 1 : 0;
    require(at::equal(state.weights.at("w"), at::full({2, 2}, want)), "all of a checkpoint is loaded, or nothing");
    require(loaded || state.step == 7, "a refused checkpoint changes nothing");
  };
  return target;
}

}  // namespace qkr::fuzz
