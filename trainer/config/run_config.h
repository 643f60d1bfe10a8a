// What a run is: one struct a section, every default in its place, one visit() each. Parsing, --set, --help-config,
// --dump-config and the checks all walk these lists, so a key cannot exist in one and be missing in another.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qkr {

// What a value must satisfy beyond its type.
struct Rule {
  // Strings and string lists: the allowed words; empty: any. A word's end may stand for a number: ":A" from 0 to 1, ":X" from 0 on,
  // " N" an integer from 1 on.
  std::vector<std::string> one_of = {};
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool min_open = false;  // value > min rather than >=
  bool required = false;  // a string or list that may not stay empty
  bool logits_scaling = false;  // a string, but written as null, checkpoint, "hype A" or a factor with a decimal point
};

// Layers of a model: by a word, or one by one.
struct LayerChoice {
  std::string word = "softmax";  // "" where `list` names them
  std::vector<int64_t> list;     // 0-based

  bool operator==(const LayerChoice&) const = default;
};

// How many: a number, or as many as it takes.
struct SampleCount {
  int64_t number = 0;  // 0: auto

  SampleCount(int64_t count) : number(count) {}  // implicit: a number is a count
  bool is_auto() const { return number == 0; }
  bool operator==(const SampleCount&) const = default;
};

struct ModelConfigSection {
  std::string path;
  std::string init = "checkpoint";
  std::string dtype = "bfloat16";
  std::string device = "auto";
  bool allow_slow = false;
  std::string attn_logits_scaling = "checkpoint";
  std::string chat_template;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("path", path, "Hugging Face model folder: config.json, safetensors, tokenizer.json", Rule{.required = true});
    field("init", init, "checkpoint: read the weights; random: N(0, initializer_range) from train.seed, config.json and tokenizer only",
          Rule{.one_of = {"checkpoint", "random"}});
    field("dtype", dtype, "weights and activations; bfloat16 keeps an exact fp32 master (16 more bits) in the optimizer",
          Rule{.one_of = {"bfloat16", "float32"}});
    field("device", device, "auto: the first GPU if there is one", Rule{.one_of = {"auto", "cpu", "cuda"}});
    field("allow_slow", allow_slow, "on a GPU, run a mixer that no kernel serves (its shape or dtype) by a slow composite");
    field("attn_logits_scaling", attn_logits_scaling,
          "HypeNet: checkpoint (as config.json says), null (off), \"hype A\", or a factor such as 2.0; recorded in the output's config.json",
          Rule{.logits_scaling = true});
    field("chat_template", chat_template, "Jinja file to use instead of the folder's own template (needed where it has none)");
  }
};

struct DataConfigSection {
  std::vector<std::string> train;
  std::string format = "messages";
  std::string prompt_field = "prompt";
  std::string completion_field = "completion";
  std::string prompt_template = "none";
  std::string separator;
  std::string text_field = "text";
  int64_t max_length = 8192;
  bool packing = true;
  std::string over_length = "drop";
  std::string no_label = "error";
  int64_t limit = 0;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("train", train, "JSON-lines files", Rule{.required = true});
    field("format", format, "messages: conversations; prompt_completion: two fields; text: every token is trained",
          Rule{.one_of = {"messages", "prompt_completion", "text"}});
    field("prompt_field", prompt_field, "prompt_completion: the field that is not trained (GSM8K: question)");
    field("completion_field", completion_field, "prompt_completion: the field that is trained, end of turn included (GSM8K: answer)");
    field("prompt_template", prompt_template,
          "prompt_completion: none (raw text, then the end-of-text token) or chat (a user and an assistant turn in the model's template)",
          Rule{.one_of = {"none", "chat"}});
    field("separator", separator, "prompt_completion, raw: stands between prompt and completion, not trained (GSM8K: \"\\n\")");
    field("text_field", text_field, "text: the field");
    field("max_length", max_length, "tokens in a packed row, and the longest sample", Rule{.min = 2});
    field("packing", packing, "first-fit by length into rows of max_length; every mixer resets at a sample's start");
    field("over_length", over_length, "a sample longer than max_length: drop it, truncate it (its end-of-turn token stays), or error",
          Rule{.one_of = {"drop", "truncate", "error"}});
    field("no_label", no_label, "a sample in which no token is trained: error, or drop", Rule{.one_of = {"error", "drop"}});
    field("limit", limit, "use the first rows only; 0: all", Rule{.min = 0});
  }
};

