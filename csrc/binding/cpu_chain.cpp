#include <map>
#include <mutex>
#include <shared_mutex>
#include <sstream>

#include "chain.h"
#include "ops.h"

// Several ops as one: what a call costs between Python and a kernel is paid once, not for every kernel.
namespace abcfx {
namespace chain {
namespace {

/// The same memory with other sizes and strides, its first element `offset` further on. Views are made here and not by
/// aten's ops, since those go through the dispatcher.
Tensor view_of(const Tensor& input, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides,
               int64_t offset) {
  AtenTensorHandle handle = nullptr;
  STD_TORCH_CHECK(aoti_torch__reinterpret_tensor(input.get(), (int64_t)sizes.size(), sizes.data(), strides.data(),
                                                 offset, &handle) == AOTI_TORCH_SUCCESS,
                  "abc_k::chain: cannot make a view of shape ", shape_text(input));
  return Tensor(handle);
}

/// As aten::permute: y.shape[i] = x.shape[order[i]].
Tensor permute(const Tensor& input, std::vector<int64_t> order) {
  STD_TORCH_CHECK((int64_t)order.size() == input.dim(), "abc_k::chain: an order of ", order.size(),
                  " dimensions, got shape ", shape_text(input));
  std::vector<int64_t> sizes, strides;
  for (const int64_t given : order) {
    const int64_t axis = given < 0 ? given + input.dim() : given;
    STD_TORCH_CHECK(axis >= 0 && axis < input.dim(), "abc_k::chain: there is no dimension ", given, " of shape ",
                    shape_text(input));
    sizes.push_back(input.size(axis));
    strides.push_back(input.stride(axis));
  }
  return view_of(input, sizes, strides, 0);
}

/// As aten::slice: indices start, start + step, … below end along one dimension; negative ones count from its end.
Tensor slice(const Tensor& input, int64_t dim, int64_t start, int64_t end, int64_t step) {
  const int64_t axis = dim < 0 ? dim + input.dim() : dim;
  STD_TORCH_CHECK(axis >= 0 && axis < input.dim() && step > 0, "abc_k::chain: cannot slice dimension ", dim,
                  " in steps of ", step, " of shape ", shape_text(input));
  std::vector<int64_t> sizes(input.sizes().begin(), input.sizes().end());
  std::vector<int64_t> strides(input.strides().begin(), input.strides().end());
  const int64_t size = sizes[axis];
  const auto place = [size](int64_t index) { return std::clamp<int64_t>(index < 0 ? index + size : index, 0, size); };
  const int64_t first = place(start), last = std::max(place(end), first), offset = first * strides[axis];
  sizes[axis] = ceil_div(last - first, step);
  strides[axis] *= step;
  return view_of(input, sizes, strides, offset);
}

using Maker = std::function<Step(const std::vector<std::string>&, int64_t)>;

const std::map<std::string, Maker>& makers() {
  static const std::map<std::string, Maker> table = {
      {"permute", maker(&permute)},
      {"slice", maker(&slice)},
      {"pack_rows", maker(&pack_rows)},
      {"pack_image", maker(&pack_image)},
      {"max_pool_bits", maker(&max_pool_bits)},
      {"linear", maker(&linear)},
      {"conv2d", maker(&conv2d)},
      {"linear_emit", maker(&linear_emit)},
      {"conv2d_emit", maker(&conv2d_emit)},
  };
  return table;
}

class Program {
 public:
  Program(const std::string& text, int64_t inputs) : values_(inputs) {
    std::istringstream steps(text);
    for (std::string step; std::getline(steps, step, ';');) {
      std::istringstream split(step);
      std::vector<std::string> words;
      for (std::string word; split >> word;) words.push_back(word);
      if (words.empty()) continue;
      if (words[0] == "return") {
        for (size_t i = 1; i < words.size(); ++i) parse_place(words[i], returned_);
        continue;
      }
      const auto found = makers().find(words[0]);
      STD_TORCH_CHECK(found != makers().end(), "abc_k::chain: no op '", words[0], "' can be part of a chain");
      steps_.push_back(found->second(words, values_));
      values_ += steps_.back().results;
    }
    note_deaths();
  }

  std::vector<Tensor> run(std::vector<Tensor> inputs) const {
    Values values(values_);
    std::move(inputs.begin(), inputs.end(), values.begin());
    for (const Step& step : steps_) {
      step.run(values);
      for (const int64_t place : step.dies) values[place].reset();
    }
    std::vector<Tensor> results;
    for (const int64_t place : returned_) results.push_back(value_at(values, place));
    return results;
  }

 private:
  int64_t values_;  ///< how many: the inputs, then the results of all steps
  std::vector<Step> steps_;
  std::vector<int64_t> returned_;

  /// A value that is not returned is let go after the last step that reads it, or that made it if none does.
  void note_deaths() {
    std::vector<Step*> last(values_, nullptr);
    for (Step& step : steps_) {
      for (int64_t i = 0; i < step.results; ++i) last[step.first + i] = &step;
      for (const int64_t place : step.reads) {
        STD_TORCH_CHECK(place >= 0 && place < step.first, "abc_k::chain: value %", place, " is read before it is made");
        last[place] = &step;
      }
    }
    for (const int64_t place : returned_) {
      STD_TORCH_CHECK(place >= 0 && place < values_, "abc_k::chain: value %", place, " is returned but never made");
      last[place] = nullptr;
    }
    for (int64_t place = 0; place < values_; ++place) {
      if (last[place]) last[place]->dies.push_back(place);
    }
  }
};

/// The program of this text, read at its first use and kept: a compiled graph brings the same text in every call.
std::shared_ptr<const Program> program_of(const std::string& text, int64_t inputs) {
  static std::shared_mutex mutex;
  static std::map<std::pair<int64_t, std::string>, std::shared_ptr<const Program>> known;
  const std::pair<int64_t, std::string> key(inputs, text);
  {
    const std::shared_lock lock(mutex);
    if (const auto found = known.find(key); found != known.end()) return found->second;
  }
  auto made = std::make_shared<const Program>(text, inputs);
  const std::unique_lock lock(mutex);
  return known.emplace(key, std::move(made)).first->second;
}

}  // namespace
}  // namespace chain

std::vector<Tensor> chain_kernels(std::vector<Tensor> inputs, StringHandle program) {
  const Text text(program);
  return chain::program_of(text.str(), (int64_t)inputs.size())->run(std::move(inputs));
}

}  // namespace abcfx
