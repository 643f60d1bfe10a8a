#include "trainer/probe/generated_text.h"

#include <array>
#include <initializer_list>
#include <string_view>

#include "trainer/probe/random.h"

namespace qkr {
namespace {

using std::string_view;

// clang-format off: one word a line otherwise
constexpr auto kNames = std::to_array<string_view>(
    {"Ada", "Bruno", "Clara", "Davit", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas",
     "Kira", "Lorenz", "Marta", "Nils", "Olga", "Pavel", "Rosa", "Stefan", "Tilda", "Viktor",
     "Mr. Amber", "Mrs. Lark", "Dr. Quill", "the miller", "the ferryman", "the teacher",
     "the baker", "an old sailor", "my neighbour", "the younger sister", "the clockmaker",
     "the gardener", "our cousin", "the postman"});
constexpr auto kThings = std::to_array<string_view>(
    {"ladder", "lantern", "letter", "basket", "bridge", "kettle", "map", "garden gate",
     "violin", "wagon", "blanket", "harbour wall", "copper pot", "window", "ledger", "boat",
     "drum", "coat", "stove", "compass", "orchard", "loaf", "mirror", "bell", "fence",
     "staircase", "notebook", "well", "chimney", "saddle", "painting", "barrel", "wheel",
     "spoon", "roof", "table", "clock", "oar"});
constexpr auto kQualities = std::to_array<string_view>(
    {"old", "narrow", "heavy", "painted", "broken", "quiet", "borrowed", "wooden", "bright",
     "dusty", "patient", "crooked", "new", "small", "silver", "forgotten", "warm", "tall",
     "rusty", "plain", "smooth", "blue", "careful", "loose", "honest", "wet"});
constexpr auto kActs = std::to_array<string_view>(
    {"carried", "mended", "found", "sold", "painted", "measured", "hid", "washed", "lifted",
     "described", "lent", "counted", "moved", "forgot", "drew", "cleaned", "weighed", "opened",
     "admired", "returned", "covered", "examined", "promised", "dropped"});
constexpr auto kPlaces = std::to_array<string_view>(
    {"by the river", "behind the school", "in the market", "under the bridge",
     "near the old mill", "at the edge of the forest", "in the kitchen",
     "on the road to the coast", "beside the church", "in the attic", "across the square",
     "at the station", "below the hill", "in the long barn", "along the canal",
     "outside the town hall", "on the upper floor", "among the apple trees"});
constexpr auto kTimes = std::to_array<string_view>(
    {"before breakfast", "late in the evening", "on the first of May", "during the storm",
     "after the harvest", "that winter", "one quiet Sunday", "long before dawn",
     "in the middle of the week", "when the rain had stopped", "twice a year", "at noon",
     "as the lamps were lit", "while the others slept", "in the second year",
     "soon after the fair"});
constexpr auto kReasons = std::to_array<string_view>(
    {"because nobody else would", "although it was not asked for",
     "so that the work could go on", "and nobody thought it strange",
     "but the wind took no notice", "since the days were getting short",
     "for reasons that were never written down", "and the whole street heard of it",
     "though the price had doubled", "as if it had always been so"});
constexpr auto kStates = std::to_array<string_view>(
    {"ready", "missing", "worth the trouble", "too large for the door", "older than the town",
     "almost finished", "under the snow", "full of rainwater", "out of reach", "good enough",
     "the talk of the village", "beyond repair"});
// clang-format on

// Writes one sentence after the other; every choice is the generator's next draw. Parts stand in
// braces because a list is evaluated from left to right, and the operands of + in any order that a
// compiler likes.
class Narrator {
 public:
  std::string sentence() {
    switch (random_.below(9)) {
      case 0:
        return say({name(), " ", act(), " the ", thing(), " ", place(), "."});
      case 1:
        return say({pick(kTimes), ", ", name(), " ", act(), a(thing()), " ", reason(), "."});
      case 2:
        return say({"the ", thing(), " ", place(), " was ", pick(kStates), ", ", reason(), "."});
      case 3:
        return say({"\"Was the ", thing(), " ", pick(kStates), "?\" asked ", name(), "."});
      case 4:
        return say({"who ", act(), " the ", thing(), " ", pick(kTimes), "?"});
      case 5:
        return say({name(), " ", act(), " the ", thing(), "; ", name(), " ", act(), " the ",
                    thing(), "."});
      case 6:
        return say({"it was ", name(), " who ", act(), " the ", thing(), " ", place(), " ",
                    pick(kTimes), "."});
      case 7:
        return say({"\"Nobody ", act(), " the ", thing(), " ", place(), "!\" said ", name(), ", ",
                    reason(), "."});
      default:
        return say({place(), " stood", a(thing()), ", ", pick(kStates), " ", pick(kTimes), "."});
    }
  }

  bool paragraph_ends() { return random_.below(6) == 0; }

 private:
  template <size_t n>
  std::string pick(const std::array<string_view, n>& words) {
    return std::string(words[random_.below(n)]);
  }
  std::string name() { return pick(kNames); }
  std::string act() { return pick(kActs); }
  std::string place() { return pick(kPlaces); }
  std::string reason() { return pick(kReasons); }
  std::string thing() { return say_plain({pick(kQualities), " ", pick(kThings)}); }
  static std::string a(const std::string& noun) {
    const bool vowel = std::string_view("aeiou").find(noun[0]) != string_view::npos ||
                       noun.rfind("honest", 0) == 0;
    return (vowel ? " an " : " a ") + noun;
  }
  static std::string say_plain(std::initializer_list<std::string> parts) {
    std::string text;
    for (const std::string& part : parts) text += part;
    return text;
  }
  static std::string say(std::initializer_list<std::string> parts) {
    std::string text = say_plain(parts);
    if (text[0] >= 'a' && text[0] <= 'z') text[0] = static_cast<char>(text[0] - 'a' + 'A');
    return text;
  }

  SplitMix64 random_{0x51C6E1DA};
};

}  // namespace

std::string generated_text(int64_t words) {
  std::string text;
  Narrator narrator;
  for (int64_t written = 0; written < words;) {
    const std::string sentence = narrator.sentence();
    for (const char c : sentence) written += c == ' ' ? 1 : 0;
    ++written;
    text += sentence;
    text += narrator.paragraph_ends() ? "\n\n" : " ";
  }
  if (!text.empty()) text.back() = '\n';
  return text;
}

Haystack generated_haystack() { return Haystack(generated_text(300000), "generated"); }

}  // namespace qkr
