#include "trainer/io/safetensors_header.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "trainer/core/error.h"
#include "trainer/core/text.h"
#include "trainer/io/json_text.h"

namespace qkr {
namespace {

constexpr size_t kMaxDims = 64;  // what Torch's loops take

// a * b in *product; false if it does not fit.
bool multiply(uint64_t a, uint64_t b, uint64_t* product) { return !__builtin_mul_overflow(a, b, product); }

// Builds the entries from the parser's events: { name: {dtype, shape, data_offsets} …, "__metadata__": {string: string} }. The
// state machine knows no deeper nesting, so a hostile header cannot make it recurse or grow a tree.
class HeaderReader : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(SafetensorsHeader& header, const std::string& file) : header_(header), file_(file) {}

  bool key(std::string& name) override {
    if (depth_ == 1) return tensor_key(name);
    if (in_metadata_) {
      key_ = name;
      if (!header_.metadata.emplace(name, "").second) refuse("must give each key once, got ", quoted(name), " twice");
      return true;
    }
    unsigned* seen = nullptr;
    if (name == "dtype") seen = &seen_dtype_;
    if (name == "shape") seen = &seen_shape_;
    if (name == "data_offsets") seen = &seen_offsets_;
    if (seen == nullptr) refuse("must have dtype, shape and data_offsets alone, got ", quoted(name));
    if (++*seen > 1) refuse("must give each key once, got ", quoted(name), " twice");
    key_ = name;
    return true;
  }

  bool start_object(size_t) override {
    if (depth_ == 2 || array_) refuse("must have ", wanted(), ", got an object");
    if (depth_ == 1 && !in_metadata_) seen_dtype_ = seen_shape_ = seen_offsets_ = 0;
    ++depth_;
    return true;
  }

  bool end_object() override {
    --depth_;
    if (depth_ == 1 && !in_metadata_ && (seen_dtype_ & seen_shape_ & seen_offsets_) == 0) {
      const char* absent = seen_dtype_ == 0 ? "dtype" : seen_shape_ == 0 ? "shape" : "data_offsets";
      refuse("must have dtype, shape and data_offsets, got no ", absent);
    }
    return true;
  }

  bool start_array(size_t) override {
    if (!in_tensor() || key_ == "dtype" || array_) refuse("must have ", wanted(), ", got an array");
    array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    array_ = false;
    SafetensorsEntry& entry = header_.entries.back();
    if (key_ == "shape") {
      entry.shape.assign(numbers_.begin(), numbers_.end());
    } else {
      if (numbers_.size() != 2) refuse("must have two data_offsets, got ", numbers_.size());
      entry.begin = numbers_[0];
      entry.end = numbers_[1];
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (!array_) refuse("must have ", wanted(), ", got ", value);
    if (value >> 63 != 0) refuse("must have ", key_, " below 2^63, got ", value);
    if (key_ == "shape" && numbers_.size() == kMaxDims) refuse("must have at most ", kMaxDims, " dimensions, got more");
    if (key_ == "data_offsets" && numbers_.size() == 2) refuse("must have two data_offsets, got more");
    numbers_.push_back(value);
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      header_.metadata[key_] = value;
      return true;
    }
    if (!in_tensor() || key_ != "dtype") refuse("must have ", wanted(), ", got ", quoted(value));
    header_.entries.back().dtype = find_safetensors_dtype(value);
    if (header_.entries.back().dtype == nullptr) refuse("must have a dtype of the format, got ", quoted(value));
    return true;
  }

  bool number_integer(int64_t value) override { refuse("must have ", wanted(), ", got ", value); }
  bool number_float(double, const std::string& text) override { refuse("must have ", wanted(), ", got ", quoted(text)); }
  bool null() override { refuse("must have ", wanted(), ", got null"); }
  bool boolean(bool value) override { refuse("must have ", wanted(), ", got ", value ? "true" : "false"); }
  bool binary(nlohmann::json::binary_t&) override { refuse("must have ", wanted(), ", got binary data"); }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    place_ = concat("header byte ", position - 1);
    refuse("must be JSON, got ", json_complaint(error.what()));
  }

 private:
  bool tensor_key(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    place_ = in_metadata_ ? name : concat("tensor ", quoted(name, 200));
    key_.clear();
    if (in_metadata_) {
      if (has_metadata_) refuse("must be given once, got it twice");
      has_metadata_ = true;
    } else {
      if (!header_.index.emplace(name, 0).second) refuse("must be named once, got two of that name");
      header_.entries.emplace_back().name = name;
    }
    return true;
  }

  bool in_tensor() const { return depth_ == 2 && !in_metadata_; }

  // The rule that a value of the wrong type breaks.
  std::string wanted() const {
    if (depth_ == 0) return "an object";
    if (depth_ == 1) return "an object after its name";
    if (in_metadata_) return concat("a string as ", quoted(key_));
    return key_ == "dtype" ? "a string as dtype" : concat("non-negative integers as ", key_);
  }

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(file_, ": ", place_, " ", parts...);
  }

  SafetensorsHeader& header_;
  const std::string& file_;
  std::string place_ = "header", key_;
  int depth_ = 0;
  bool in_metadata_ = false, has_metadata_ = false, array_ = false;
  unsigned seen_dtype_ = 0, seen_shape_ = 0, seen_offsets_ = 0;
  std::vector<uint64_t> numbers_;
};

