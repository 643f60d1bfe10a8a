#include "trainer/hooks/script_compile.h"

#include <torch/csrc/jit/frontend/resolver.h>
#include <torch/csrc/jit/serialization/import.h>

#include <algorithm>
#include <sstream>

#include "trainer/core/error.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

using torch::jit::BuiltinModule;
using torch::jit::SourceRange;
using torch::jit::SugaredValue;

// torch.float64, which a source compiled without Python does not know of itself either: in TorchScript a dtype is an
// int.
constexpr std::pair<const char*, at::ScalarType> kDtypes[] = {
    {"float64", at::kDouble}, {"double", at::kDouble}, {"float32", at::kFloat},     {"float", at::kFloat},
    {"float16", at::kHalf},   {"half", at::kHalf},     {"bfloat16", at::kBFloat16}, {"int64", at::kLong},
    {"long", at::kLong},      {"int32", at::kInt},     {"int", at::kInt},           {"int16", at::kShort},
    {"int8", at::kChar},      {"uint8", at::kByte},    {"bool", at::kBool}};

// torch.ops.<library>.<operator>, nor this.
struct OpsName : SugaredValue {
  std::string kind() const override { return "torch.ops"; }
  std::shared_ptr<SugaredValue> attr(const SourceRange&, torch::jit::GraphFunction&,
                                     const std::string& library) override {
    return std::make_shared<BuiltinModule>(library);
  }
};

struct TorchName : BuiltinModule {
  TorchName() : BuiltinModule("aten") {}
  std::shared_ptr<SugaredValue> attr(const SourceRange& range, torch::jit::GraphFunction& method,
                                     const std::string& field) override {
    if (field == "ops") return std::make_shared<OpsName>();
    for (const auto& [word, dtype] : kDtypes) {
      if (field == word)
        return std::make_shared<torch::jit::SimpleValue>(
            method.graph()->insertConstant(static_cast<int64_t>(dtype), range));
    }
    return BuiltinModule::attr(range, method, field);
  }
};

struct HookResolver : torch::jit::Resolver {
  std::shared_ptr<SugaredValue> resolveValue(const std::string& name, torch::jit::GraphFunction&,
                                             const SourceRange&) override {
    return name == "torch" ? std::make_shared<TorchName>() : nullptr;
  }
};

void define(torch::jit::Module& module, const std::string& file, const std::string& text) {
  try {
    module.define(text, std::make_shared<HookResolver>());
  } catch (const std::exception& error) {
    fail(script_error_line(error.what(), file, ""));
  }
}

torch::jit::Module compile_hook(const std::string& file, const std::string& text) {
  torch::jit::Module module("__torch__.qk_restore_hook");  // a name that torch.jit.save can write
  const auto dict = c10::DictType::create(c10::StringType::get(), c10::TensorType::get());
  module.register_attribute("state", dict, c10::Dict<std::string, at::Tensor>());
  define(module, file, text);
  return module;
}

struct Argument {
  const char* name;
  const char* type;
};
constexpr Argument kArguments[] = {{"step", "int"},
                                   {"stage", "str"},
                                   {"metrics", "Dict[str, float]"},
                                   {"weights", "Dict[str, Tensor]"},
                                   {"optim", "Dict[str, Tensor]"}};
const std::vector<std::string> kMethods = {"on_start", "on_step", "on_probe", "on_end"};
const std::vector<std::string> kResults = {"NoneType", "Dict[str, float]", "List[str]",
                                           "Tuple[Dict[str, float], List[str]]"};

void check_method(const torch::jit::Module& module, const std::string& name, const std::string& file) {
  const c10::FunctionSchema& schema = module.get_method(name).function().getSchema();
  const std::string place = place_text(method_place(module, name, file)) + ": " + name;
  for (size_t i = 1; i < schema.arguments().size(); ++i) {
    const std::string& argument = schema.arguments()[i].name();
    const auto known = std::find_if(std::begin(kArguments), std::end(kArguments),
                                    [&](const Argument& a) { return argument == a.name; });
    if (known == std::end(kArguments))
      fail(place, ": an argument must be step, stage, metrics, weights or optim, got ", argument);
    if (argument == "stage" && name != "on_probe") fail(place, ": stage must be an argument of on_probe alone");
    const std::string type = schema.arguments()[i].type()->annotation_str();
    if (type != known->type) {
      fail(place, ": ", argument, " must be ", known->type, ", got ", type,
           type == "Tensor" ? " (what has no annotation is a Tensor)" : "");
    }
  }
  const std::string result = schema.returns().empty() ? "NoneType" : schema.returns()[0].type()->annotation_str();
  if (std::find(kResults.begin(), kResults.end(), result) == kResults.end()) {
    fail(place, ": must return None, Dict[str, float], List[str] or Tuple[Dict[str, float], List[str]], got ", result);
  }
}

}  // namespace

torch::jit::Module load_script(const std::string& file, const std::string& text, c10::Device device) {
  if (ends_with(file, ".ts")) return compile_hook(file, text);
  if (!ends_with(file, ".pt")) fail(file, ": a hook's script must be a .pt (saved module) or a .ts (source text)");
  try {
    std::istringstream stream(text);
    return torch::jit::load(stream, device);
  } catch (const std::exception& error) {
    fail(file, ": must be a module that torch.jit.save wrote, got ", quoted(script_reason(error.what()), 160));
  }
}

torch::jit::Module compile_source(const std::string& file, const std::string& text, const std::string& class_name) {
  torch::jit::Module module(class_name);
  define(module, file, text);
  return module;
}

void check_methods(const torch::jit::Module& module, const std::string& file) {
  bool any = false;
  for (const torch::jit::Method& method : module.get_methods()) {
    const std::string name = method.name();
    if (std::find(kMethods.begin(), kMethods.end(), name) != kMethods.end()) {
      any = true;
      check_method(module, name, file);
    } else if (starts_with(name, "on_")) {
      fail(place_text(method_place(module, name, file)), ": a method on_... must be one of ", join(kMethods), ", got ",
           name, did_you_mean(name, kMethods));
    }
  }
  if (!any) fail(file, ": a hook must have one of the methods ", join(kMethods), ", got none of them");
}

ScriptPlace method_place(const torch::jit::Module& module, const std::string& method, const std::string& file) {
  ScriptPlace place;
  place.file = file;
  const auto found = module.find_method(method);
  if (!found) return place;
  for (const torch::jit::Node* node : found->graph()->nodes()) {
    const auto original = node->sourceRange().findSourceRangeThatGenerated();  // of a loaded module
    const auto at =
        original && original->file_line_col() ? original->file_line_col() : node->sourceRange().file_line_col();
    if (!at) continue;
    if (std::get<0>(*at) != "<string>") place.file = std::get<0>(*at);
    place.line = static_cast<int64_t>(std::get<1>(*at));
    break;
  }
  return place;
}

std::string place_text(const ScriptPlace& place) {
  return place.line > 0 ? place.file + ":" + std::to_string(place.line) : place.file;
}

std::string late_call_line(const torch::jit::Module& module, const std::string& method, const HookConfigSection& config,
                           bool stopped, ScriptPlace last) {
  const std::string limit =
      concat("must come back within ", config.timeout, config.timeout == 1 ? " second" : " seconds");
  if (last.file == "<string>") last.file = config.script;
  const char* what =
      stopped ? ", was stopped here" : ", is left behind in what follows its last tensor operation, which is here";
  if (last.line == 0) {
    last = method_place(module, method, config.script);
    what = ", is left behind before its first tensor operation";
  }
  return place_text(last) + ": " + method + ": " + limit + what;
}

}  // namespace qkr
