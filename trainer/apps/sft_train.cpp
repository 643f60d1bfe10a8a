// sft-train --config cot.yaml --qk-restore procrustes
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>

#include "trainer/apps/command_line.h"
#include "trainer/apps/process.h"
#include "trainer/apps/session.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"
#include "trainer/data/dataset.h"
#include "trainer/hooks/script_export.h"
#include "trainer/hooks/script_worker.h"

namespace {

struct Options {
  std::string config;
  std::vector<std::string> set;
  std::string qk_restore, output, export_scripts;
  bool resume = false, requeue = false, dry_run = false, dump_config = false, help_config = false, schema = false;
  int64_t inspect = 0;
};

// Flags are the same thing as --set, so they obey the same rules and give the same errors.
std::vector<std::string> overrides(const Options& options) {
  std::vector<std::string> all = options.set;
  if (!options.qk_restore.empty()) all.push_back("qk_restore.method=" + options.qk_restore);
  if (!options.output.empty()) all.push_back("output=" + options.output);
  return all;
}

int inspect(const qkr::RunConfig& config, int64_t count) {
  qkr::Console console(std::cerr, config.log.progress);  // standard output is for the samples
  const qkr::Prepared prepared = qkr::prepare_data(config, console);
  console.status("");
  const bool color = isatty(STDOUT_FILENO) != 0;
  for (int64_t i = 0; i < std::min<int64_t>(count, static_cast<int64_t>(prepared.dataset.samples().size())); ++i) {
    std::cout << qkr::inspect_sample(prepared.dataset.samples()[i], *prepared.text.tokenizer, color) << "\n";
  }
  return 0;
}

int run(const Options& options) {
  if (options.help_config) {
    std::cout << qkr::describe_config();
    return 0;
  }
  if (options.schema) {
    std::cout << qkr::config_json_schema();
    return 0;
  }
  if (!options.export_scripts.empty()) {
    for (const auto& file : qkr::export_scripts(options.export_scripts)) std::cout << file.string() << "\n";
    return 0;
  }
  if (options.config.empty()) qkr::fail("--config FILE is needed (sft-train --help; sft-train --help-config lists every key)");
  const qkr::RunConfig config = qkr::load_config(options.config, overrides(options));
  if (options.dump_config) {
    std::cout << qkr::dump_config(config);
    return 0;
  }
  if (options.inspect > 0) return inspect(config, options.inspect);
  qkr::make_deterministic();
  // config.yaml is the first file that a start leaves; without it there is nothing to go on from.
  std::error_code ignored;  // what is wrong with the folder, prepare() says
  const bool started = std::filesystem::exists(std::filesystem::path(config.output) / "config.yaml", ignored);
  qkr::Console console(std::cout, config.log.progress);
  qkr::Prepared prepared = qkr::prepare(config, options.resume || (options.requeue && started), console);
  console.line(qkr::describe(prepared));
  if (options.dry_run) {
    std::cout << "dry run: everything that a run needs is there\n";
    return 0;
  }
  qkr::listen_for_signals();
  qkr::Requests requests;  // of the configuration's hooks alone
  const qkr::RunEnd end = qkr::train(std::move(prepared), console, {{}, requests});
  std::cout.clear();  // the run is whole in its folder, whatever the console lost
  return static_cast<int>(end == qkr::RunEnd::kFinished ? qkr::ExitCode::kDone : qkr::ExitCode::kStopped);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"Fine-tunes a language model on its completions, puts W_Q and W_K of its softmax layers back, and measures long-context recall on the way."};
  app.set_version_flag("--version", "qk-restore " QKR_VERSION);
  app.add_option("--config", options.config, "the run as YAML; --help-config lists every key");
  app.add_option("--set", options.set, "section.key=value pairs that win over the file; the value is YAML");
  app.add_option("--qk-restore", options.qk_restore, "none, plain, procrustes, lerp:A, ...: the same as --set qk_restore.method=...");
  app.add_option("--output", options.output, "the run's folder: the same as --set output=...");
  app.add_flag("--resume", options.resume, "go on from the newest checkpoint in the output folder");
  app.add_flag("--requeue", options.requeue, "--resume where the output folder holds an earlier start, else a new run: one line for a scheduler");
  app.add_flag("--dry-run", options.dry_run, "check everything that a run needs, without a step");
  app.add_option("--inspect", options.inspect, "print the first N samples with their trained tokens coloured")->check(CLI::Range(int64_t{1}, int64_t{1'000'000}));
  app.add_flag("--dump-config", options.dump_config, "print the resolved configuration");
  app.add_flag("--help-config", options.help_config, "list every key of the configuration");
  app.add_flag("--config-schema", options.schema, "print a JSON Schema of the configuration, for editors");
  app.add_option("--export-scripts", options.export_scripts,
                 "write restore.pt and answers.pt there: the restore and the probe's scoring as TorchScript modules for other programs");
  app.footer("Exit codes: 0 done, 1 run failed, 2 usage, configuration or input, 3 a gate was broken, 4 stopped by a signal after saving.");
  const int code = qkr::parse_and_run(app, "sft-train", argc, argv, [&] { return run(options); });
  if (qkr::abandoned_script_threads() > 0) {  // one of them may still use what the end of main() destroys
    std::cout.flush();
    std::_Exit(code);
  }
  return code;
}
