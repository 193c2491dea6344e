#include "null_space_projector.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <iterator>
#include <limits>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#define NC_FAST_X86 1
#endif

namespace nc_fast {

namespace {

constexpr double kRankToleranceSquared = kRankTolerance * kRankTolerance;
// Subtracting coefficients cancels digits: below this fraction of its anchor a residual is computed afresh, which keeps
// its relative error near 1e-12, far inside kTieTolerance; and so it is where it may be noise, to be judged once.
constexpr double kRecomputeBelow = 1e-4;
// Sums of squares inside this range have neither overflowed nor lost digits to underflow.
constexpr double kSafeSquareMin = 1e-200;
constexpr double kSafeSquareMax = 1e200;

// Every dot product adds element i to lane i mod kLanes and then halves the lanes, at every SIMD level.
constexpr std::size_t kLanes = 16;
// Basis vectors that share one pass over a vector: as many as registers hold the lanes of.
constexpr std::size_t kSharedRows = 3;

template <class T, std::size_t N>
T sum_lanes(std::array<T, N>& lanes) {
  for (std::size_t half = N / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// The float32 products only bound a ratio, so their order of summation, and fused multiply-adds, are free.
float dot_float_baseline(const float* q, const float* w, std::size_t n) {
  constexpr std::size_t kFloatLanes = 32;
  std::array<float, kFloatLanes> lanes{};
  const std::size_t whole = n - n % kFloatLanes;
  for (std::size_t i = 0; i < whole; i += kFloatLanes) {
    for (std::size_t l = 0; l < kFloatLanes; ++l) lanes[l] += q[i + l] * w[i + l];
  }
  for (std::size_t i = whole; i < n; ++i) lanes[i - whole] += q[i] * w[i];
  return sum_lanes(lanes);
}

void dots_float_baseline(const float* basis, std::size_t count, std::size_t n, const float* w, float* out) {
  for (std::size_t row = 0; row < count; ++row) out[row] = dot_float_baseline(basis + row * n, w, n);
}

template <class T>
void add_tail(const double* q, const T* w, std::size_t from, std::size_t n, std::array<double, kLanes>& lanes) {
  for (std::size_t i = from; i < n; ++i) lanes[i - from] += q[i] * static_cast<double>(w[i]);
}

template <class T>
void dots_baseline(const double* basis, std::size_t count, std::size_t n, const T* w, double* out) {
  const std::size_t whole = n - n % kLanes;
  for (std::size_t row = 0; row < count; ++row) {
    const double* q = basis + row * n;
    std::array<double, kLanes> lanes{};
    for (std::size_t i = 0; i < whole; i += kLanes) {
      for (std::size_t l = 0; l < kLanes; ++l) lanes[l] += q[i + l] * static_cast<double>(w[i + l]);
    }
    add_tail(q, w, whole, n, lanes);
    out[row] = sum_lanes(lanes);
  }
}

void subtract_baseline(const double* basis, const double* coefficients, std::size_t count, std::size_t n, double* v) {
  for (std::size_t row = 0; row < count; ++row) {
    for (std::size_t i = 0; i < n; ++i) v[i] -= coefficients[row] * basis[row * n + i];
  }
}

#ifdef NC_FAST_X86
#define NC_FAST_AVX2 __attribute__((target("avx2,fma")))

NC_FAST_AVX2 inline __m256d load4(const double* p) { return _mm256_loadu_pd(p); }
NC_FAST_AVX2 inline __m256d load4(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }

// `Rows` basis vectors share each load and conversion of w. Products are rounded before they are added, as the baseline
// rounds them; on the machines measured the loads of q set the pace, so that a fused multiply-add would gain nothing.
template <std::size_t Rows, class T>
NC_FAST_AVX2 inline void dots_rows_avx2(const double* basis, std::size_t n, const T* w, double* out) {
  const std::size_t whole = n - n % kLanes;
  __m256d sums[Rows][kLanes / 4];
  for (std::size_t row = 0; row < Rows; ++row) {
    for (std::size_t part = 0; part < kLanes / 4; ++part) sums[row][part] = _mm256_setzero_pd();
  }
  for (std::size_t i = 0; i < whole; i += kLanes) {
    for (std::size_t part = 0; part < kLanes / 4; ++part) {
      const __m256d x = load4(w + i + 4 * part);
      for (std::size_t row = 0; row < Rows; ++row) {
        sums[row][part] = _mm256_add_pd(sums[row][part], _mm256_mul_pd(load4(basis + row * n + i + 4 * part), x));
      }
    }
  }
  for (std::size_t row = 0; row < Rows; ++row) {
    std::array<double, kLanes> lanes;
    for (std::size_t part = 0; part < kLanes / 4; ++part) _mm256_storeu_pd(lanes.data() + 4 * part, sums[row][part]);
    add_tail(basis + row * n, w, whole, n, lanes);
    out[row] = sum_lanes(lanes);
  }
}

template <class T>
NC_FAST_AVX2 void dots_avx2(const double* basis, std::size_t count, std::size_t n, const T* w, double* out) {
  std::size_t row = 0;
  for (; row + kSharedRows <= count; row += kSharedRows) {
    dots_rows_avx2<kSharedRows>(basis + row * n, n, w, out + row);
  }
  for (; row < count; ++row) dots_rows_avx2<1>(basis + row * n, n, w, out + row);
}

template <std::size_t Rows>
NC_FAST_AVX2 inline void dots_float_rows_avx2(const float* basis, std::size_t n, const float* w, float* out) {
  constexpr std::size_t kParts = 4;
  const std::size_t whole = n - n % (8 * kParts);
  __m256 sums[Rows][kParts];
  for (std::size_t row = 0; row < Rows; ++row) {
    for (std::size_t part = 0; part < kParts; ++part) sums[row][part] = _mm256_setzero_ps();
  }
  for (std::size_t i = 0; i < whole; i += 8 * kParts) {
    for (std::size_t part = 0; part < kParts; ++part) {
      const __m256 x = _mm256_loadu_ps(w + i + 8 * part);
      for (std::size_t row = 0; row < Rows; ++row) {
        sums[row][part] = _mm256_fmadd_ps(_mm256_loadu_ps(basis + row * n + i + 8 * part), x, sums[row][part]);
      }
    }
  }
  for (std::size_t row = 0; row < Rows; ++row) {
    const __m256 sum =
        _mm256_add_ps(_mm256_add_ps(sums[row][0], sums[row][1]), _mm256_add_ps(sums[row][2], sums[row][3]));
    std::array<float, 8> lanes;
    _mm256_storeu_ps(lanes.data(), sum);
    for (std::size_t i = whole; i < n; ++i) lanes[i % 8] += basis[row * n + i] * w[i];
    out[row] = sum_lanes(lanes);
  }
}

NC_FAST_AVX2 void dots_float_avx2(const float* basis, std::size_t count, std::size_t n, const float* w, float* out) {
  std::size_t row = 0;
  for (; row + kSharedRows <= count; row += kSharedRows) {
    dots_float_rows_avx2<kSharedRows>(basis + row * n, n, w, out + row);
  }
  for (; row < count; ++row) dots_float_rows_avx2<1>(basis + row * n, n, w, out + row);
}

NC_FAST_AVX2 void subtract_avx2(const double* basis, const double* coefficients, std::size_t count, std::size_t n,
                                double* v) {
  std::size_t row = 0;
  for (; row + kSharedRows <= count; row += kSharedRows) {
    const double* q = basis + row * n;
    const double* c = coefficients + row;
    static_assert(kSharedRows == 3, "one term a row");
    for (std::size_t i = 0; i < n; ++i) v[i] = ((v[i] - c[0] * q[i]) - c[1] * q[n + i]) - c[2] * q[2 * n + i];
  }
  subtract_baseline(basis + row * n, coefficients + row, count - row, n, v);
}
#endif

}  // namespace

struct Kernels {
  // out[i] = basis[i] . w for `count` rows of length n.
  void (*dots_float)(const double* basis, std::size_t count, std::size_t n, const float* w, double* out);
  void (*dots_double)(const double* basis, std::size_t count, std::size_t n, const double* w, double* out);
  // The same in float32, in any order.
  void (*bounding_dots)(const float* basis, std::size_t count, std::size_t n, const float* w, float* out);
  // v -= coefficients[i] * basis[i], in order.
  void (*subtract)(const double* basis, const double* coefficients, std::size_t count, std::size_t n, double* v);

  void dots(const double* basis, std::size_t count, std::size_t n, const float* w, double* out) const {
    dots_float(basis, count, n, w, out);
  }
  void dots(const double* basis, std::size_t count, std::size_t n, const double* w, double* out) const {
    dots_double(basis, count, n, w, out);
  }
};

namespace {

const Kernels& kernels_of(Simd simd) {
  static constexpr Kernels baseline{dots_baseline<float>, dots_baseline<double>, dots_float_baseline,
                                    subtract_baseline};
#ifdef NC_FAST_X86
  static constexpr Kernels avx2{dots_avx2<float>, dots_avx2<double>, dots_float_avx2, subtract_avx2};
  if (simd == Simd::kAvx2Fma && best_simd() == Simd::kAvx2Fma) return avx2;
#endif
  static_cast<void>(simd);
  return baseline;
}

template <class T>
T load(const char* p) {
  T value;  // through memcpy: fields of packed records need not be aligned
  std::memcpy(&value, p, sizeof value);
  return value;
}

template <class T>
void copy_column(const MatrixView<T>& W, std::size_t j, T* out) {
  const char* column = W.column(j);
  for (std::size_t d = 0; d < W.rows; ++d) out[d] = load<T>(column + static_cast<std::ptrdiff_t>(d) * W.row_stride);
}

}  // namespace

Simd best_simd() {
#ifdef NC_FAST_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Simd::kAvx2Fma;
#endif
  return Simd::kBaseline;
}

template <class T>
bool MatrixView<T>::columns_contiguous() const {
  constexpr auto kSize = static_cast<std::ptrdiff_t>(sizeof(T));
  constexpr auto kAlign = static_cast<std::ptrdiff_t>(alignof(T));
  return (rows <= 1 || row_stride == kSize) && (columns <= 1 || column_stride % kAlign == 0) &&
         reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
}

double Residual::ratio() const { return std::sqrt(squared); }

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
    for (std::size_t row = 0; row < rank;
         row += kSharedRows) {  // the second use of the rows finds them in the L1 cache
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

namespace {

constexpr std::size_t kGatherColumns = 64;  // times D numbers is what one block of a gather keeps in the L2 cache
constexpr std::size_t kCacheLine = 64;

// Copies `count` columns (ascending) into rows of `out`. W is read a few rows at a time, so that in C order a cache
// line fetched for one column still serves its neighbours.
template <class T>
void gather(const MatrixView<T>& W, const std::size_t* columns, std::size_t count, T* out) {
  constexpr std::size_t kTile = kCacheLine / sizeof(T);
  for (std::size_t d = 0; d < W.rows; d += kTile) {
    const std::size_t height = std::min(kTile, W.rows - d);
    for (std::size_t c = 0; c < count; ++c) {
      const char* from = W.column(columns[c]) + static_cast<std::ptrdiff_t>(d) * W.row_stride;
      T* to = out + c * W.rows + d;
      for (std::size_t i = 0; i < height; ++i) to[i] = load<T>(from + static_cast<std::ptrdiff_t>(i) * W.row_stride);
    }
  }
}

template <class T>
Residual measure_column(const NullSpaceProjector& projector, const T* w, std::size_t j, std::vector<double>& scratch) {
  try {
    return projector.measure(w, scratch);
  } catch (const std::domain_error&) {
    throw std::domain_error("W: expected finite values, got NaN or infinity in column " + std::to_string(j));
  }
}

double gain_of(double score, double ratio) {
  if (score >= 0) return score * ratio;
  return ratio > 0 ? score / ratio : -std::numeric_limits<double>::infinity();
}

// The columns as plain arrays: in place where W allows it, else copies of those that `prefetch` was given.
template <class T>
class Columns {
 public:
  explicit Columns(const MatrixView<T>& W) : W_(W), in_place_(W.columns_contiguous()) {}

  std::size_t plan(std::vector<std::size_t> wanted) {
    if (in_place_) return 0;
    wanted_ = std::move(wanted);
    slots_.assign(W_.columns, kNone);
    for (std::size_t slot = 0; slot < wanted_.size(); ++slot) slots_[wanted_[slot]] = slot;
    copies_.reset(new T[wanted_.size() * W_.rows]);  // not zeroed: the threads that fill it touch it first
    return (wanted_.size() + kGatherColumns - 1) / kGatherColumns;
  }

  void fill(std::size_t block) {
    const std::size_t first = block * kGatherColumns;
    const std::size_t count = std::min(kGatherColumns, wanted_.size() - first);
    gather(W_, wanted_.data() + first, count, copies_.get() + first * W_.rows);
  }

  // Column j; one that was not planned is copied into `own`, which has to outlive its use.
  const T* get(std::size_t j, std::unique_ptr<T[]>& own) const {
    if (in_place_) return reinterpret_cast<const T*>(W_.column(j));
    if (slots_[j] != kNone) return copies_.get() + slots_[j] * W_.rows;
    own.reset(new T[W_.rows]);
    gather(W_, &j, 1, own.get());
    return own.get();
  }

 private:
  static constexpr std::size_t kNone = std::numeric_limits<std::size_t>::max();
  const MatrixView<T>& W_;
  bool in_place_;
  std::vector<std::size_t> wanted_;
  std::vector<std::size_t> slots_;
  std::unique_ptr<T[]> copies_;
};

struct Stopped {};

// Runs task(0) .. task(count - 1) on threads; whatever a task or `poll` throws stops the others and is thrown on.
class TaskRunner {
 public:
  TaskRunner(std::size_t threads, std::function<void()> poll) : threads_(threads), poll_(std::move(poll)) {}

  void check_stopped() const {
    if (stop_.load(std::memory_order_relaxed)) throw Stopped{};
  }

  void run(std::size_t count, const std::function<void(std::size_t)>& task) {
    next_ = 0;
    const auto work = [&] {
      try {
        for (std::size_t i = next_++; i < count; i = next_++) task(i);
      } catch (const Stopped&) {
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!error_) error_ = std::current_exception();
        stop_ = true;
      }
    };
    const std::size_t threads = std::min(threads_, count);
    if (threads == 0) {
      work();
    } else {
      run_threads(threads, work);
    }
    if (error_) std::rethrow_exception(error_);
  }

 private:
  struct Joined {
    std::vector<std::thread> threads;
    ~Joined() {
      for (std::thread& thread : threads) thread.join();
    }
  };

  void run_threads(std::size_t count, const std::function<void()>& work) {
    std::size_t running = 0;
    std::condition_variable finished;
    Joined workers;
    workers.threads.reserve(count);
    const auto worker = [&] {
      work();
      const std::lock_guard<std::mutex> lock(mutex_);
      --running;
      finished.notify_one();
    };
    std::unique_lock<std::mutex> lock(mutex_);
    try {
      for (; running < count; ++running) workers.threads.emplace_back(worker);
    } catch (const std::system_error&) {  // no more threads to be had: fewer do the same work
    } catch (const std::bad_alloc&) {     // as above
    }
    if (running == 0) {
      lock.unlock();
      work();
      return;
    }
    while (!finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
      lock.unlock();
      try {
        poll_();
      } catch (...) {
        stop_ = true;
        throw;
      }
      lock.lock();
    }
  }

  std::size_t threads_;
  std::function<void()> poll_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

// Upper bounds of ratios from float32 products, at a third of the price of the exact ones.
class RatioBounds {
 public:
  explicit RatioBounds(std::size_t dim, Simd simd)
      : dim_(dim),
        kernels_(kernels_of(simd)),
        // Roundings that an element goes through: as a product's factor and result, at most dim / 32 additions into its
        // lane and 10 that join lanes and tail. The sum of |q_i w_i| is at most the length of w.
        error_((static_cast<double>(dim) / 32 + 16) * std::numeric_limits<float>::epsilon() / 2) {}

  void append(const double* q) {
    for (std::size_t i = 0; i < dim_; ++i) basis_.push_back(static_cast<float>(q[i]));
  }

  void reset() { basis_.clear(); }

  // Whether w and its products stay so far inside float32's range that only rounding matters.
  static bool applies(const Residual& residual) {
    return !residual.vector && residual.length > 1e-25 && residual.length < 1e35;
  }

  // Lowers `squared`, an upper bound of the squared ratio at basis vector `step`, to the end of the basis.
  void lower(const float* w, double length, double& squared, std::size_t& step) {
    const std::size_t rank = basis_.size() / dim_;
    products_.resize(rank - step);
    kernels_.bounding_dots(basis_.data() + step * dim_, rank - step, dim_, w, products_.data());
    step = rank;
    for (const float product : products_) {
      const double coefficient = std::max(std::abs(static_cast<double>(product)) / length - error_, 0.0);
      const double next = squared - coefficient * coefficient;
      if (next < kLowest) return;
      squared = next;
    }
  }

 private:
  static constexpr double kLowest = 1e-2;  // below, what the errors add up to is no longer small beside the bound

  std::size_t dim_;
  const Kernels& kernels_;
  double error_;
  std::vector<float> basis_;
  std::vector<float> products_;
};

// The greedy loop over one pool.
//
// A ratio never grows while the span does, so the gain computed last bounds a candidate's gain now. The candidates wait
// in a heap by that bound (Minoux 1978); only those whose bound reaches the best exact gain are brought up to date.
template <class T>
class PoolSelection {
  static constexpr std::size_t kWorthBounding = 4;  // basis vectors to catch up with

 public:
  PoolSelection(const MatrixView<T>& W, const Columns<T>& columns, const std::vector<std::size_t>& members,
                const double* score, const GreedyOptions& options, const TaskRunner& runner)
      : columns_(columns),
        runner_(runner),
        lazy_(options.lazy),
        projector_(W.rows, options.simd),
        bounds_(W.rows, options.simd) {
    candidates_.resize(members.size());
    for (std::size_t i = 0; i < members.size(); ++i) {
      candidates_[i].column = members[i];
      candidates_[i].score = score[members[i]];
    }
    fill_heap();
  }

  void run(std::size_t quota, std::int64_t* indices, double* gains, std::atomic<std::size_t>& done) {
    for (std::size_t pick = 0; pick < quota;) {
      if (!lazy_) update_all();
      const Entry best = pop_best();
      Candidate& candidate = candidates_[best.member];
      update(candidate);
      if (candidate.residual.squared == 0 && projector_.rank() > 0 && !any_alive()) {
        restart();
        continue;
      }
      candidate.picked = true;
      if (candidate.residual.squared > 0) extend_span(candidate.vector);
      candidate.release();
      indices[pick] = static_cast<std::int64_t>(candidate.column);
      gains[pick] = best.bound;
      ++pick;
      done.fetch_add(1, std::memory_order_relaxed);
    }
  }

  std::int64_t restarts() const { return restarts_; }

 private:
  struct Candidate {
    std::size_t column = 0;
    double score = 0;
    bool picked = false;
    const T* vector = nullptr;  // null until first evaluated
    std::unique_ptr<T[]> own;   // backs `vector` where Columns had no copy
    Residual residual;
    double bound = 0;            // of residual.squared, from float32, up to ...
    std::size_t bound_step = 0;  // ... this basis vector

    void measured(Residual&& fresh) {
      residual = std::move(fresh);
      bound = residual.squared;
      bound_step = 0;
    }

    void release() {
      vector = nullptr;
      own.reset();
      residual.vector.reset();
    }
  };

  struct Entry {
    double bound;  // no less than the gain
    std::size_t member;
    // Heap order: of equal bounds the lowest index comes first.
    bool operator<(const Entry& other) const {
      return bound != other.bound ? bound < other.bound : member > other.member;
    }
  };

  void fill_heap() {
    heap_.clear();
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (!candidates_[i].picked) heap_.push_back({gain_of(candidates_[i].score, 1), i});
    }
    std::make_heap(heap_.begin(), heap_.end());
  }

  void extend_span(const T* vector) {
    const std::size_t rank = projector_.rank();
    projector_.add(vector);
    if constexpr (std::is_same_v<T, float>) {
      if (projector_.rank() > rank) bounds_.append(projector_.basis().data() + rank * projector_.dim());
    }
  }

  void restart() {
    ++restarts_;
    projector_.reset();
    bounds_.reset();
    for (Candidate& candidate : candidates_) {
      if (candidate.vector) candidate.measured(projector_.measure(candidate.vector, scratch_));
    }
    first_alive_ = 0;
    fill_heap();
  }

  void load(Candidate& candidate) {
    if (candidate.vector) return;
    runner_.check_stopped();
    candidate.vector = columns_.get(candidate.column, candidate.own);
    candidate.measured(measure_column(projector_, candidate.vector, candidate.column, scratch_));
  }

  void update(Candidate& candidate) {
    load(candidate);
    if (candidate.residual.step < projector_.rank()) {
      runner_.check_stopped();
      projector_.advance(candidate.vector, candidate.residual, scratch_);
      candidate.bound = candidate.residual.squared;
      candidate.bound_step = candidate.residual.step;
    }
  }

  // Lowers the entry's bound by float32 products, where that saves float64 ones; returns whether it did.
  bool lower_bound(Entry& entry) {
    if constexpr (std::is_same_v<T, float>) {
      Candidate& candidate = candidates_[entry.member];
      const std::size_t rank = projector_.rank();
      load(candidate);
      if (candidate.bound_step == rank || rank - candidate.residual.step < kWorthBounding ||
          !RatioBounds::applies(candidate.residual)) {
        return false;
      }
      runner_.check_stopped();
      bounds_.lower(candidate.vector, candidate.residual.length, candidate.bound, candidate.bound_step);
      // The slack covers the rounding of the exact ratio, so that no bound ever hides a gain.
      entry.bound = gain_of(candidate.score, std::sqrt(candidate.bound * (1 + kTieTolerance)));
      return true;
    } else {
      return false;
    }
  }

  void update_all() {
    for (Entry& entry : heap_) entry.bound = exact_gain(candidates_[entry.member]);
    std::make_heap(heap_.begin(), heap_.end());
  }

  double exact_gain(Candidate& candidate) {
    update(candidate);
    return gain_of(candidate.score, candidate.residual.ratio());
  }

  // Takes the winner, with its exact gain, out of the heap.
  Entry pop_best() {
    exact_.clear();
    double best = -std::numeric_limits<double>::infinity();
    double tied = best;  // the least gain that counts as best
    while (!heap_.empty() && (exact_.empty() || may_win(heap_.front(), tied))) {
      std::pop_heap(heap_.begin(), heap_.end());
      if (lower_bound(heap_.back())) {
        std::push_heap(heap_.begin(), heap_.end());
        continue;
      }
      Entry entry = heap_.back();
      heap_.pop_back();
      entry.bound = exact_gain(candidates_[entry.member]);
      exact_.push_back(entry);
      if (entry.bound > best) {
        best = entry.bound;
        tied = best - kTieTolerance * std::abs(best);
      }
    }
    std::swap(exact_[winner(tied)], exact_.back());
    const Entry result = exact_.back();
    exact_.pop_back();
    for (const Entry& entry : exact_) {
      heap_.push_back(entry);
      std::push_heap(heap_.begin(), heap_.end());
    }
    return result;
  }

  // Position in exact_ of the lowest candidate whose gain is tied with the best.
  std::size_t winner(double tied) const {
    std::size_t lowest = exact_.size();
    for (std::size_t i = 0; i < exact_.size(); ++i) {
      if (exact_[i].bound >= tied && (lowest == exact_.size() || exact_[i].member < exact_[lowest].member)) lowest = i;
    }
    return lowest;
  }

  // At a gain of 0 or -inf ties are exact and can be as many as candidates: of those the lowest is at the front, and
  // does not win against a lower one.
  bool may_win(const Entry& front, double tied) const {
    return front.bound > tied || (front.bound == tied && front.member < exact_[winner(tied)].member);
  }

  // Whether any candidate left has a part outside the span. One that has none gets none, so the search moves on only.
  bool any_alive() {
    for (; first_alive_ < candidates_.size(); ++first_alive_) {
      Candidate& candidate = candidates_[first_alive_];
      if (candidate.picked) continue;
      update(candidate);
      if (candidate.residual.squared > 0) return true;
    }
    return false;
  }

  const Columns<T>& columns_;
  const TaskRunner& runner_;
  bool lazy_;
  NullSpaceProjector projector_;
  RatioBounds bounds_;
  std::vector<Candidate> candidates_;
  std::vector<Entry> heap_;
  std::vector<Entry> exact_;
  std::vector<double> scratch_;
  std::size_t first_alive_ = 0;
  std::int64_t restarts_ = 0;
};

// Members of a pool that the greedy loop is likely to evaluate: a guess that decides what is gathered in one sweep, not
// what is right. After `quota` picks a vector in general position keeps sqrt(1 - quota / D) of its length, so the last
// pick gains about that share of the quota-th highest score, and what cannot gain as much is never looked at.
void append_likely(const std::vector<std::size_t>& members, const double* score, std::size_t quota, std::size_t dim,
                   std::vector<std::size_t>& likely) {
  if (quota == 0) return;
  const double left = 1 - static_cast<double>(quota) / static_cast<double>(dim);
  if (left <= 0) {
    likely.insert(likely.end(), members.begin(), members.end());
    return;
  }
  std::vector<double> scores(members.size());
  std::transform(members.begin(), members.end(), scores.begin(), [&](std::size_t j) { return score[j]; });
  const auto last_pick = scores.begin() + static_cast<std::ptrdiff_t>(quota) - 1;
  std::nth_element(scores.begin(), last_pick, scores.end(), std::greater<double>());
  const double least = gain_of(*last_pick, std::sqrt(left));
  std::copy_if(members.begin(), members.end(), std::back_inserter(likely),
               [&](std::size_t j) { return score[j] >= least; });
}

constexpr double kWorthThreads = 2e6;  // multiplications; a thread starts in the time of some ten thousand

}  // namespace

template <class T>
void visit_residuals(const NullSpaceProjector& projector, const MatrixView<T>& W,
                     const std::function<void(std::size_t, const Residual&)>& visit) {
  const bool in_place = W.columns_contiguous();
  std::unique_ptr<T[]> copies(in_place ? nullptr : new T[kGatherColumns * W.rows]);
  std::vector<double> scratch;
  for (std::size_t first = 0; first < W.columns; first += kGatherColumns) {
    const std::size_t count = std::min(kGatherColumns, W.columns - first);
    std::array<std::size_t, kGatherColumns> columns;
    for (std::size_t c = 0; c < count; ++c) columns[c] = first + c;
    if (!in_place) gather(W, columns.data(), count, copies.get());
    for (std::size_t c = 0; c < count; ++c) {
      const T* w = in_place ? reinterpret_cast<const T*>(W.column(first + c)) : copies.get() + c * W.rows;
      Residual residual = measure_column(projector, w, first + c, scratch);
      projector.advance(w, residual, scratch);
      visit(first + c, residual);
    }
  }
}

template <class T>
GreedyResult greedy_select(const MatrixView<T>& W, const double* score, const std::int64_t* pool,
                           const std::vector<std::size_t>& quota, const GreedyOptions& options,
                           const std::function<void(std::size_t)>& poll) {
  std::vector<std::vector<std::size_t>> members(quota.size());
  for (std::size_t j = 0; j < W.columns; ++j) {
    if (pool[j] >= 0) members[static_cast<std::size_t>(pool[j])].push_back(j);
  }
  std::vector<std::size_t> likely, offsets(1, 0), order;
  std::vector<double> work;
  double total_work = 0;
  for (std::size_t p = 0; p < quota.size(); ++p) {
    append_likely(members[p], score, quota[p], W.rows, likely);
    offsets.push_back(offsets.back() + quota[p]);
    order.push_back(p);
    work.push_back(static_cast<double>(members[p].size()) * static_cast<double>(quota[p]) *
                   static_cast<double>(W.rows));
    total_work += work[p];
  }
  std::sort(likely.begin(), likely.end());
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return work[a] > work[b]; });

