// Drives the projector and the greedy loop from C++ alone, for sanitizers and valgrind; see
// tests/hardening/sanitize.py. Prints what went wrong and fails, or prints one line. With an argument it does one thing
// wrong on purpose.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "columns.hpp"
#include "greedy.hpp"
#include "projector.hpp"
#include "simd.hpp"

namespace {

using nc_fast::GreedyOptions;
using nc_fast::GreedyResult;
using nc_fast::MatrixView;
using nc_fast::NullSpaceProjector;
using nc_fast::Residual;
using nc_fast::Simd;

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "stress: %s\n", what.c_str());
  std::exit(1);
}

enum class Layout { kRows, kColumns, kReversed, kUnaligned };
constexpr Layout kLayouts[] = {Layout::kRows, Layout::kColumns, Layout::kReversed, Layout::kUnaligned};

// A (rows, columns) matrix in a buffer of exactly its size, so that a read past either end is an error.
template <class T>
class Matrix {
 public:
  Matrix(std::size_t rows, std::size_t columns, Layout layout, unsigned seed) {
    const auto item = static_cast<std::ptrdiff_t>(sizeof(T));
    const auto height = static_cast<std::ptrdiff_t>(rows), width = static_cast<std::ptrdiff_t>(columns);
    const bool unaligned = layout == Layout::kUnaligned;
    buffer_.resize(rows * columns * sizeof(T) + (unaligned ? 1 : 0));
    view_ = {buffer_.data() + (unaligned ? 1 : 0), width * item, item, rows, columns};
    if (layout == Layout::kColumns) view_.row_stride = item, view_.column_stride = height * item;
    if (layout == Layout::kReversed) {
      view_.data += (height * width - 1) * item;
      view_.row_stride = -width * item;
      view_.column_stride = -item;
    }
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (std::size_t j = 0; j < columns; ++j) {
      const double scale = j % 11 == 10 ? 0 : std::pow(10.0, static_cast<double>(j % 7) - 3);
      for (std::size_t d = 0; d < rows; ++d) set(d, j, static_cast<T>(scale * normal(random)));
    }
    for (std::size_t j = 5; j < columns; j += 5) {  // duplicates: their residuals vanish
      for (std::size_t d = 0; d < rows; ++d) set(d, j, get(d, j - 5));
    }
  }

  T get(std::size_t d, std::size_t j) const {
    T value;
    std::memcpy(&value, at(d, j), sizeof value);
    return value;
  }
  void set(std::size_t d, std::size_t j, T value) {
    std::memcpy(buffer_.data() + (at(d, j) - buffer_.data()), &value, sizeof value);
  }
  std::vector<T> column(std::size_t j) const {
    std::vector<T> values;
    for (std::size_t d = 0; d < view_.rows; ++d) values.push_back(get(d, j));
    return values;
  }
  const MatrixView<T>& view() const { return view_; }

 private:
  const char* at(std::size_t d, std::size_t j) const {
    return view_.column(j) + static_cast<std::ptrdiff_t>(d) * view_.row_stride;
  }

  std::vector<char> buffer_;
  MatrixView<T> view_{};
};

struct Pools {
  std::vector<double> score;
  std::vector<std::int64_t> group;
  std::vector<std::size_t> quota;
  std::vector<std::int64_t> given;

  Pools(std::size_t columns, std::size_t count, double share) : score(columns), group(columns), quota(count, 0) {
    for (std::size_t j = 0; j < columns; ++j) {
      score[j] = std::sin(static_cast<double>(j));
      group[j] = static_cast<std::int64_t>(j % (count + 1)) - 1;
      if (group[j] >= 0) ++quota[static_cast<std::size_t>(group[j])];
    }
    for (std::size_t& members : quota) members = static_cast<std::size_t>(share * static_cast<double>(members));
  }
};

void no_poll(std::size_t) {}

template <class T>
GreedyResult greedy(const Matrix<T>& W, const Pools& groups, const GreedyOptions& options,
                    const std::function<void(std::size_t)>& poll = no_poll) {
  return nc_fast::greedy_select(W.view(), groups.score.data(), groups.group.data(), groups.quota, groups.given, options,
                                poll);
}

bool same(const GreedyResult& a, const GreedyResult& b) {
  return a.indices == b.indices && a.gains == b.gains && a.restarts == b.restarts;
}

