// Tensors under their checkpoint names, in a fixed order. The tensors are live: model, optimizer and checkpoint share their
// storage, so everything that changes a weight copies into it and nothing is ever replaced.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "trainer/core/error.h"

namespace qkr {

class NamedTensors {
 public:
  using Entry = std::pair<std::string, at::Tensor>;

  // Adds or replaces the entry called `name`.
  void set(const std::string& name, at::Tensor tensor) {
    const auto [place, is_new] = index_.emplace(name, entries_.size());
    if (is_new) {
      entries_.emplace_back(name, std::move(tensor));
    } else {
      entries_[place->second].second = std::move(tensor);
    }
  }

  bool contains(const std::string& name) const { return index_.count(name) != 0; }

  // Throws Error naming the tensor if it is absent.
  const at::Tensor& at(const std::string& name) const {
    const auto place = index_.find(name);
    if (place == index_.end()) fail("tensor ", name, " is missing");
    return entries_[place->second].second;
  }

  const at::Tensor* find(const std::string& name) const {
    const auto place = index_.find(name);
    return place == index_.end() ? nullptr : &entries_[place->second].second;
  }

  size_t size() const { return entries_.size(); }
  bool empty() const { return entries_.empty(); }
  std::vector<Entry>::const_iterator begin() const { return entries_.begin(); }
  std::vector<Entry>::const_iterator end() const { return entries_.end(); }

 private:
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> index_;
};

}  // namespace qkr
