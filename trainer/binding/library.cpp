// Everything that libqk_restore_binding.so adds to torch.classes.qk_restore and torch.ops.qk_restore.
#include <torch/custom_class.h>
#include <torch/headeronly/version.h>

#include "ops/registration.h"
#include "trainer/binding/classes.h"
#include "trainer/binding/options.h"

namespace qkr {
namespace {

using SnapshotState = std::tuple<std::string, std::vector<std::string>, std::vector<at::Tensor>>;

// The trainer's errors as those that Torch hands on by type.
template <class F>
auto translated(F&& f) {
  try {
    return f();
  } catch (const Error& error) {
    const std::string text = in_option_words(error.what());
    TORCH_CHECK_VALUE(error.code() != ExitCode::kBadInput, text);
    TORCH_CHECK(false, text);
  }
}

// A member function of a class as a method with translated errors.
template <class Class, class Result, class... Arguments>
auto method(Result (Class::*function)(Arguments...) const) {
  return [function](const c10::intrusive_ptr<Class>& self, std::decay_t<Arguments>... arguments) {
    return translated([&] { return (*self.*function)(arguments...); });
  };
}

bool may_register() {
  static const bool allowed = [] {
    if (!ops_may_register()) return false;
    const bool there = torch::getCustomClass("__torch__.torch.classes.qk_restore.Snapshot") != nullptr;
    const std::string refusal = load_refusal("libqk_restore_binding.so", TORCH_ABI_VERSION, TORCH_ABI_VERSION, there);
    if (!refusal.empty()) report_refused_load(refusal);
    return refusal.empty();
  }();
  return allowed;
}

SnapshotState snapshot_state(const Snapshot& snapshot) {
  const SnapshotClass copy(snapshot);
  return {layers_to_json(snapshot.layers()), copy.names(), copy.tensors()};
}

c10::intrusive_ptr<SnapshotClass> snapshot_from(const SnapshotState& state) {
  const auto& [layers, names, tensors] = state;
  NamedTensors kept;
  for (size_t i = 0; i < names.size(); ++i) kept.set(names[i], tensors.at(i));
  return c10::make_intrusive<SnapshotClass>(Snapshot(std::move(kept), layers_from_json(layers)));
}

void add_snapshot(torch::Library& m) {
  m.class_<SnapshotClass>("Snapshot")
      .def(torch::init([](std::vector<std::string> names, std::vector<at::Tensor> tensors, std::string layers, std::string options) {
        return translated([&] { return c10::make_intrusive<SnapshotClass>(names, tensors, layers, options); });
      }))
      .def("restore", method(&SnapshotClass::restore))
      .def("refusal", method(&SnapshotClass::refusal))
      .def("names", method(&SnapshotClass::names))
      .def("tensors", method(&SnapshotClass::tensors))
      .def("layers", [](const c10::intrusive_ptr<SnapshotClass>& self) { return layers_to_json(self->snapshot().layers()); })
      .def("digest", [](const c10::intrusive_ptr<SnapshotClass>& self) { return self->snapshot().digest(); })
      .def_pickle([](const c10::intrusive_ptr<SnapshotClass>& self) { return snapshot_state(self->snapshot()); },
                  [](SnapshotState state) { return translated([&] { return snapshot_from(state); }); });
}

void add_probe(torch::Library& m) {
  m.class_<NeedleProbeClass>("NeedleProbe")
      .def(torch::init([](std::string folder, std::string options, std::vector<int64_t> eos_ids, std::string labels) {
        return translated([&] { return c10::make_intrusive<NeedleProbeClass>(folder, options, eos_ids, labels); });
      }))
      .def("size", method(&NeedleProbeClass::size))
      .def("ids", method(&NeedleProbeClass::ids))
      .def("text", method(&NeedleProbeClass::text))
      .def("is_finished", method(&NeedleProbeClass::is_finished))
      .def("result", method(&NeedleProbeClass::result))
      .def("forced", method(&NeedleProbeClass::forced))
      .def("forced_result", method(&NeedleProbeClass::forced_result));
}

}  // namespace
}  // namespace qkr

QKR_REGISTER(qkr::may_register(), FRAGMENT, std::nullopt, m, C10_UID) {
  qkr::add_snapshot(m);
  qkr::add_probe(m);
  m.def("_mixer_layers(str config_json) -> str", [](std::string config_json) {
    return qkr::translated([&] { return qkr::mixer_layers_json(config_json); });
  });
  m.def("_probe_summary(str[] rows) -> str", [](std::vector<std::string> rows) {
    return qkr::translated([&] { return qkr::probe_summary(rows); });
  });
}
