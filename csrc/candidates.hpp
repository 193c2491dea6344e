// The candidates of one group and their gains in the null space of its picks, exact or bounded from above.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "columns.hpp"
#include "projector.hpp"
#include "simd.hpp"
#include "task_runner.hpp"
#include "tolerances.hpp"

namespace nc_fast {

/// What a candidate adds, whose part outside the span is `ratio` of its length. Never grows when `ratio` shrinks.
inline double gain_of(double score, double ratio) {
  if (score >= 0) return score * ratio;
  return ratio > 0 ? score / ratio : -std::numeric_limits<double>::infinity();
}

/// Upper bounds of ratios from float32 products, at a third of the price of the exact ones.
class RatioBounds {
 public:
  struct Bound {
    double squared = 0;    // of (residual / length)^2, up to ...
    std::size_t step = 0;  // ... this basis vector
  };

  RatioBounds(std::size_t dim, Simd simd)
      : dim_(dim),
        kernels_(kernels_of(simd)),
        // Roundings that an element goes through: as a product's factor and result, at most dim / 32 additions into its
        // lane and 10 that join lanes and tail. The sum of |q_i w_i| is at most the length of w.
        error_((static_cast<double>(dim) / 32 + 16) * std::numeric_limits<float>::epsilon() / 2) {}

  void append(const double* q) {
    for (std::size_t i = 0; i < dim_; ++i) basis_.push_back(static_cast<float>(q[i]));
  }

  void reset() { basis_.clear(); }

  /// Whether a bound can be tightened, and that saves float64 products.
  bool worth_tightening(const Bound& bound, const Residual& residual) const {
    const std::size_t rank = basis_.size() / dim_;
    // In this range of lengths w and its products stay so far inside float32's that only rounding matters.
    const bool in_range = residual.length > 1e-25 && residual.length < 1e35;
    return bound.step < rank && rank - residual.step >= kWorthBounding && !residual.vector && in_range;
  }

  /// Tighten a bound on w, of this length, by the part of the basis that it does not account for yet.
  void tighten(const float* w, double length, Bound& bound) {
    const std::size_t rank = basis_.size() / dim_;
    products_.resize(rank - bound.step);
    kernels_.bounding_dots(basis_.data() + bound.step * dim_, products_.size(), dim_, w, products_.data());
    bound.step = rank;
    for (const float product : products_) {
      const double coefficient = std::max(std::abs(static_cast<double>(product)) / length - error_, 0.0);
      const double next = bound.squared - coefficient * coefficient;
      if (next < kLowest) return;
      bound.squared = next;
    }
  }

 private:
  static constexpr std::size_t kWorthBounding = 4;  // basis vectors to catch up with
  static constexpr double kLowest = 1e-2;  // below, what the errors add up to is no longer small beside the bound

  std::size_t dim_;
  const Kernels& kernels_;
  double error_;
  std::vector<float> basis_;
  std::vector<float> products_;
};

/// The members of one group, numbered from 0, and the span of those picked.
template <class T>
class Candidates {
 public:
  Candidates(const Columns<T>& columns, std::size_t dim, const std::vector<std::size_t>& members, const double* score,
             Simd simd, const TaskRunner& runner)
      : columns_(columns), runner_(runner), projector_(dim, simd), bounds_(dim, simd), candidates_(members.size()) {
    for (std::size_t i = 0; i < members.size(); ++i) {
      candidates_[i].column = members[i];
      candidates_[i].score = score[members[i]];
    }
  }

  std::size_t size() const { return candidates_.size(); }
  std::size_t column(std::size_t i) const { return candidates_[i].column; }
  bool picked(std::size_t i) const { return candidates_[i].picked; }

  /// The gain while the span is empty, known without a look at the vector.
  double gain_alone(std::size_t i) { return gain_of(candidates_[i].score, 1); }

  /// The gain now: computed, where the span has grown since it last was.
  double gain(std::size_t i) {
    update(candidates_[i]);
    return gain_of(candidates_[i].score, candidates_[i].residual.ratio());
  }

  /// A tighter upper bound of the gain than the last one, from float32 products; none where that saves no float64 ones.
  std::optional<double> tighter_bound(std::size_t i) {
    if constexpr (kBounded) {
      Candidate& candidate = candidates_[i];
      load(candidate);
      if (!bounds_.worth_tightening(candidate.bound, candidate.residual)) return std::nullopt;
      runner_.check_stopped();
      bounds_.tighten(candidate.vector, candidate.residual.length, candidate.bound);
      // The slack covers the rounding of the exact ratio, so that no bound ever hides a gain.
      return gain_of(candidate.score, std::sqrt(candidate.bound.squared * (1 + kTieTolerance)));
    } else {
      static_cast<void>(i);
      return std::nullopt;
    }
  }

  /// Whether a candidate, of known gain, has no part outside the span.
  bool in_span(std::size_t i) const { return candidates_[i].residual.squared == 0; }

  /// Whether all that are left lie in the span, which is not empty. One that lies in it stays: the search moves on.
  bool exhausted() {
    if (projector_.rank() == 0) return false;
    for (; first_outside_ < candidates_.size(); ++first_outside_) {
      Candidate& candidate = candidates_[first_outside_];
      if (candidate.picked) continue;
      update(candidate);
      if (candidate.residual.squared > 0) return false;
    }
    return true;
  }

  /// Extend the span by a candidate of known gain, which then is a candidate no more.
  void pick(std::size_t i) {
    Candidate& candidate = candidates_[i];
    const std::size_t rank = projector_.rank();
    if (!in_span(i)) projector_.add(candidate.vector);
    if constexpr (kBounded) {
      if (projector_.rank() > rank) bounds_.append(projector_.basis().data() + rank * projector_.dim());
    }
    candidate.picked = true;
    candidate.vector = nullptr;
    candidate.own.reset();
    candidate.residual.vector.reset();
  }

  void empty_span() {
    projector_.reset();
    bounds_.reset();
    first_outside_ = 0;
    for (Candidate& candidate : candidates_) {
      if (candidate.vector) measure(candidate);
    }
  }

 private:
  static constexpr bool kBounded = std::is_same_v<T, float>;  // a float64 vector would have to be converted first

  struct Candidate {
    std::size_t column = 0;
    double score = 0;
    bool picked = false;
    const T* vector = nullptr;  // null until first evaluated
    std::unique_ptr<T[]> own;   // backs `vector` where Columns had no copy
    Residual residual;
    RatioBounds::Bound bound;
  };

  void measure(Candidate& candidate) {
    candidate.residual = measure_column(projector_, candidate.vector, candidate.column, scratch_);
    candidate.bound = {candidate.residual.squared, 0};
  }

  void load(Candidate& candidate) {
    if (candidate.vector) return;
    runner_.check_stopped();
    candidate.vector = columns_.get(candidate.column, candidate.own);
    measure(candidate);
  }

  void update(Candidate& candidate) {
    load(candidate);
    if (candidate.residual.step == projector_.rank()) return;
    runner_.check_stopped();
    projector_.advance(candidate.vector, candidate.residual, scratch_);
    candidate.bound = {candidate.residual.squared, candidate.residual.step};
  }

  const Columns<T>& columns_;
  const TaskRunner& runner_;
  NullSpaceProjector projector_;
  RatioBounds bounds_;
  std::vector<Candidate> candidates_;
  std::vector<double> scratch_;
  std::size_t first_outside_ = 0;
};

}  // namespace nc_fast
