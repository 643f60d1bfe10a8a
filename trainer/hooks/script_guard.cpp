#include "trainer/hooks/script_guard.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/jit/runtime/interpreter.h>
#include <torch/library.h>

#include <set>
#include <unordered_map>

namespace qkr {
namespace {

// Note [The guard's key]
// The dispatcher asks the keys of a thread before it asks those of the tensors, and for a key without kernels of its
// own a fallback is called with any operator. This key is the one that torch reserves for a mode which no tensor
// carries and no library registers to; it is on only inside a Scope, so nothing else in the process meets it.
constexpr c10::DispatchKey kKey = c10::DispatchKey::TESTING_ONLY_GenericMode;

thread_local ScriptGuard* current = nullptr;

// First and last byte after it that a strided tensor may touch.
std::pair<uintptr_t, uintptr_t> extent(const at::Tensor& tensor) {
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) last += (tensor.size(i) - 1) * tensor.stride(i);
  const auto begin = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return {begin, begin + static_cast<uintptr_t>((last + 1) * tensor.element_size())};
}

bool has_memory(const at::Tensor& tensor) {
  return tensor.defined() && tensor.layout() == at::kStrided && tensor.has_storage() && tensor.numel() > 0;
}

void look_at_writes(ScriptGuard& guard, const c10::OperatorHandle& op, const torch::jit::Stack& stack) {
  const c10::FunctionSchema& schema = op.schema();
  const size_t count = schema.arguments().size();
  for (size_t i = 0; i < count; ++i) {
    const c10::AliasInfo* alias = schema.arguments()[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) continue;
    const c10::IValue& value = torch::jit::peek(stack, i, count);
    if (value.isTensor()) guard.before_write(value.toTensor(), schema.name());
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) guard.before_write(tensor, schema.name());
    }
  }
}

void see(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  TORCH_CHECK(current != nullptr, "a hook must stay on its own thread (no torch.jit.fork)");
  const c10::impl::ExcludeDispatchKeyGuard once(kKey);
  current->before_operator();
  look_at_writes(*current, op, *stack);
  op.callBoxed(stack);
}

}  // namespace

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&see>()); }

struct ScriptGuard::Memory {
  std::unordered_multimap<const c10::StorageImpl*, size_t> by_storage;
  mutable std::mutex mutex;  // the script's thread writes, another may read
  std::set<size_t> written;
  std::vector<torch::jit::StackEntry> last_stack;
};

ScriptGuard::ScriptGuard(std::vector<LentTensor> lent) : lent_(std::move(lent)), memory_(std::make_unique<Memory>()) {
  for (size_t i = 0; i < lent_.size(); ++i) {
    if (has_memory(lent_[i].tensor)) memory_->by_storage.emplace(lent_[i].tensor.storage().unsafeGetStorageImpl(), i);
  }
}

ScriptGuard::~ScriptGuard() = default;

void ScriptGuard::expire() { expired_ = true; }

void ScriptGuard::before_operator() {
  TORCH_CHECK(!expired_, "stopped, as it was past its limit");
  std::vector<torch::jit::StackEntry> stack = torch::jit::currentCallstack();
  const std::lock_guard lock(memory_->mutex);
  memory_->last_stack.swap(stack);
}

void ScriptGuard::before_write(const at::Tensor& tensor, const std::string& op) {
  if (!has_memory(tensor)) return;
  const auto [begin, end] = extent(tensor);
  const auto [first, last] = memory_->by_storage.equal_range(tensor.storage().unsafeGetStorageImpl());
  for (auto entry = first; entry != last; ++entry) {
    const LentTensor& lent = lent_[entry->second];
    const auto [lent_begin, lent_end] = extent(lent.tensor);
    if (end <= lent_begin || lent_end <= begin) continue;
    TORCH_CHECK(lent.writable, op, ": ", lent.name,
                " must not be written to: no pattern of the hook's `writes` matches it");
    const std::lock_guard lock(memory_->mutex);
    memory_->written.insert(entry->second);
  }
}

std::vector<size_t> ScriptGuard::written() const {
  const std::lock_guard lock(memory_->mutex);
  return {memory_->written.begin(), memory_->written.end()};
}

std::string ScriptGuard::shared_with(const at::Tensor& tensor) const {
  if (!has_memory(tensor)) return "";
  const auto found = memory_->by_storage.find(tensor.storage().unsafeGetStorageImpl());
  return found == memory_->by_storage.end() ? "" : lent_[found->second].name;
}

ScriptPlace ScriptGuard::last_place() const {
  const std::lock_guard lock(memory_->mutex);
  ScriptPlace place;
  for (const torch::jit::StackEntry& entry : memory_->last_stack) {  // the innermost with a file
    const auto written_as =
        entry.range.findSourceRangeThatGenerated();  // of a loaded module: the source it was saved from
    const auto found =
        written_as && written_as->file_line_col() ? written_as->file_line_col() : entry.range.file_line_col();
    if (!found) continue;
    place.file = std::get<0>(*found);
    place.line = static_cast<int64_t>(std::get<1>(*found));
    break;
  }
  return place;
}

struct ScriptGuard::Scope::Key {
  c10::impl::IncludeDispatchKeyGuard include{kKey};
};

ScriptGuard::Scope::Scope(ScriptGuard& guard) {
  current = &guard;
  key_ = std::make_unique<Key>();
}

ScriptGuard::Scope::~Scope() {
  key_.reset();
  current = nullptr;
}

}  // namespace qkr
