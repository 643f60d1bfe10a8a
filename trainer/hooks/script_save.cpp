#include "trainer/hooks/script_save.h"

#include <exception>
#include <ostream>
#include <streambuf>

#include "trainer/io/atomic.h"

namespace qkr {
namespace {

// Takes all that it is given, and keeps the first error to itself.
class Bytes : public std::streambuf {
 public:
  explicit Bytes(AtomicFile& file) : file_(file) {}
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 protected:
  std::streamsize xsputn(const char* text, std::streamsize count) override {
    put({text, static_cast<size_t>(count)});
    return count;
  }
  int_type overflow(int_type character) override {
    const char byte = traits_type::to_char_type(character);
    if (!traits_type::eq_int_type(character, traits_type::eof())) put({&byte, 1});
    return traits_type::not_eof(character);
  }

 private:
  void put(std::string_view bytes) {
    if (error_) return;
    try {
      file_.write(bytes);
    } catch (...) {
      error_ = std::current_exception();
    }
  }

  AtomicFile& file_;
  std::exception_ptr error_;
};

}  // namespace

void save_module(const torch::jit::Module& module, const std::filesystem::path& file) {
  AtomicFile whole(file);
  Bytes bytes(whole);
  std::ostream out(&bytes);
  module.save(out);
  bytes.rethrow();
  whole.commit();
}

}  // namespace qkr
