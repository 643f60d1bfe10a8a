// SHA-256 of bytes, for files, tensors, prompts. libcrypto does the work.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace qkr {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& add(std::string_view bytes);
  Sha256& add(const void* data, size_t bytes);
  // 64 lower-case hex digits. The object may not be added to afterwards.
  std::string hex();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);

}  // namespace qkr
