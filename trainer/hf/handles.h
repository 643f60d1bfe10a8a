// What both wrappers need to call the C library: views in, strings and errors out.
#pragma once

#include <string>
#include <string_view>

#include "trainer/core/shown_name.h"
#include "trainer/hf/qkr_hf.h"

namespace qkr::hf {

inline QkrHfView view(std::string_view text) { return {text.data(), text.size()}; }

// Takes the text over: copies it and gives the library its memory back.
inline std::string take(QkrHfText text) {
  std::string copy = text.size == 0 ? std::string() : std::string(text.data, text.size);
  qkr_hf_text_free(text);
  return copy;
}

// The same for an error: the crates quote what they refuse, whatever and however long it is.
inline std::string told(QkrHfText error) { return shown_words(take(error)); }

}  // namespace qkr::hf