struct TrainConfigSection {
  double epochs = 1;
  int64_t max_steps = 0;
  int64_t tokens_per_step = 65536;
  int64_t micro_batch_tokens = 0;
  int64_t seed = 1;
  std::string checkpoint_activations = "none";
  bool shuffle = true;
  bool freeze_qk = false;
  std::vector<std::string> freeze;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("epochs", epochs, "passes over the data", Rule{.min = 0, .min_open = true});
    field("max_steps", max_steps, "stop after this many optimizer steps; 0: epochs decide", Rule{.min = 0});
    field("tokens_per_step", tokens_per_step, "tokens (labelled or not) that one optimizer step accumulates, at most; one row at least",
          Rule{.min = 1});
    field("micro_batch_tokens", micro_batch_tokens, "tokens of one forward and backward; 0: data.max_length", Rule{.min = 0});
    field("seed", seed, "of the shuffle and of init: random", Rule{.min = 0});
    field("checkpoint_activations", checkpoint_activations, "block: keep one hidden state a block and compute the rest again",
          Rule{.one_of = {"none", "block"}});
    field("shuffle", shuffle, "a new order of the packed rows each epoch");
    field("freeze_qk", freeze_qk, "control: W_Q and W_K of the softmax layers get no update");
    field("freeze", freeze,
          "patterns (*, ? and [0-5]) of the weights that stay as they are, with no gradient and no optimizer state; "
          "[\"model.embed_tokens.*\", \"model.layers.[0-5].*\"]");
  }
};

struct OptimConfigSection {
  double lr = 1.0e-5;
  std::string schedule = "cosine";
  double min_lr_ratio = 0.0;
  double warmup = 0.03;
  double weight_decay = 0.0;
  double clip_norm = 1.0;
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1.0e-8;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("lr", lr, "peak learning rate", Rule{.min = 0});
    field("schedule", schedule, "after the warm-up", Rule{.one_of = {"cosine", "linear", "constant"}});
    field("min_lr_ratio", min_lr_ratio, "cosine and linear end at lr times this", Rule{.min = 0, .max = 1});
    field("warmup", warmup, "below 1: share of all steps; from 1 on: steps", Rule{.min = 0});
    field("weight_decay", weight_decay, "decoupled; never on one-dimensional weights", Rule{.min = 0});
    field("clip_norm", clip_norm, "largest global gradient norm; 0: no clipping", Rule{.min = 0});
    field("beta1", beta1, "AdamW", Rule{.min = 0, .max = 0.9999999});
    field("beta2", beta2, "AdamW", Rule{.min = 0, .max = 0.9999999});
    field("eps", eps, "AdamW", Rule{.min = 0, .min_open = true});
  }
};

