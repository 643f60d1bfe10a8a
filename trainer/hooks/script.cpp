#include "trainer/hooks/script.h"

#include <ATen/core/grad_mode.h>
#include <c10/core/DeviceGuard.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <optional>
#include <set>

#include "trainer/core/digest.h"
#include "trainer/core/pattern.h"
#include "trainer/core/text.h"
#include "trainer/hooks/script_compile.h"
#include "trainer/hooks/script_guard.h"
#include "trainer/hooks/script_save.h"
#include "trainer/hooks/script_worker.h"
#include "trainer/io/atomic.h"

namespace qkr {
namespace fs = std::filesystem;
namespace {

constexpr ScriptEvent kEvents[] = {ScriptEvent::kStart, ScriptEvent::kStep, ScriptEvent::kProbe, ScriptEvent::kEnd};
constexpr double kGraceSeconds = 2;  // at most, for a late call to reach its next operator, which stops it
const std::vector<std::string> kRequests = {"stop", "save", "probe", "restore"};

// Everything that a call works on. A thread that never comes back owns it, so nothing that it uses is ever freed.
struct Call {
  Call(torch::jit::Module with, std::string name, std::vector<c10::IValue> args, std::vector<LentTensor> lent)
      : module(std::move(with)), method(std::move(name)), arguments(std::move(args)), guard(std::move(lent)) {}

  torch::jit::Module module;
  std::string method;
  std::vector<c10::IValue> arguments;
  ScriptGuard guard;
  c10::IValue result;
  std::optional<std::string> error;
};

void carry_out(Call& call, c10::Device device) {
  const at::NoGradGuard no_grad;
  // As it is written: an optimized graph is another one from the third call on, so that a resumed run would round
  // differently.
  const torch::jit::GraphOptimizerEnabledGuard as_written(false);
  const c10::OptionalDeviceGuard on(device);
  try {
    const ScriptGuard::Scope seen(call.guard);
    call.result = call.module.get_method(call.method)(std::move(call.arguments));
  } catch (const std::exception& error) {
    call.error = error.what();
  } catch (...) {
    call.error = "an exception of an unknown type";
  }
}

// A live tensor that the module keeps would be another one after a resume.
std::string kept_tensor(const Call& call) {
  std::string kept;
  c10::IValue(call.module._ivalue()).visit([&](const c10::IValue& value) {
    if (kept.empty() && value.isTensor()) kept = call.guard.shared_with(value.toTensor());
    return !kept.empty();
  });
  return kept;
}

c10::Dict<std::string, at::Tensor> aliases(const NamedTensors& tensors) {
  c10::Dict<std::string, at::Tensor> dict;
  for (const auto& [name, tensor] : tensors)
    dict.insert(name, tensor.detach());  // its metadata is the script's own, its memory is not
  return dict;
}

ScriptReply to_reply(const c10::IValue& result) {
  ScriptReply reply;
  std::vector<c10::IValue> parts = {result};
  if (result.isTuple()) parts = result.toTupleRef().elements().vec();
  for (const c10::IValue& part : parts) {
    if (part.isGenericDict()) {
      for (const auto& entry : part.toGenericDict())
        reply.metrics.emplace_back(entry.key().toStringRef(), entry.value().toDouble());
    } else if (part.isList()) {
      for (const c10::IValue& item : part.toListRef()) reply.requests.push_back(item.toStringRef());
    }
  }
  return reply;
}

}  // namespace

const char* method_name(ScriptEvent event) {
  switch (event) {
    case ScriptEvent::kStart:
      return "on_start";
    case ScriptEvent::kStep:
      return "on_step";
    case ScriptEvent::kProbe:
      return "on_probe";
    case ScriptEvent::kEnd:
      return "on_end";
  }
  return "";
}

struct Script::Module {
  torch::jit::Module module;
  ScriptWorker worker;

