// qk-restore --base DIR --tuned DIR --out DIR --method M: puts weights back in a model folder that anything has fine-tuned.
#include <CLI/CLI.hpp>
#include <cstdlib>
#include <iostream>
#include <regex>

#include "trainer/apps/command_line.h"
#include "trainer/apps/offline.h"
#include "trainer/apps/process.h"
#include "trainer/config/parse.h"
#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace {

struct Flags {
  std::string method, layers = "softmax", parts = "qk", anchor;
  bool keep_biases = false, qk_norm = false;
};

// "--set qk_restore.anchor=-1: qk_restore.anchor: must ..." in the words of this program: "--anchor: must ...".
std::string as_flags(const std::string& problems) {
  static const std::regex kPlace("(^|\n)--set [^\n]*?: (?=qk_restore\\.)"), kKey("qk_restore\\.(\\w+)");
  return std::regex_replace(std::regex_replace(problems, kPlace, "$1"), kKey, "--$1");
}

const std::string kDigits = "0123456789", kPlain = kDigits + "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:+-_";

// The flag's text as a YAML value: as it is where YAML sees but a word or a number in it, else between quotes.
std::string yaml_word(const std::string& text) {
  const bool dashes = text[0] == '-' && text.find_first_of(kDigits) != 1;
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos && text.back() != ':' && !dashes) return text;
  return "'" + std::regex_replace(text, std::regex("'"), "''") + "'";
}

// "0,4" is a list, all else a word.
std::string yaml_layers(const std::string& layers) {
  const bool list = layers.find_first_of(kDigits) != std::string::npos && layers.find_first_not_of(kPlain + ", ") == std::string::npos;
  return list ? "[" + layers + "]" : yaml_word(layers);
}

// The flags as the qk_restore section of a configuration, so that the same rules check them.
qkr::RestoreConfigSection restore_section(const Flags& f) {
  if (f.method == "auto") {
    qkr::fail("--method: must be one method, got auto, which needs a run to score its candidates: its probe and its held-out rows; "
              "sft-train --qk-restore auto does it");
  }
  std::vector<std::string> set = {"model.path=none", "data.train=[none]", "output=nowhere", "qk_restore.method=" + yaml_word(f.method),
                                  "qk_restore.layers=" + yaml_layers(f.layers), "qk_restore.parts=" + yaml_word(f.parts)};
  if (!f.anchor.empty()) set.push_back("qk_restore.anchor=" + yaml_word(f.anchor));
  if (f.keep_biases) set.push_back("qk_restore.biases=false");
  if (f.qk_norm) set.push_back("qk_restore.qk_norm=true");
  try {
    return qkr::parse_config("", "", set).qk_restore;
  } catch (const qkr::Error& error) {
    throw qkr::Error(error.code(), as_flags(error.what()));
  }
}

int run(qkr::OfflineOptions options, const Flags& flags) {
  if (options.out.empty() && !options.dry_run) qkr::fail("--out: must be given, but for --dry-run");
  options.section = restore_section(flags);
  qkr::listen_for_signals();
  qkr::make_deterministic();
  qkr::Console console(std::cout, "auto");
  try {
    const qkr::OfflineResult result = qkr::restore_offline(options, console);
    console.line(qkr::offline_table(result));
    if (!options.dry_run) console.line("wrote " + options.out + " in " + qkr::human_seconds(result.seconds));
  } catch (const qkr::Error& error) {
    throw qkr::Error(error.code(), as_flags(error.what()));
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  qkr::OfflineOptions o;
  o.version = "qk-restore " QKR_VERSION;
  Flags f;
  CLI::App app{
      "Puts the attention weights of a fine-tuned model back: W_Q and W_K of its softmax layers as they were in --base, or rotated, or "
      "blended; all else stays as in --tuned, byte for byte. Both are Hugging Face folders of the same architecture."};
  app.set_version_flag("--version", o.version);
  app.add_option("--base", o.base, "the model before fine-tuning")->required();
  app.add_option("--tuned", o.tuned, "the model after it")->required();
  app.add_option("--out", o.out, "the folder to write; absent or empty, outside the other two");
  app.add_option("--method", f.method, "plain, procrustes, lerp:A, q, k, qkv ...; sft-train --help-config has them all")->required();
  app.add_option("--anchor", f.anchor, "procrustes: pull towards R = I; 0: none, large: plain; default 0.01");
  app.add_option("--layers", f.layers, "softmax, linear, all, or numbers from 0 such as 0,4");
  app.add_option("--parts", f.parts, "qk, q, k, v, o, gates, norms or mixer");
  app.add_flag("--keep-biases", f.keep_biases, "biases stay as tuned");
  app.add_flag("--qk-norm", f.qk_norm, "q_norm and k_norm gains go back too");
  app.add_option("--ignore-config", o.ignore_config,
                 "keys in which the two config.json may differ: rms_norm_eps, rope_theta, rope_scaling, attn_logits_scaling");
  app.add_flag("--dry-run", o.dry_run, "print what fine-tuning moved and what the method would do, write nothing");
  app.add_option("--html", o.html, "write that table as a page with bars");
  app.add_flag("--link", o.link, "files that do not change become hard links to those of --tuned (copies where the disk cannot)");
  app.add_option("--digests", o.digests, "SHA-256 in restore.json: tensors (those that went back) or files (every shard of all three, too)")
      ->check(CLI::IsMember({"tensors", "files"}));
  app.add_option("--device", o.device, "auto, cpu or cuda")->check(CLI::IsMember({"auto", "cpu", "cuda"}));
  app.footer("Exit codes: 0 done, 1 failed, 2 usage or input.");
  const int code = qkr::parse_and_run(app, "qk-restore", argc, argv, [&] { return run(o, f); });
  std::cout.flush();
  std::_Exit(code);  // unloading Torch's libraries takes 0.2 s, more than many a restore, and nothing is left to do
}
