// The keys of a RunConfig as one list, for everything that walks them: parse, dump, describe, schema.
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "trainer/config/run_config.h"

namespace qkr {

// Points into the RunConfig that the list was made from.
using FieldValue =
    std::variant<std::string*, bool*, int64_t*, double*, std::vector<std::string>*, std::vector<int64_t>*, LayerChoice*,
                 std::optional<double>*, SampleCount*>;

struct Field {
  std::string section;  // "" for a key that stands at the top
  std::string key;
  FieldValue value;
  std::string help;
  Rule rule;

  std::string path() const { return section.empty() ? key : section + "." + key; }
};

// In the order of the structs. `config` must outlive the list.
std::vector<Field> list_fields(RunConfig& config);

// A section that may stand several times: in YAML a list of maps, each with the keys of one struct.
struct SectionList {
  std::string name, help;
  std::function<size_t()> size;
  std::function<void(size_t)> resize;              // what is new has every default
  std::function<std::vector<Field>(size_t)> item;  // of section "gate[0]"; points into the item, until the next resize
  std::vector<Field> keys;                         // of an item with every default, section "gate[]"; not to be written to
};

// In the order of the struct. `config` must outlive the list.
std::vector<SectionList> list_section_lists(RunConfig& config);
const SectionList* find_list(const std::vector<SectionList>& lists, const std::string& name);

// "string", "true or false", "integer", "number", "list of strings", "list of integers",
// "word or list of integers", "number or null", "integer or auto".
std::string type_name(const Field& field);

// What `rule` asks beyond the type, as a phrase after "must be": "one of a, b", ">= 0", "> 0 and <= 1", or "".
std::string rule_text(const Rule& rule);

// The shortest text that reads back as `value`, with a point or an exponent where `as_float`.
std::string number_text(double value, bool as_float = false);

// The path that a reader who wrote `section`.`key` (section "" at the top) probably meant, or "". A key that exists under
// another section comes first, then the nearest one of the same section, then of all.
std::string nearest_path(const std::vector<Field>& fields, const std::string& section, const std::string& key);

// "optim" for "optm", "" if none is near.
std::string nearest_section(const std::vector<Field>& fields, const std::string& name);

// "gate" for "gates", "" if none is near.
std::string nearest_list(const std::vector<SectionList>& lists, const std::string& name);

bool is_section(const std::vector<Field>& fields, const std::string& name);
const Field* find_field(const std::vector<Field>& fields, const std::string& path);

}  // namespace qkr