struct RestoreConfigSection {
  std::string method = "none";
  LayerChoice layers;
  std::string parts = "qk";
  std::string at = "end";
  std::string optimizer_state = "reset";
  double anchor = 1.0e-2;
  std::optional<double> ridge;
  bool biases = true;
  bool qk_norm = false;
  std::vector<std::string> candidates = {"none", "plain", "procrustes:0.01", "procrustes:0.1", "qk-pro", "lerp:0.5"};
  int64_t held_out = 32;
  double max_loss_increase = 0.02;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("method", method,
          "none; plain: the parts as they were; procrustes: W_pre R, R the rotation nearest to what SFT did; lerp:A: W_pre + A (W_post - "
          "W_pre), so lerp:0 is plain; q, k, qkv: controls, plain with other parts; qk-pro (all heads as one), qk-pro-head (a KV head at a "
          "time): W_K as it was, W_Q back as far as the rows of W_K reach in the layer's input; qk-pro-bilinear: the same on the head side, "
          "ridge 0 is plain; procrustes-head: a rotation of each KV head that leaves the layer's logits as plain has them, refused where "
          "there is none; auto: tries the candidates on the probe and on held-out rows, and keeps the best",
          Rule{.one_of = {"none", "plain", "procrustes", "procrustes-head", "qk-pro", "qk-pro-head", "qk-pro-bilinear", "lerp:A", "q", "k",
                          "qkv", "auto"}});
    field("layers", layers, "by the types in config.json, or a list of 0-based numbers such as [3, 7]",
          Rule{.one_of = {"softmax", "linear", "all"}});
    field("parts", parts,
          "of the token mixers: W_Q and W_K, one of W_Q, W_K, W_V, W_O, the gates, the norms' gains, or mixer: all of them",
          Rule{.one_of = {"qk", "q", "k", "v", "o", "gates", "norms", "mixer"}});
    field("at", at, "end: after the last step; every N: during the run too, after every N-th step, and the optimizer follows",
          Rule{.one_of = {"end", "every N"}});
    field("optimizer_state", optimizer_state,
          "at: every N, what becomes of the Adam moments of the weights that went back: reset to 0, rotate: turned by procrustes' R, keep; "
          "their fp32 masters follow in any case",
          Rule{.one_of = {"reset", "rotate", "keep"}});
    field("anchor", anchor, "procrustes: pull towards R = I, mu = anchor * mean |diag(W_pre^T W_post)|; 0: none, large: plain",
          Rule{.min = 0});
    field("ridge", ridge,
          "qk-pro forms: lambda = ridge * trace(G) / dim(G), G = W_K W_K^T; null: 1e-6, and 0.1 for qk-pro-bilinear; large: W_K alone goes back",
          Rule{.min = 0});
    field("biases", biases,
          "biases go back with their weights: blended by lerp, a column of the block in qk-pro-bilinear and procrustes-head, else as they "
          "were");
    field("qk_norm", qk_norm, "q_norm and k_norm gains go back with W_Q and W_K (parts norms and mixer hold them anyway)");
    field("candidates", candidates,
          "auto: what to try, none first, of two that are no worse the earlier wins; the X of procrustes:X is its anchor, of the qk-pro "
          "forms their ridge",
          Rule{.one_of = {"none", "plain", "procrustes", "procrustes:X", "procrustes-head", "qk-pro", "qk-pro:X", "qk-pro-head", "qk-pro-head:X",
                          "qk-pro-bilinear", "qk-pro-bilinear:X", "lerp:A", "q", "k", "qkv"}});
    field("held_out", held_out, "auto: rows that are not trained on, spread over the data; their loss says what a candidate costs the task",
          Rule{.min = 1});
    field("max_loss_increase", max_loss_increase,
          "auto: largest rise of the held-out loss over that of the tuned weights, as a share of it; a candidate above it is out", Rule{.min = 0});
  }
};

struct ProbeConfigSection {
  std::vector<std::string> tasks = {"niah_single_1", "niah_single_2", "niah_single_3"};
  std::vector<int64_t> lengths;
  SampleCount samples = 50;
  double width = 20;
  int64_t max_samples = 500;
  std::vector<std::string> at = {"start", "end", "restored"};
  int64_t every = 0;
  std::string reading = "generate";
  bool heads = false;
  std::string mode = "base";
  std::string haystack;
  int64_t max_new_tokens = 128;
  int64_t seed = 42;
  int64_t prefill_chunk = 32768;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("tasks", tasks, "RULER needle tasks; vt: variable tracking",
          Rule{.one_of = {"niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
                          "niah_multivalue", "niah_multiquery", "vt"}});
    field("lengths", lengths, "prompt lengths in tokens, the 128 new ones included; empty: no probe", Rule{.min = 64, .max = 16777216});
    field("samples", samples,
          "prompts a cell (task x length), the same ones at every measurement; auto: the first measurement goes on until every cell's interval is "
          "narrow enough",
          Rule{.min = 1});
    field("width", width, "samples auto: full width that Wilson's 95 % interval of a cell may have, in points (upper less lower limit)",
          Rule{.min = 0, .max = 100, .min_open = true});
    field("max_samples", max_samples, "samples auto: prompts a cell at most, whatever its width", Rule{.min = 1});
    field("at", at, "when to measure", Rule{.one_of = {"start", "end", "restored"}});
    field("every", every, "also every so many steps; 0: not", Rule{.min = 0});
    field("reading", reading,
          "generate: greedy decode, string match (RULER's score); teacher_forced: one prefill with the answer, found if each of its tokens is "
          "the most likely one, stricter and without a decode; both: each prompt both ways, never added up",
          Rule{.one_of = {"generate", "teacher_forced", "both"}});
    field("heads", heads, "also record how much of each softmax head's attention falls on the needle where the answer is read");
    field("mode", mode,
          "base: prompt and answer prefix as raw text; default: the prompt as a user's turn, the prefix begins the answer; chat: no prefix, "
          "needs more new tokens",
          Rule{.one_of = {"base", "default", "chat"}});
    field("haystack", haystack,
          "text file for the tasks that hide needles in a text, its digest is recorded; empty: text made by a grammar of our own");
    field("max_new_tokens", max_new_tokens, "RULER: 128", Rule{.min = 1});
    field("seed", seed, "of keys, values and depths", Rule{.min = 0});
    field("prefill_chunk", prefill_chunk, "tokens of one prefill call: bounds the memory", Rule{.min = 1});
  }
};

