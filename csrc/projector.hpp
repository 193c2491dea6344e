// Projection onto the orthogonal complement of a growing set of vectors. Free of Python.
#pragma once

#include <cmath>
#include <cstddef>
#include <memory>
#include <vector>

#include "simd.hpp"

namespace nc_fast {

/// What is known of one vector's residual. Copies nothing of the vector until subtraction would lose digits.
struct Residual {
  double length = 0;                 // of the vector
  double squared = 0;                // (residual / length)^2; 0 means the vector lies in the span
  double anchor = 0;                 // `squared` when it was last computed from the residual itself
  std::size_t step = 0;              // how many basis vectors `squared` accounts for
  std::unique_ptr<double[]> vector;  // the residual of the vector at length 1, once `anchor` is below 1

  double ratio() const { return std::sqrt(squared); }
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

/// Measure w, column j of W. The std::domain_error it throws names W and the column.
template <class T>
Residual measure_column(const NullSpaceProjector& projector, const T* w, std::size_t j, std::vector<double>& scratch);

}  // namespace nc_fast
