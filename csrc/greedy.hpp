// Greedy selection in the null space of what is picked. Free of Python.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "columns.hpp"
#include "simd.hpp"

namespace nc_fast {

struct GreedyOptions {
  std::size_t threads = 1;
  bool lazy = true;  // false: project every candidate at every pick; the same picks and bits, for tests
  Simd simd = best_simd();
};

struct GreedyResult {
  std::vector<std::int64_t> indices;  // groups in order, within a group in order of picking
  std::vector<double> gains;          // at the moment of picking
  std::int64_t restarts = 0;          // how often a group's rank was exhausted and its span emptied
};

/// Pick quota[g] columns of every group g, each time the one of the highest gain in the null space of the group's
/// picks; `given` columns are the first picks of their groups, in their order.
///
/// score and group have W.columns entries; group is -1 for a column that is not eligible; a quota is at most the
/// group's members; given columns are distinct, of groups, and at most a group's quota (all of this unchecked: the
/// caller knows the names to use in an error). `poll(done)` is called from
/// the calling thread about every 50 ms; what it throws stops the workers within milliseconds and is thrown on. Extra
/// memory: one copy, in W's type, of the columns that are evaluated or are likely to be (none where columns are
/// contiguous), 8 D bytes for every column whose residual has fallen below 1 % of its length, and 12 D a basis vector.
template <class T>
GreedyResult greedy_select(const MatrixView<T>& W, const double* score, const std::int64_t* group,
                           const std::vector<std::size_t>& quota, const std::vector<std::int64_t>& given,
                           const GreedyOptions& options, const std::function<void(std::size_t)>& poll);

}  // namespace nc_fast