template <class T>
void selections_agree(std::size_t rows, std::size_t columns, std::size_t pool_count, double share) {
  const Pools groups(columns, pool_count, share);
  const GreedyResult expected = greedy(Matrix<T>(rows, columns, Layout::kRows, 1), groups, {});
  Pools begun = groups;
  begun.given.assign(expected.indices.begin(),
                     expected.indices.begin() + static_cast<std::ptrdiff_t>(expected.indices.size() / 2));
  for (const Layout layout : kLayouts) {
    const Matrix<T> W(rows, columns, layout, 1);
    for (const GreedyOptions& options : {GreedyOptions{1, true}, GreedyOptions{3, true}, GreedyOptions{2, false},
                                         GreedyOptions{2, true, Simd::kBaseline}}) {
      require(same(greedy(W, groups, options), expected), "layout, threads, laziness or SIMD level changed the picks");
      require(same(greedy(W, begun, options), expected), "half of the picks given changed the others");
    }
  }
}

// Fills a projector of its own, and selects from a matrix that other threads select from too.
template <class T>
std::vector<double> residuals_of(const Matrix<T>& W, const Pools& groups, const GreedyResult& expected) {
  NullSpaceProjector projector(W.view().rows);
  for (const std::int64_t pick : expected.indices) {
    projector.add(W.column(static_cast<std::size_t>(pick)).data());
    if (projector.rank() == projector.dim()) projector.reset();
  }
  require(same(greedy(W, groups, {2}), expected), "a selection beside others changed its picks");
  const NullSpaceProjector continued(projector.dim(), projector.basis());
  std::vector<double> ratios;
  std::vector<double> scratch;
  W.view().visit_columns([&](std::size_t j, const T* w) {
    Residual residual = nc_fast::measure_column(continued, w, j, scratch);
    continued.advance(w, residual, scratch);
    ratios.push_back(residual.ratio());
  });
  return ratios;
}

template <class T>
void threads_agree(std::size_t rows, std::size_t columns) {
  const Matrix<T> W(rows, columns, Layout::kRows, 2);
  const Pools groups(columns, 4, 0.4);
  const GreedyResult expected = greedy(W, groups, {});
  std::vector<std::vector<double>> found(4);
  std::vector<std::thread> threads;
  for (auto& ratios : found) threads.emplace_back([&] { ratios = residuals_of(W, groups, expected); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& ratios : found) require(ratios == found[0], "threads disagree");
}

template <class Exception, class Function>
void require_throws(Function&& function, const std::string& what) {
  try {
    function();
  } catch (const Exception&) {
    return;
  }
  require(false, what);
}

template <class T>
void errors_reach_the_caller() {
  Matrix<T> W(300, 5000, Layout::kRows, 3);  // longer than the 50 ms to the first poll
  const Pools groups(5000, 3, 1);
  const auto interrupt = [](std::size_t) { throw std::runtime_error("stop"); };
  require_throws<std::runtime_error>([&] { greedy(W, groups, {2, false}, interrupt); }, "poll's error was lost");
  W.set(7, 1201, static_cast<T>(INFINITY));
  require_throws<std::domain_error>([&] { greedy(W, groups, {2}); }, "infinity went unnoticed on two threads");
  require_throws<std::domain_error>([&] { greedy(W, groups, {1}); }, "infinity went unnoticed on one thread");
}

// Around the lanes (16, 32) and the columns of a gather (64).
constexpr std::size_t kRows[] = {1, 3, 16, 31, 33};
constexpr std::size_t kColumns[] = {1, 2, 63, 65, 130};

template <class T>
void run() {
  for (const std::size_t rows : kRows) {
    for (const std::size_t columns : kColumns) {
      selections_agree<T>(rows, columns, 1, 1);
      selections_agree<T>(rows, columns, 3, 0.5);
    }
  }
  selections_agree<T>(97, 1009, 4, 0.4);  // large enough for threads
  threads_agree<T>(97, 1009);
  errors_reach_the_caller<T>();
}

// One defect of the kind named: a tool that does not object to it is not at work.
void plant(const std::string& defect) {
  std::vector<int> values(1, 1);
  int* const outside = values.data() + values.size();
  if (defect == "overrun") std::printf("%d\n", *outside);
  if (defect == "overflow") std::printf("%d\n", values[0] + std::numeric_limits<int>::max());
  if (defect == "uninitialised") {
    const std::unique_ptr<int[]> unset(new int[1]);
    if (unset[0] == 1) std::puts("one");
  }
  if (defect == "leak") std::printf("%p\n", static_cast<void*>(new int(1)));
  if (defect == "race") {
    std::thread other([&] { ++values[0]; });
    ++values[0];
    other.join();
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) {
    plant(arguments[1]);
    return 0;
  }
  run<float>();
  run<double>();
  std::puts("stress: ok");
}
