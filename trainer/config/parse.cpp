#include "trainer/config/parse.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <sstream>

#include "trainer/config/check.h"
#include "trainer/config/convert.h"
#include "trainer/config/fields.h"
#include "trainer/core/error.h"
#include "trainer/core/shown_name.h"
#include "trainer/core/text.h"

namespace qkr {
namespace {

constexpr size_t kLargestFile = 1 << 20;  // a weights file given by mistake is not read whole

// yaml-cpp counts from 0, and marks what it has no place for with -1.
std::string place_of(const std::string& file, const YAML::Mark& mark) {
  return mark.line < 0 ? file : concat(file, ":", mark.line + 1, ":", mark.column + 1);
}

// Where a second document begins. Not by YAML::LoadAll: a stray bracket after a value makes it find documents without end.
std::optional<YAML::Mark> second_document(const std::string& text) {
  struct Starts : YAML::EventHandler {
    std::vector<YAML::Mark> marks;
    void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
  } starts;
  std::istringstream in(text);
  YAML::Parser parser(in);
  while (starts.marks.size() < 2 && parser.HandleNextDocument(starts)) continue;
  return starts.marks.size() < 2 ? std::nullopt : std::optional(starts.marks[1]);
}

// One parse: collects every problem with its place, in the order of the file, then of the overrides.
class Parser {
 public:
  explicit Parser(std::string file) : file_(std::move(file)), fields_(list_fields(config_)), lists_(list_section_lists(config_)) {}
  Parser(const Parser&) = delete;

  void read_file(std::string_view yaml) {
    unread_ = true;
    const std::optional<YAML::Node> loaded =
        load(std::string(yaml), [&](const YAML::Mark& mark, const std::string& what) { add(place_of(file_, mark), what); });
    if (!loaded) return;
    const YAML::Node& root = *loaded;
    if (!root.IsMap() && !root.IsNull()) return add(place_of(file_, root.Mark()), "must be a map of sections, got " + node_text(root));
    unread_ = false;
    if (root.IsNull()) return;
    for_each_key(root, "", in_file(), [&](const std::string& name, const YAML::Node& key, const YAML::Node& value) {
      if (is_section(fields_, name)) {
        read_section(name, value);
      } else if (const SectionList* list = find_list(lists_, name)) {
        read_list(*list, value, in_file());
      } else {
        read_key("", name, key, value);
      }
    });
  }

  // Nothing after a file that could not be read: what it lacks, and what an override does not find in it, cannot be said.
  void read_override(const std::string& text) {
    if (unread_) return;
    const std::string place = "--set " + text;
    const size_t equals = text.find('=');
    const std::string path = text.substr(0, equals);
    if (equals == std::string::npos || path.empty()) {
      return add(place, "must be key=value, such as optim.lr=2e-5");
    }
    if (is_section(fields_, path)) {
      return add(place, path + " is a section: give one of its keys, such as " + first_key(path));
    }
    const SectionList* list = find_list(lists_, path);
    const std::optional<Field> of_item = field_of_item(path);
    const Field* field = of_item ? &*of_item : find_field(fields_, path);
    if (field == nullptr && list == nullptr) return unknown(place, path);
    if (!is_utf8(text)) return add(place, path + ": must be UTF-8");
    const std::optional<YAML::Node> node =
        load(text.substr(equals + 1), [&](const YAML::Mark&, const std::string& what) { bad_value(place, path, what); });
    if (!node) return;
    if (list != nullptr) return read_list(*list, *node, [&](const YAML::Node&) { return place; });
    places_[path] = place;
    read_value(*field, *node, [&](const YAML::Node&, const std::string& what) { bad_value(place, path, what); });
  }

  RunConfig finish() {
    std::vector<Field> all = fields_;
    for (const SectionList& list : lists_) {
      for (size_t i = 0; i < list.size(); ++i) {
        for (Field& field : list.item(i)) all.push_back(std::move(field));
      }
    }
    for (const Field& field : all) {
      if (!unread_ && field.rule.required && wrong_.count(field.path()) == 0 && is_empty(field)) {
        add(place(field.path()), field.path() + ": must be given: " + field.help);
      }
    }
    if (problems_.empty()) {
      for (const Contradiction& one : find_contradictions(config_)) add(place(one.path), one.path + ": " + one.text);
    }
    if (!problems_.empty()) fail(join(problems_, "\n"));
    return config_;
  }

 private:
  // A line each, whatever keys and values hold.
  void add(const std::string& place, const std::string& what) { problems_.push_back(shown_words(place + ": " + what)); }

  std::function<std::string(const YAML::Node&)> in_file() const {
    return [this](const YAML::Node& at) { return place_of(file_, at.Mark()); };
  }

  void bad_value(const std::string& place, const std::string& path, const std::string& what) {
    wrong_.insert(path);
    add(place, path + ": " + what);
  }

