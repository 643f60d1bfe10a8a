// The dispatcher's entry for a schema of ops/library.cpp, looked up once.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <algorithm>
#include <cstddef>

namespace qkr {

// "namespace::operator" as a template argument.
template <size_t kSize>
struct SchemaName {
  char text[kSize];
  consteval SchemaName(const char (&name)[kSize]) { std::copy_n(name, kSize, text); }
};

// schema_handle<"qk_restore::rms_norm", decltype(rms_norm)>().call(...): through the dispatcher, never straight to a kernel.
// Throws if there is no such schema, or one of another signature.
template <SchemaName kName, class Signature>
const c10::TypedOperatorHandle<Signature>& schema_handle() {
  static const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(kName.text, "").template typed<Signature>();
  return handle;
}

}  // namespace qkr
