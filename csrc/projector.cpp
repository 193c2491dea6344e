#include "projector.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "tolerances.hpp"

namespace nc_fast {

namespace {

constexpr double kRankToleranceSquared = kRankTolerance * kRankTolerance;
// Subtracting coefficients cancels digits: below this fraction of its anchor a residual is computed afresh, which keeps
// its relative error near 1e-12, far inside kTieTolerance; and so it is where it may be noise, to be judged once.
constexpr double kRecomputeBelow = 1e-4;
// Sums of squares inside this range have neither overflowed nor lost digits to underflow.
constexpr double kSafeSquareMin = 1e-200;
constexpr double kSafeSquareMax = 1e200;

}  // namespace

NullSpaceProjector::NullSpaceProjector(std::size_t dim, Simd simd) : dim_(dim), kernels_(&kernels_of(simd)) {}

NullSpaceProjector::NullSpaceProjector(std::size_t dim, std::vector<double> basis)
    : dim_(dim), rank_(basis.size() / dim), basis_(std::move(basis)), kernels_(&kernels_of(best_simd())) {}

void NullSpaceProjector::reset() {
  rank_ = 0;
  basis_.clear();
}

template <class T>
Residual NullSpaceProjector::measure(const T* w, std::vector<double>& scratch) const {
  Residual residual;
  residual.squared = residual.anchor = 1;
  scratch.assign(w, w + dim_);
  double* v = scratch.data();
  double squared = 0;
  kernels_->dots(v, 1, dim_, v, &squared);
  if (squared >= kSafeSquareMin && squared <= kSafeSquareMax) {
    residual.length = std::sqrt(squared);
    return residual;
  }
  double largest = 0;
  for (std::size_t i = 0; i < dim_; ++i) {
    if (!std::isfinite(v[i])) throw std::domain_error("vector is not finite");
    largest = std::max(largest, std::abs(v[i]));
  }
  if (largest == 0) {
    residual.squared = residual.anchor = 0;
    return residual;
  }
  const int exponent = std::ilogb(largest);
  for (std::size_t i = 0; i < dim_; ++i) v[i] = std::scalbn(v[i], -exponent);
  kernels_->dots(v, 1, dim_, v, &squared);
  const double scaled_length = std::sqrt(squared);
  residual.length = std::scalbn(scaled_length, exponent);
  residual.vector = std::make_unique<double[]>(dim_);
  for (std::size_t i = 0; i < dim_; ++i) residual.vector[i] = v[i] / scaled_length;
  return residual;
}

double NullSpaceProjector::orthogonalize(double* v, double squared, std::size_t rank) const {
  // A pass leaves eps / ratio of v in the span, so that one suffices where ratio^2 >= 1/2: what is left of the basis's
  // own error does not grow. Otherwise a second pass does ("twice is enough", Kahan; Daniel, Gragg, Kaufman, Stewart).
  for (int pass = 0; pass < 2; ++pass) {
    // A few rows at a time: their second use finds them in the L1 cache.
    for (std::size_t row = 0; row < rank; row += kSharedRows) {
      const std::size_t count = std::min(kSharedRows, rank - row);
      std::array<double, kSharedRows> coefficients;
      kernels_->dots(basis_.data() + row * dim_, count, dim_, v, coefficients.data());
      kernels_->subtract(basis_.data() + row * dim_, coefficients.data(), count, dim_, v);
    }
    const double before = squared;
    kernels_->dots(v, 1, dim_, v, &squared);
    if (squared >= before / 2) break;
  }
  return squared;
}

// Replaces `squared`, known up to residual.step - 1, by that of the residual computed explicitly at residual.step.
template <class T>
void NullSpaceProjector::recompute(const T* w, Residual& residual) const {
  if (!residual.vector) {
    residual.vector = std::make_unique<double[]>(dim_);
    for (std::size_t i = 0; i < dim_; ++i) residual.vector[i] = static_cast<double>(w[i]) / residual.length;
  }
  const double squared = orthogonalize(residual.vector.get(), residual.anchor, residual.step);
  residual.squared = std::min(squared, residual.squared);  // rounding never lets a residual grow
  residual.anchor = residual.squared;
  if (residual.squared <= kRankToleranceSquared) {
    residual.squared = 0;
    residual.vector.reset();
  }
}

template <class T>
void NullSpaceProjector::advance(const T* w, Residual& residual, std::vector<double>& scratch) const {
  while (residual.step < rank_ && residual.squared > 0) {
    const std::size_t count = rank_ - residual.step;
    scratch.resize(std::max(scratch.size(), count));
    const double* basis = basis_.data() + residual.step * dim_;
    const double scale = residual.vector ? 1 : residual.length;
    if (residual.vector) {
      kernels_->dots(basis, count, dim_, residual.vector.get(), scratch.data());
    } else {
      kernels_->dots(basis, count, dim_, w, scratch.data());
    }
    for (std::size_t i = 0; i < count; ++i) {
      const double coefficient = scratch[i] / scale;
      const double squared = residual.squared - coefficient * coefficient;
      ++residual.step;
      // At the rank tolerance too: whether a ratio counts as 0 is decided on the residual itself, nowhere else.
      if (squared < kRecomputeBelow * residual.anchor || squared <= kRankToleranceSquared) {
        recompute(w, residual);
        break;  // the coefficients left were those of the replaced vector
      }
      residual.squared = squared;
    }
  }
  residual.step = rank_;  // a vector in the span stays there
}

template <class T>
double NullSpaceProjector::add(const T* w) {
  std::vector<double> scratch;
  Residual residual = measure(w, scratch);
  if (residual.squared == 0) return 0;
  residual.step = rank_;
  recompute(w, residual);
  if (residual.squared == 0) return 0;
  const double ratio = residual.ratio();
  double* v = residual.vector.get();
  for (std::size_t i = 0; i < dim_; ++i) v[i] /= ratio;
  basis_.insert(basis_.end(), v, v + dim_);
  ++rank_;
  return ratio * residual.length;
}

template <class T>
Residual measure_column(const NullSpaceProjector& projector, const T* w, std::size_t j, std::vector<double>& scratch) {
  try {
    return projector.measure(w, scratch);
  } catch (const std::domain_error&) {
    throw std::domain_error("W: expected finite values, got NaN or infinity in column " + std::to_string(j));
  }
}

#define NC_FAST_INSTANTIATE(T)                                                                \
  template double NullSpaceProjector::add(const T*);                                          \
  template Residual NullSpaceProjector::measure(const T*, std::vector<double>&) const;        \
  template void NullSpaceProjector::advance(const T*, Residual&, std::vector<double>&) const; \
  template Residual measure_column(const NullSpaceProjector&, const T*, std::size_t, std::vector<double>&);
NC_FAST_INSTANTIATE(float)
NC_FAST_INSTANTIATE(double)
#undef NC_FAST_INSTANTIATE

}  // namespace nc_fast