  // The text as one document; fault(mark, what) and nothing if it is none.
  template <class Fault>
  std::optional<YAML::Node> load(const std::string& text, Fault&& fault) {
    try {
      const std::optional<YAML::Mark> second = second_document(text);
      if (!second) return YAML::Load(text);
      fault(*second, "must be one YAML document, got another");
    } catch (const YAML::ParserException& error) {
      fault(error.mark, "must be YAML, got an error: " + error.msg);
    } catch (const YAML::Exception& error) {
      fault(YAML::Mark::null_mark(), std::string("must be YAML, got an error: ") + error.what());
    }
    return std::nullopt;
  }

  // visit(name, key node, value node) for every key of a map, once: yaml-cpp itself keeps the first of two and says nothing.
  template <class PlaceAt, class Visit>
  void for_each_key(const YAML::Node& map, const std::string& prefix, PlaceAt&& place_at, Visit&& visit) {
    std::map<std::string, YAML::Mark> seen;
    for (const auto& item : map) {
      const std::string here = place_at(item.first);
      if (!item.first.IsScalar()) {
        add(here, (prefix.empty() ? "" : prefix + ": ") + "a key must be a word, got " + node_text(item.first));
        continue;
      }
      const std::string& name = item.first.Scalar();
      const auto [first, is_new] = seen.emplace(name, item.first.Mark());
      if (!is_new) {
        add(here, concat(prefix.empty() ? "" : prefix + ".", name, ": given twice, first on line ", first->second.line + 1));
        continue;
      }
      visit(name, item.first, item.second);
    }
  }

  void read_section(const std::string& section, const YAML::Node& node) {
    if (node.IsNull()) return;
    if (!node.IsMap()) {
      for (const Field& field : fields_) {
        if (field.section == section) wrong_.insert(field.path());
      }
      return add(place_of(file_, node.Mark()), concat(section, ": must be a map of keys, such as ", section, ": {",
                                                      first_key(section).substr(section.size() + 1), ": ...}, got ",
                                                      node_text(node)));
    }
    for_each_key(node, section, in_file(), [&](const std::string& name, const YAML::Node& key, const YAML::Node& value) {
      read_key(section, name, key, value);
    });
  }

  // Takes the place of the list as it was. `place_at` says where a node stands.
  template <class PlaceAt>
  void read_list(const SectionList& list, const YAML::Node& node, PlaceAt&& place_at) {
    const std::string prefix = list.name + "[";
    std::erase_if(places_, [&](const auto& one) { return starts_with(one.first, prefix); });
    std::erase_if(wrong_, [&](const std::string& path) { return starts_with(path, prefix); });
    list.resize(0);
    places_[list.name] = place_at(node);
    if (node.IsNull()) return;
    const std::string wanted = concat("must be a list of maps, such as [{", list.keys[0].key, ": ...}], got ");
    if (!node.IsSequence()) return add(place_at(node), list.name + ": " + wanted + node_text(node));
    list.resize(node.size());
    for (size_t i = 0; i < node.size(); ++i) {
      const std::string section = concat(prefix, i, "]");
      places_[section] = place_at(node[i]);
      if (!node[i].IsMap()) {
        add(places_[section], concat(section, ": must be a map of keys, such as {", list.keys[0].key, ": ...}, got ", node_text(node[i])));
        for (const Field& field : list.item(i)) wrong_.insert(field.path());
        continue;
      }
      read_item(section, list.item(i), node[i], place_at);
    }
  }

  template <class PlaceAt>
  void read_item(const std::string& section, const std::vector<Field>& fields, const YAML::Node& map, PlaceAt&& place_at) {
    for_each_key(map, section, place_at, [&](const std::string& name, const YAML::Node& key, const YAML::Node& value) {
      const std::string path = section + "." + name, here = place_at(key);
      const Field* field = find_field(fields, path);
      if (field == nullptr) {
        const std::string near = nearest_path(fields, section, name);
        return add(here, path + ": unknown key" + (near.empty() ? "" : "; did you mean " + near + "?"));
      }
      places_[path] = here;
      read_value(*field, value, [&](const YAML::Node& at, const std::string& what) {
        bad_value(at.IsNull() ? here : place_at(at), path, what);
      });
    });
  }

  // "gate[0].min", of an item that is there.
  std::optional<Field> field_of_item(const std::string& path) const {
    for (const SectionList& list : lists_) {
      if (!starts_with(path, list.name + "[")) continue;
      for (size_t i = 0; i < list.size(); ++i) {
        const std::vector<Field> fields = list.item(i);
        if (const Field* field = find_field(fields, path)) return *field;
      }
    }
    return std::nullopt;
  }