  GreedyResult result;
  result.indices.resize(offsets.back());
  result.gains.resize(offsets.back());
  std::atomic<std::size_t> done{0};
  std::atomic<std::int64_t> restarts{0};
  TaskRunner runner(total_work < kWorthThreads ? 0 : std::max<std::size_t>(options.threads, 1),
                    [&] { poll(done.load(std::memory_order_relaxed)); });
  Columns<T> columns(W);
  runner.run(columns.plan(std::move(likely)), [&](std::size_t block) {
    runner.check_stopped();
    columns.fill(block);
  });
  runner.run(quota.size(), [&](std::size_t i) {
    const std::size_t p = order[i];
    PoolSelection<T> selection(W, columns, members[p], score, options, runner);
    selection.run(quota[p], result.indices.data() + offsets[p], result.gains.data() + offsets[p], done);
    restarts += selection.restarts();
  });
  result.restarts = restarts;
  return result;
}

#define NC_FAST_INSTANTIATE(T)                                                                  \
  template bool MatrixView<T>::columns_contiguous() const;                                      \
  template double NullSpaceProjector::add(const T*);                                            \
  template Residual NullSpaceProjector::measure(const T*, std::vector<double>&) const;          \
  template void NullSpaceProjector::advance(const T*, Residual&, std::vector<double>&) const;   \
  template void visit_residuals(const NullSpaceProjector&, const MatrixView<T>&,                \
                                const std::function<void(std::size_t, const Residual&)>&);      \
  template GreedyResult greedy_select(const MatrixView<T>&, const double*, const std::int64_t*, \
                                      const std::vector<std::size_t>&, const GreedyOptions&,    \
                                      const std::function<void(std::size_t)>&);
NC_FAST_INSTANTIATE(float)
NC_FAST_INSTANTIATE(double)
#undef NC_FAST_INSTANTIATE

}  // namespace nc_fast
