#include "client/eval/needle.h"

#include <set>

#include "base/check.h"
#include "fmt/format.h"

namespace tributary {
namespace {

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const size_t end = std::min(text.find(' '), text.size());
    words.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return words;
}

}  // namespace

const std::string_view kNeedleAdjectives =
    "amber ancient arctic azure bitter blazing bold brave bright bronze calm clever copper coral "
    "cosmic crimson "
    "crystal curious daring dark distant dusty eager early emerald faint fancy fierce flying "
    "frozen gentle giant "
    "gilded golden grand granite green happy hidden hollow honest humble icy idle indigo iron "
    "ivory jade jolly "
    "keen lazy little lonely loud lucky lunar marble mellow mighty misty modest noble olive orange "
    "pale patient "
    "polar proud purple quick quiet rapid rare royal ruby rusty sacred scarlet secret shy silent "
    "silver sleepy "
    "smoky snowy solar steady stormy sunny swift tame tidy tiny velvet violet wandering warm white "
    "wild wise "
    "yellow young";

const std::string_view kNeedleNouns =
    "anchor antelope arrow badger bear beaver bison bridge buffalo camel candle canyon castle "
    "cedar cheetah cobra "
    "compass condor cougar coyote crane cricket dolphin dragon eagle ember falcon ferret finch "
    "forest fox gazelle "
    "glacier goose hammer harbor hare hawk hedgehog heron hornet horse island jackal jaguar "
    "kestrel kettle koala "
    "lantern leopard lion lizard llama lobster lynx magpie mammoth marten meadow mirror moose "
    "mountain newt "
    "ocelot octopus orchid otter owl panda panther parrot pelican penguin pigeon piper planet "
    "prairie puffin "
    "python rabbit raven river robin salmon shark sparrow spider squirrel stallion stork swan "
    "thunder tiger "
    "toucan tower turtle viper walrus whale willow wolf wombat zebra";

std::string Needle::Stem() const { return fmt::format("The secret code of {} is ", name); }
std::string Needle::Answer() const { return fmt::format("{}.", code); }
std::string Needle::Sentence() const { return Stem() + Answer(); }
std::string Needle::Question() const { return fmt::format("\n{}", Stem()); }

std::vector<Needle> DrawNeedles(size_t count, EvalRandom& random) {
  const std::vector<std::string_view> adjectives = SplitWords(kNeedleAdjectives);
  const std::vector<std::string_view> nouns = SplitWords(kNeedleNouns);
  TRIBUTARY_CHECK_LE(count, adjectives.size() * nouns.size());
  std::set<uint64_t> taken;
  std::vector<Needle> needles;
  while (needles.size() < count) {
    const uint64_t pick = random.Below(adjectives.size() * nouns.size());
    if (!taken.insert(pick).second) continue;
    Needle needle;
    needle.name = adjectives[pick / nouns.size()];
    needle.name += " ";
    needle.name += nouns[pick % nouns.size()];
    for (int digit = 0; digit < kNeedleCodeDigits; ++digit) {
      needle.code.push_back(static_cast<char>('0' + random.Below(10)));
    }
    needles.push_back(std::move(needle));
  }
  return needles;
}

}  // namespace tributary