  void read_key(const std::string& section, const std::string& name, const YAML::Node& key, const YAML::Node& value) {
    const std::string path = section.empty() ? name : section + "." + name;
    const std::string here = place_of(file_, key.Mark());
    const Field* field = find_field(fields_, path);
    if (field == nullptr || field->section != section) return unknown(here, path);
    places_[path] = here;
    read_value(*field, value, [&](const YAML::Node& at, const std::string& what) {
      bad_value(at.IsNull() ? here : place_of(file_, at.Mark()), path, what);
    });
  }

  void unknown(const std::string& place, const std::string& path) {
    const size_t dot = path.find('.'), bracket = path.find('[');
    const std::string section = dot == std::string::npos ? "" : path.substr(0, dot);
    if (const SectionList* list = find_list(lists_, path.substr(0, std::min(dot, bracket)))) return unknown_item(place, path, *list);
    if (const std::string near = nearest_list(lists_, path.substr(0, std::min(dot, bracket))); !near.empty()) {
      return add(place, path + ": unknown key; did you mean " + near + path.substr(std::min(std::min(dot, bracket), path.size())) + "?");
    }
    if (!section.empty() && !is_section(fields_, section)) {
      const std::string near = nearest_section(fields_, section);
      return add(place, path + ": unknown section " + section + (near.empty() ? "" : "; did you mean " + near + "?"));
    }
    if (find_field(fields_, path) != nullptr) {  // a dotted name as a key of the file
      return add(place, concat(path, ": unknown key; write ", section, ": {", path.substr(dot + 1), ": ...}"));
    }
    const std::string near = nearest_path(fields_, section, dot == std::string::npos ? path : path.substr(dot + 1));
    add(place, path + ": unknown key" + (near.empty() ? "" : "; did you mean " + near + "?"));
  }

  // `path` begins with the list's name, but is no key of an item that is there.
  void unknown_item(const std::string& place, const std::string& path, const SectionList& list) {
    const size_t dot = path.find('.');
    for (size_t i = 0; i < list.size() && dot != std::string::npos; ++i) {
      const std::string section = concat(list.name, "[", i, "]");
      if (path.substr(0, dot) != section) continue;
      const std::string near = nearest_path(list.item(i), section, path.substr(dot + 1));
      return add(place, path + ": unknown key" + (near.empty() ? "" : "; did you mean " + near + "?"));
    }
    add(place, concat(path, ": ", list.name, " is a list of ", list.size(), " items: give ", list.name, "[0].", list.keys[0].key,
                      " for a key of the first, or all of it as ", list.name, "=[{", list.keys[0].key, ": ...}]"));
  }

  std::string first_key(const std::string& section) const {
    for (const Field& field : fields_) {
      if (field.section == section) return field.path();
    }
    return "";
  }

  std::string place(const std::string& path) const {
    for (const std::string& known : {path, path.substr(0, path.rfind('.'))}) {  // a key that was not given stands where its item does
      const auto found = places_.find(known);
      if (found != places_.end()) return found->second;
    }
    return file_;
  }

  static bool is_empty(const Field& field) {
    if (const auto* text = std::get_if<std::string*>(&field.value)) return (*text)->empty();
    if (const auto* list = std::get_if<std::vector<std::string>*>(&field.value)) return (*list)->empty();
    return false;
  }

  std::string file_;
  RunConfig config_;
  std::vector<Field> fields_;                  // point into config_
  std::vector<SectionList> lists_;             // too
  std::map<std::string, std::string> places_;  // of the keys that were given, by path
  std::set<std::string> wrong_;                // keys that already have a problem
  bool unread_ = false;                        // the file is not YAML, or no map
  std::vector<std::string> problems_;
};

}  // namespace

RunConfig parse_config(std::string_view yaml, const std::string& file_name, const std::vector<std::string>& overrides) {
  size_t bad = 0;
  if (!is_utf8(yaml, &bad)) fail(file_name, ": must be UTF-8 text, got another byte at offset ", bad);
  if (const size_t nul = yaml.find('\0'); nul != std::string_view::npos) {
    fail(file_name, ": must be text, got a zero byte at offset ", nul);
  }
  Parser parser(file_name);
  parser.read_file(yaml);
  for (const std::string& text : overrides) parser.read_override(text);
  return parser.finish();
}

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) fail(path, ": no such file");
  if (std::filesystem::is_directory(path, ignored)) fail(path, ": must be a file, got a folder");
  std::ifstream in(path, std::ios::binary);
  std::string text(kLargestFile + 1, '\0');
  if (in) in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad() || (in.fail() && !in.eof())) fail(path, ": cannot be read");
  text.resize(static_cast<size_t>(in.gcount()));
  if (text.size() > kLargestFile) fail(path, ": must be a configuration of at most 1 MiB");
  return parse_config(text, path, overrides);
}

}  // namespace qkr