struct CheckpointConfigSection {
  int64_t every = 0;
  int64_t keep = 2;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("every", every, "steps between checkpoints; 0: only when a signal stops the run", Rule{.min = 0});
    field("keep", keep, "the newest so many stay", Rule{.min = 1});
  }
};

struct LogConfigSection {
  int64_t every = 1;
  bool tensorboard = true;
  std::string progress = "auto";

  template <class Visitor>
  void visit(Visitor&& field) {
    field("every", every, "steps between lines", Rule{.min = 1});
    field("tensorboard", tensorboard, "event files beside log.jsonl");
    field("progress", progress, "progress bar; auto: where the terminal is one", Rule{.one_of = {"auto", "on", "off"}});
  }
};

// One bound on what a run measures of itself.
struct GateConfigSection {
  std::string metric;
  std::optional<double> min;
  std::optional<double> max_drop;
  std::optional<double> max;
  int64_t in_a_row = 1;
  std::string action = "fail";
  std::string rule = "point";

  template <class Visitor>
  void visit(Visitor&& field) {
    field("metric", metric,
          "probe/TASK/LENGTH: recall of one cell; probe/TASK or probe: of all of its cells, each prompt once; loss: of each step. With probe.reading "
          "both, recall is that of generate",
          Rule{.required = true});
    field("min", min, "recall must be at least this, percent", Rule{.min = 0, .max = 100});
    field("max_drop", max_drop, "recall must not fall by more points than this below this run's own step 0, prompt by prompt",
          Rule{.min = 0, .max = 100});
    field("max", max, "loss must be at most this");
    field("for", in_a_row, "measurements (loss: steps) in a row that must break the bound", Rule{.min = 1});
    field("action", action,
          "warn: say and record it; stop: save and end as a signal does, exit code 3; fail: end with exit code 3; restore: put the weights back as "
          "qk_restore says, the optimizer follows, and measure again",
          Rule{.one_of = {"warn", "stop", "restore", "fail"}});
    field("rule", rule,
          "point: the measured value breaks the bound; lower: the lower limit of its 95 % interval does (Wilson; for max_drop Newcombe's of the "
          "paired difference)",
          Rule{.one_of = {"point", "lower"}});
  }
};

// A TorchScript module that watches the run.
struct HookConfigSection {
  std::string script;
  int64_t every = 1;
  std::vector<std::string> writes;
  std::string on_error = "fail";
  double timeout = 60;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("script", script, "a saved TorchScript module (.pt) or TorchScript source text (.ts)", Rule{.required = true});
    field("every", every, "on_step is called after every so many steps", Rule{.min = 1});
    field("writes", writes, "patterns (* and ?) of the weights that it may change; it reads all");
    field("on_error", on_error, "an exception, a wrong type or a time-out in it: fail ends the run, off goes on without the hook",
          Rule{.one_of = {"fail", "off"}});
    field("timeout", timeout, "seconds that one call may take", Rule{.min = 0, .min_open = true});
  }
};

struct RunConfig {
  ModelConfigSection model;
  DataConfigSection data;
  TrainConfigSection train;
  OptimConfigSection optim;
  RestoreConfigSection qk_restore;
  ProbeConfigSection probe;
  CheckpointConfigSection checkpoint;
  LogConfigSection log;
  std::vector<GateConfigSection> gate;
  std::vector<HookConfigSection> hooks;
  std::string output;
  bool save_sft_model = false;

  // section(name, struct) for every section, list(name, structs, help) for those that may stand several times, then field(...) for
  // the keys that stand at the top.
  template <class SectionVisitor, class ListVisitor, class FieldVisitor>
  void visit(SectionVisitor&& section, ListVisitor&& list, FieldVisitor&& field) {
    section("model", model);
    section("data", data);
    section("train", train);
    section("optim", optim);
    section("qk_restore", qk_restore);
    section("probe", probe);
    section("checkpoint", checkpoint);
    section("log", log);
    list("gate", gate, "bounds that the run must keep, judged after every measurement");
    list("hooks", hooks, "TorchScript modules that watch the run, in their order");
    field("output", output, "the run's folder; must be new, or hold this run's checkpoints with --resume", Rule{.required = true});
    field("save_sft_model", save_sft_model, "also write the tuned model before the restore, as model-sft/");
  }
};

}  // namespace qkr
