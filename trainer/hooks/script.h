// A TorchScript module that watches a run: loaded, its methods' types checked, called with a limit. The one place, with
// script_guard.cpp, that knows TorchScript: another format of hooks would be another implementation of this header.
//
// Methods, all optional, at least one: on_start, on_step, on_probe, on_end. Each takes those of these arguments that it
// names:
//   step: int                    optimizer steps done
//   stage: str                   on_probe alone: "start", "step-200", "end", "restored"
//   metrics: Dict[str, float]    of the step or the measurement (trainer/hooks/script_hooks.h)
//   weights: Dict[str, Tensor]   by checkpoint name, the live ones; read only, but for those that `writes` matches
//   optim: Dict[str, Tensor]     the optimizer's state, "exp_avg.<weight>" and others (trainer/optim/adamw.h); read only
// and returns None, Dict[str, float] (metrics to log), List[str] (requests: stop, save, probe, restore) or
// Tuple[Dict[str, float], List[str]].
//
// A .pt file is a module as torch.jit.save wrote it. A .ts file is the text of its methods; state that a .ts keeps from
// call to call goes into self.state, a Dict[str, Tensor]. Both may call torch.ops.qk_restore.*.
#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "trainer/config/run_config.h"
#include "trainer/core/error.h"
#include "trainer/core/named_tensors.h"

namespace qkr {

enum class ScriptEvent { kStart, kStep, kProbe, kEnd };
const char* method_name(ScriptEvent event);  // "on_start", ...

struct ScriptInputs {
  int64_t step = 0;
  std::string stage;
  std::map<std::string, double> metrics;
  const NamedTensors* weights = nullptr;
  const NamedTensors* optim = nullptr;
};

struct ScriptReply {
  std::vector<std::pair<std::string, double>> metrics;  // in the script's order
  std::vector<std::string> requests;
  std::vector<std::string> written;  // names of weights that it wrote to
};

// A call that failed: one line with file and line of the script.
class ScriptError : public Error {
 public:
  ScriptError(const std::string& what, bool may_go_on) : Error(ExitCode::kRunFailed, what), may_go_on_(may_go_on) {}
  // Nothing of the run was changed before it failed, so that the run may go on without the script.
  bool may_go_on() const { return may_go_on_; }

 private:
  bool may_go_on_;
};

class Script {
 public:
  // Loads or compiles, puts the module's tensors onto `device`, and checks the methods' arguments and results. Error
  // (bad input) naming the file and, where there is one, the line. `name`: of its metrics.
  Script(const HookConfigSection& config, std::string name, c10::Device device);
  ~Script();
  Script(Script&&) noexcept;
  Script& operator=(Script&&) noexcept;

  const std::string& name() const { return name_; }
  const HookConfigSection& config() const { return config_; }
  const std::string& digest() const { return digest_; }  // SHA-256 of the file

  bool has(ScriptEvent event) const;
  bool reads(const std::string& argument) const;  // does any method take it?
  bool may_write(const std::string& weight) const;

  // Throws ScriptError: an exception in the script; a write to what it may only read; a result of another type or an
  // unknown request; a live tensor kept in its state; config().timeout passed. After a time-out the call is stopped at
  // its next tensor operation; one that has none is left behind on its thread, where it can no longer touch a tensor.
  // Nothing may be called after an error.
  ScriptReply call(ScriptEvent event, const ScriptInputs& inputs);

  // The module with its state, as a .pt; and back into this one, bit for bit.
  void save(const std::filesystem::path& file) const;
  void load(const std::filesystem::path& file);

 private:
  struct Module;
  std::string name_, digest_;
  HookConfigSection config_;
  c10::Device device_;
  std::unique_ptr<Module> module_;
};

// The scripts of a configuration, named by their files' stems, a second "ema" being "ema-2". Error naming the place in
// the configuration if a pattern of `writes` matches none of `weight_names`.
std::vector<Script> load_scripts(const std::vector<HookConfigSection>& configs,
                                 const std::vector<std::string>& weight_names, c10::Device device);

}  // namespace qkr
