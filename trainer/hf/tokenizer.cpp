#include "trainer/hf/tokenizer.h"

#include "trainer/core/error.h"
#include "trainer/hf/handles.h"

namespace qkr {

struct Tokenizer::Impl {
  std::string name;
  QkrHfTokenizer* handle = nullptr;

  explicit Impl(const std::string& given_name) : name(given_name) {}
  Impl(const Impl&) = delete;
  ~Impl() { qkr_hf_tokenizer_free(handle); }
};

Tokenizer::Tokenizer(std::string_view json, const std::string& name) : impl_(std::make_unique<Impl>(name)) {
  QkrHfText error{};
  if (qkr_hf_tokenizer_load(hf::view(json), &impl_->handle, &error) != 0) {
    fail(name, ": must be a tokenizer.json, got an error: ", hf::told(error));
  }
}

Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Encoding Tokenizer::encode(std::string_view text, bool add_special) const {
  QkrHfEncoding got{};
  QkrHfText error{};
  if (qkr_hf_encode(impl_->handle, hf::view(text), add_special ? 1 : 0, &got, &error) != 0) {
    fail(impl_->name, ": encode: ", hf::told(error));
  }
  Encoding encoding;
  if (got.size != 0) {
    encoding.ids.assign(got.ids, got.ids + got.size);
    encoding.starts.assign(got.starts, got.starts + got.size);
  }
  qkr_hf_encoding_free(got);
  return encoding;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  QkrHfText text{}, error{};
  if (qkr_hf_decode(impl_->handle, ids.data(), ids.size(), skip_special ? 1 : 0, &text, &error) != 0) {
    fail(impl_->name, ": decode: ", hf::told(error));
  }
  return hf::take(text);
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  int64_t id = -1;
  QkrHfText error{};
  if (qkr_hf_token_to_id(impl_->handle, hf::view(token), &id, &error) != 0) {
    fail(impl_->name, ": token_to_id: ", hf::told(error));
  }
  if (id < 0) return std::nullopt;
  return static_cast<int32_t>(id);
}

int64_t Tokenizer::vocab_size() const { return qkr_hf_vocab_size(impl_->handle); }

}  // namespace qkr
