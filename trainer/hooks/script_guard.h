// Sees every operator that a script calls before it runs: refuses one that would write to a tensor that is only lent,
// notes what is written to, and ends a call that is past its limit. So an error names the script's line, nothing is
// copied, and no digest is taken.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "trainer/hooks/script_error.h"

namespace qkr {

// A tensor that a script is given. Several may share a storage; two that overlap must not differ in `writable`.
struct LentTensor {
  std::string name;  // for messages: "weights[model.norm.weight]"
  at::Tensor tensor;
  bool writable = false;
};

class ScriptGuard {
 public:
  explicit ScriptGuard(std::vector<LentTensor> lent);
  ~ScriptGuard();
  ScriptGuard(const ScriptGuard&) = delete;
  ScriptGuard& operator=(const ScriptGuard&) = delete;

  // From now on every operator of the script throws. For another thread.
  void expire();

  // Indices of the lent tensors that an operator has written to, or begun to, ascending.
  std::vector<size_t> written() const;

  // The name of the lent tensor whose memory `tensor` shares, "" if none.
  std::string shared_with(const at::Tensor& tensor) const;

  // Where the last operator stands in the script; line 0 before the first.
  ScriptPlace last_place() const;

  // On this thread, while it lives: operators are seen. What runs below an operator is not: it is the operator's own.
  class Scope {
   public:
    explicit Scope(ScriptGuard& guard);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    struct Key;
    std::unique_ptr<Key> key_;
  };

  // What the dispatcher calls; not for others.
  void before_operator();
  void before_write(const at::Tensor& tensor, const std::string& op);

 private:
  struct Memory;
  std::vector<LentTensor> lent_;
  std::unique_ptr<Memory> memory_;
  std::atomic<bool> expired_{false};
};

}  // namespace qkr