  std::vector<std::string> arguments(ScriptEvent event) const {
    std::vector<std::string> names;
    const auto method = module.find_method(method_name(event));
    if (!method) return names;
    const auto& all = method->function().getSchema().arguments();
    for (size_t i = 1; i < all.size(); ++i) names.push_back(all[i].name());  // 0: self
    return names;
  }
};

Script::Script(const HookConfigSection& config, std::string name, c10::Device device)
    : name_(std::move(name)), config_(config), device_(device), module_(std::make_unique<Module>()) {
  const std::string bytes = read_text_file(config.script);
  digest_ = sha256_hex(bytes);
  module_->module = load_script(config.script, bytes, device);
  check_methods(module_->module, config.script);
}

Script::~Script() = default;
Script::Script(Script&&) noexcept = default;
Script& Script::operator=(Script&&) noexcept = default;

bool Script::has(ScriptEvent event) const { return module_->module.find_method(method_name(event)).has_value(); }

bool Script::reads(const std::string& argument) const {
  return std::any_of(std::begin(kEvents), std::end(kEvents), [&](ScriptEvent event) {
    const auto names = module_->arguments(event);
    return std::find(names.begin(), names.end(), argument) != names.end();
  });
}

bool Script::may_write(const std::string& weight) const { return matches_any(config_.writes, weight); }

ScriptReply Script::call(ScriptEvent event, const ScriptInputs& inputs) {
  const std::string method = method_name(event);
  std::vector<c10::IValue> arguments;
  std::vector<LentTensor> lent;
  std::vector<std::string> names;
  for (const std::string& argument : module_->arguments(event)) {
    if (argument == "step") arguments.emplace_back(inputs.step);
    if (argument == "stage") arguments.emplace_back(inputs.stage);
    if (argument == "metrics") {
      c10::Dict<std::string, double> metrics;
      for (const auto& [key, value] : inputs.metrics) metrics.insert(key, value);
      arguments.emplace_back(metrics);
    }
    if (argument != "weights" && argument != "optim") continue;
    const NamedTensors& tensors = argument == "weights" ? *inputs.weights : *inputs.optim;
    arguments.emplace_back(aliases(tensors));
    for (const auto& [name, tensor] : tensors) {
      lent.push_back({argument + "[" + name + "]", tensor, argument == "weights" && may_write(name)});
      names.push_back(name);
    }
  }
  const auto call = std::make_shared<Call>(module_->module, method, std::move(arguments), std::move(lent));
  const bool in_time = module_->worker.run([call, device = device_] { carry_out(*call, device); }, config_.timeout);
  const auto may_go_on = [&] { return call->guard.written().empty(); };
  if (!in_time) {
    call->guard.expire();
    const bool stopped = module_->worker.wait(std::min(kGraceSeconds, config_.timeout));
    throw ScriptError(late_call_line(module_->module, method, config_, stopped, call->guard.last_place()), may_go_on());
  }
  if (call->error) throw ScriptError(script_error_line(*call->error, config_.script, method), may_go_on());
  if (const std::string kept = kept_tensor(*call); !kept.empty()) {
    throw ScriptError(place_text(method_place(module_->module, method, config_.script)) + ": " + method +
                          ": must keep a clone() of " + kept + ", got the live tensor itself",
                      may_go_on());
  }
  ScriptReply reply = to_reply(call->result);
  for (const std::string& request : reply.requests) {
    if (std::find(kRequests.begin(), kRequests.end(), request) != kRequests.end()) continue;
    throw ScriptError(place_text(method_place(module_->module, method, config_.script)) + ": " + method +
                          ": a request must be one of " + join(kRequests) + ", got " + quoted(request),
                      may_go_on());
  }
  for (const size_t index : call->guard.written()) reply.written.push_back(names[index]);
  return reply;
}

void Script::save(const fs::path& file) const {
  try {
    save_module(module_->module, file);
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail_run(file.string(), ": the state of ", config_.script, " must be saved, got ", script_reason(error.what()));
  }
}

void Script::load(const fs::path& file) {
  if (!fs::exists(file)) fail(file.string(), ": the state of ", config_.script, " is needed to resume, got no file");
  try {
    module_->module = torch::jit::load(file.string());  // every tensor where it was
  } catch (const std::exception& error) {
    fail(file.string(), ": must be the state of ", config_.script, ", got ", script_reason(error.what()));
  }
  check_methods(module_->module, file.string());
}

std::vector<Script> load_scripts(const std::vector<HookConfigSection>& configs,
                                 const std::vector<std::string>& weight_names, c10::Device device) {
  std::vector<Script> scripts;
  std::map<std::string, int> uses;
  for (size_t i = 0; i < configs.size(); ++i) {
    for (const std::string& pattern : configs[i].writes) {
      const auto matches = [&](const std::string& name) { return matches_pattern(pattern, name); };
      if (std::any_of(weight_names.begin(), weight_names.end(), matches)) continue;
      fail("hooks[", i, "].writes: ", quoted(pattern), " must match a weight of the model, got none",
           near_matches(pattern, weight_names));
    }
    const std::string stem = fs::path(configs[i].script).stem().string();
    const int use = ++uses[stem];
    scripts.emplace_back(configs[i], use == 1 ? stem : stem + "-" + std::to_string(use), device);
  }
  return scripts;
}

}  // namespace qkr