uint64_t read_little_endian(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[static_cast<size_t>(i)]);
  return value;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// shape x dtype = span, in whole bytes.
void check_span(const SafetensorsEntry& entry, const std::string& file) {
  const std::string place = concat(file, ": tensor ", quoted(entry.name, 200));
  uint64_t count = 1, bits = 0;
  bool fits = true, is_empty = false;
  for (const int64_t size : entry.shape) {  // a zero counts as one here: Torch's strides do the same, and must not overflow
    fits = fits && multiply(count, std::max<uint64_t>(1, static_cast<uint64_t>(size)), &count);
    is_empty = is_empty || size == 0;
  }
  fits = fits && multiply(count, static_cast<uint64_t>(entry.dtype->bits), &bits) && bits <= uint64_t{1} << 62;
  if (!fits) fail(place, " must have a shape of at most 2^62 bits, got ", shape_text(entry.shape));
  if (entry.begin > entry.end) fail(place, " must have data_offsets in order, got [", entry.begin, ", ", entry.end, "]");
  if (is_empty) bits = 0;
  if (bits % 8 != 0 || bits / 8 != entry.end - entry.begin) {
    fail(place, " must have ", (bits + 7) / 8, " bytes (", entry.dtype->name, " ", shape_text(entry.shape), "), got ",
         entry.end - entry.begin, " by its data_offsets");
  }
}

// The spans must tile the data: no gap, no overlap, none beyond the end. Sorts the entries by their place.
void check_tiling(SafetensorsHeader& header, uint64_t data_bytes, const std::string& file) {
  const auto by_place = [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  };
  std::sort(header.entries.begin(), header.entries.end(), by_place);
  uint64_t at = 0;
  for (size_t i = 0; i < header.entries.size(); ++i) {
    const SafetensorsEntry& entry = header.entries[i];
    const std::string place = concat(file, ": tensor ", quoted(entry.name, 200));
    if (entry.begin != at) {
      fail(place, " must begin at byte ", at, " where the one before ends (no gap, no overlap), got ", entry.begin);
    }
    if (entry.end > data_bytes) {
      fail(place, " must end within the ", data_bytes, " bytes of data, got byte ", entry.end, " (truncated file?)");
    }
    at = entry.end;
    header.index[entry.name] = i;
  }
  if (at != data_bytes) fail(file, ": data must end with the last tensor at byte ", at, ", got ", data_bytes, " bytes");
}

}  // namespace

const std::vector<SafetensorsDtype>& safetensors_dtypes() {
  static const std::vector<SafetensorsDtype> kDtypes = {
      {"BOOL", 8}, {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},   {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8},
      {"F8_E8M0", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},    {"BF16", 16}, {"I32", 32}, {"U32", 32},    {"F32", 32},
      {"C64", 64},  {"F64", 64}, {"I64", 64},   {"U64", 64}};
  return kDtypes;
}

const SafetensorsDtype* find_safetensors_dtype(std::string_view name) {
  for (const SafetensorsDtype& dtype : safetensors_dtypes()) {
    if (name == dtype.name) return &dtype;
  }
  return nullptr;
}

SafetensorsHeader parse_safetensors(std::string_view bytes, const std::string& file) {
  if (bytes.size() < 8) fail(file, ": must begin with 8 bytes of header length, got ", bytes.size(), " bytes");
  const uint64_t length = read_little_endian(bytes);
  if (length > kMaxSafetensorsHeader) fail(file, ": header length must be at most ", kMaxSafetensorsHeader, ", got ", length);
  if (length > bytes.size() - 8) {
    fail(file, ": header must lie within the file, got a length of ", length, " in a file of ", bytes.size(), " bytes");
  }
  const std::string_view text = bytes.substr(8, length);
  if (text.empty() || text[0] != '{') fail(file, ": header must begin with '{', got ", quoted(text.substr(0, 8)));
  size_t bad = 0;
  if (!is_utf8(text, &bad)) {
    fail(file, ": header byte ", bad, " must be UTF-8, got ", static_cast<unsigned>(static_cast<unsigned char>(text[bad])));
  }
  // The parser takes a NUL for the end of its input, and would accept anything after one.
  bad = text.find('\0');
  if (bad != std::string_view::npos) fail(file, ": header byte ", bad, " must be JSON, got a NUL");

  SafetensorsHeader header;
  header.data_offset = 8 + length;
  HeaderReader reader(header, file);
  nlohmann::json::sax_parse(text.begin(), text.end(), &reader);
  for (const SafetensorsEntry& entry : header.entries) check_span(entry, file);
  check_tiling(header, bytes.size() - 8 - length, file);
  return header;
}

}  // namespace qkr
