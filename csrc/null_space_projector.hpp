// Projection onto the orthogonal complement of a growing set of vectors, and the greedy selection built on it.
// Free of Python. Needs gcc or clang; x86 gets AVX2 where the machine has it, with the same bits as without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace nc_fast {

// A residual at most this fraction of its vector is rounding noise: the vector lies in the span and its ratio is 0.
constexpr double kRankTolerance = 1e-6;
// Gains this close, relative to the best, are tied; the lowest index wins, whatever the rounding.
constexpr double kTieTolerance = 1e-9;

enum class Simd { kBaseline, kAvx2Fma };

/// The widest level this machine runs.
Simd best_simd();

struct Kernels;

/// (D, M) numbers in any memory layout, columns are vectors; strides in bytes, of any sign.
template <class T>
struct MatrixView {
  const char* data;
  std::ptrdiff_t row_stride;
  std::ptrdiff_t column_stride;
  std::size_t rows;
  std::size_t columns;

  const char* column(std::size_t j) const { return data + static_cast<std::ptrdiff_t>(j) * column_stride; }
  /// Whether a column can be read where it is, as a plain array.
  bool columns_contiguous() const;
};

/// What is known of one vector's residual. Copies nothing of the vector until subtraction would lose digits.
struct Residual {
  double length = 0;                 // of the vector
  double squared = 0;                // (residual / length)^2; 0 means the vector lies in the span
  double anchor = 0;                 // `squared` when it was last computed from the residual itself
  std::size_t step = 0;              // how many basis vectors `squared` accounts for
  std::unique_ptr<double[]> vector;  // the residual of the vector at length 1, once `anchor` is below 1

  double ratio() const;
};

/// An orthonormal basis q_1..q_rank in float64; P = I - sum of q q^T projects onto its orthogonal complement.
///
/// The projector is never formed: the rank-one update P <- P - q q^T appends q, and ||P w||^2 is ||w||^2 minus the
/// squares of w's coefficients, which can be continued from any earlier rank. Every dot product has one fixed order
/// of summation, so that a residual has the same bits however it got to the present rank.
class NullSpaceProjector {
 public:
  explicit NullSpaceProjector(std::size_t dim, Simd simd = best_simd());
  /// Continue from an orthonormal basis, (basis.size() / dim, dim) row by row.
  NullSpaceProjector(std::size_t dim, std::vector<double> basis);

  std::size_t dim() const { return dim_; }
  std::size_t rank() const { return rank_; }
  const std::vector<double>& basis() const { return basis_; }
  void reset();

  /// Extend the span by w; returns ||P w|| from before. A w inside the span changes nothing and returns 0.
  template <class T>
  double add(const T* w);

  /// Measure w, against an empty basis. Throws std::domain_error when w is not finite.
  template <class T>
  Residual measure(const T* w, std::vector<double>& scratch) const;

  /// Bring a residual of w up to the present rank.
  template <class T>
  void advance(const T* w, Residual& residual, std::vector<double>& scratch) const;

 private:
  template <class T>
  void recompute(const T* w, Residual& residual) const;
  /// Takes the first `rank` basis vectors out of v, of length^2 `squared`; returns what its length^2 is then.
  double orthogonalize(double* v, double squared, std::size_t rank) const;

  std::size_t dim_;
  std::size_t rank_ = 0;
  std::vector<double> basis_;
  const Kernels* kernels_;
};

/// Calls `visit(j, residual)` for every column, in order, with the residual at the projector's present rank.
template <class T>
void visit_residuals(const NullSpaceProjector& projector, const MatrixView<T>& W,
                     const std::function<void(std::size_t, const Residual&)>& visit);

struct GreedyOptions {
  std::size_t threads = 1;
  bool lazy = true;  // false: project every candidate at every pick; the same picks and bits, for tests
  Simd simd = best_simd();
};

struct GreedyResult {
  std::vector<std::int64_t> indices;  // pools in order, within a pool in order of picking
  std::vector<double> gains;          // at the moment of picking
  std::int64_t restarts = 0;          // how often a pool's rank was exhausted and its span emptied
};

/// Pick quota[p] columns of every pool p, each time the one of the highest gain in the null space of the pool's picks.
///
/// score and pool have W.columns entries; pool is -1 for a column that is not eligible; a quota is at most the pool's
/// members (all of this unchecked: the caller knows the names to use in an error). `poll(done)` is called from the
/// calling thread about every 50 ms; what it throws stops the workers within milliseconds and is thrown on.
/// Extra memory: one copy, in W's type, of the columns that are evaluated or are likely to be (none where columns are
/// contiguous), 8 D bytes for every column whose residual has fallen below 1 % of its length, and 12 D a basis vector.
template <class T>
GreedyResult greedy_select(const MatrixView<T>& W, const double* score, const std::int64_t* pool,
                           const std::vector<std::size_t>& quota, const GreedyOptions& options,
                           const std::function<void(std::size_t)>& poll);

}  // namespace nc_fast
