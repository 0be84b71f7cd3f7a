#pragma once
#include <charconv>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "check.h"

// Programs of abc_k::chain: their text read once into steps that call the C++ functions of the ops, no dispatcher between.
// The text is that of abcfx/ops/kernel_chain.py: "op argument argument …; op argument …; return value value …".
namespace abcfx::chain {

using Values = std::vector<std::optional<Tensor>>;

inline const Tensor& value_at(const Values& values, int64_t place) {
  STD_TORCH_CHECK(place >= 0 && place < (int64_t)values.size() && values[place].has_value(),
                  "abc_k::chain: value %", place, " is not there: the program was made for other inputs");
  return *values[place];
}

inline int64_t parse_integer(std::string_view word) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  STD_TORCH_CHECK(error == std::errc() && end == word.data() + word.size(), "abc_k::chain: '", std::string(word),
                  "' is not a whole number");
  return value;
}

inline double parse_float(const std::string& word) {
  double value = 0;
#ifdef __cpp_lib_to_chars
  const char* end = std::from_chars(word.data(), word.data() + word.size(), value).ptr;
#else
  char* end = nullptr;
  value = std::strtod(word.c_str(), &end);
#endif
  STD_TORCH_CHECK(!word.empty() && end == word.data() + word.size(), "abc_k::chain: '", word, "' is not a number");
  return value;
}

inline std::vector<int64_t> parse_integers(std::string_view word) {
  std::vector<int64_t> found;
  while (word != "-" && !word.empty()) {
    const size_t comma = std::min(word.find(','), word.size());
    found.push_back(parse_integer(word.substr(0, comma)));
    word.remove_prefix(std::min(comma + 1, word.size()));
  }
  return found;
}

/// "%12" -> 12, and notes that it is read; "-" -> -1.
inline int64_t parse_place(const std::string& word, std::vector<int64_t>& reads) {
  if (word == "-") return -1;
  STD_TORCH_CHECK(word[0] == '%', "abc_k::chain: expected a value, got '", word, "'");
  reads.push_back(parse_integer(std::string_view(word).substr(1)));
  return reads.back();
}

inline void parse(const std::string& word, int64_t& value) { value = parse_integer(word); }
inline void parse(const std::string& word, bool& value) { value = word == "1"; }
inline void parse(const std::string& word, double& value) { value = parse_float(word); }
inline void parse(const std::string& word, std::vector<int64_t>& value) { value = parse_integers(word); }

/// One argument, by the type that the function takes: kept from its word, and passed in every run.
template <class T>
struct Argument {
  T value;
  Argument(const std::string& word, std::vector<int64_t>&) { parse(word, value); }
  const T& pass(const Values&) const { return value; }
};

template <>
struct Argument<const Tensor&> {
  int64_t place;
  Argument(const std::string& word, std::vector<int64_t>& reads) : place(parse_place(word, reads)) {}
  const Tensor& pass(const Values& values) const { return value_at(values, place); }
};

template <>
struct Argument<const std::optional<Tensor>&> {
  int64_t place;
  inline static const std::optional<Tensor> none;
  Argument(const std::string& word, std::vector<int64_t>& reads) : place(parse_place(word, reads)) {}
  const std::optional<Tensor>& pass(const Values& values) const {
    if (place < 0) return none;
    value_at(values, place);
    return values[place];
  }
};

template <>
struct Argument<StringHandle> {
  std::string value;
  Argument(const std::string& word, std::vector<int64_t>&) : value(word) {}
  StringHandle pass(const Values&) const {  // the op owns what it gets, see Text
    StringHandle handle = nullptr;
    STD_TORCH_CHECK(torch_new_string_handle(value.data(), value.size(), &handle) == AOTI_TORCH_SUCCESS,
                    "abc_k::chain: no memory for a string");
    return handle;
  }
};

inline void store(Values& values, int64_t place, Tensor result) { values[place] = std::move(result); }

template <class... Parts>
void store(Values& values, int64_t place, std::tuple<Parts...> results) {
  std::apply([&](Parts&... part) { ((values[place++] = std::move(part)), ...); }, results);
}

/// A call of one op: it reads values and writes `results` of them, from `first` on.
struct Step {
  std::function<void(Values&)> run;
  std::vector<int64_t> reads, dies;
  int64_t first = 0, results = 1;
};

template <class Result>
constexpr int64_t result_count = 1;
template <class... Parts>
constexpr int64_t result_count<std::tuple<Parts...>> = sizeof...(Parts);

template <class Result, class... Arguments, size_t... I>
Step make_step(Result (*function)(Arguments...), const std::vector<std::string>& words, int64_t first,
               std::index_sequence<I...>) {
  STD_TORCH_CHECK(words.size() == sizeof...(Arguments) + 1, "abc_k::chain: ", words[0], " takes ",
                  sizeof...(Arguments), " arguments, got ", words.size() - 1);
  Step step;
  step.first = first;
  step.results = result_count<Result>;
  const auto arguments =
      std::make_shared<std::tuple<Argument<Arguments>...>>(Argument<Arguments>(words[I + 1], step.reads)...);
  step.run = [function, arguments, first](Values& values) {
    std::apply([&](const auto&... argument) { store(values, first, function(argument.pass(values)...)); }, *arguments);
  };
  return step;
}

/// The maker of steps that call `function`, from the words of a line and the number of the first result.
template <class Result, class... Arguments>
auto maker(Result (*function)(Arguments...)) {
  return [function](const std::vector<std::string>& words, int64_t first) {
    return make_step(function, words, first, std::index_sequence_for<Arguments...>());
  };
}

}  // namespace abcfx::chain
