#include "simd.hpp"

#include <array>

#if defined(__x86_64__)
#include <immintrin.h>
#define NC_FAST_X86 1
#endif

namespace nc_fast {

namespace {

// Every dot product adds element i to lane i mod kLanes and then halves the lanes, at every SIMD level.
constexpr std::size_t kLanes = 16;

template <class T, std::size_t N>
T sum_lanes(std::array<T, N>& lanes) {
  for (std::size_t half = N / 2; half > 0; half /= 2) {
    for (std::size_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  }
  return lanes[0];
}

// The float32 products only bound a ratio, so their order of summation, and fused multiply-adds, are free.
float bounding_dot_baseline(const float* q, const float* w, std::size_t n) {
  constexpr std::size_t kFloatLanes = 32;
  std::array<float, kFloatLanes> lanes{};
  const std::size_t whole = n - n % kFloatLanes;
  for (std::size_t i = 0; i < whole; i += kFloatLanes) {
    for (std::size_t l = 0; l < kFloatLanes; ++l) lanes[l] += q[i + l] * w[i + l];
  }
  for (std::size_t i = whole; i < n; ++i) lanes[i - whole] += q[i] * w[i];
  return sum_lanes(lanes);
}

void bounding_dots_baseline(const float* basis, std::size_t count, std::size_t n, const float* w, float* out) {
  for (std::size_t row = 0; row < count; ++row) out[row] = bounding_dot_baseline(basis + row * n, w, n);
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
NC_FAST_AVX2 inline void bounding_rows_avx2(const float* basis, std::size_t n, const float* w, float* out) {
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

NC_FAST_AVX2 void bounding_dots_avx2(const float* basis, std::size_t count, std::size_t n, const float* w, float* out) {
  std::size_t row = 0;
  for (; row + kSharedRows <= count; row += kSharedRows) {
    bounding_rows_avx2<kSharedRows>(basis + row * n, n, w, out + row);
  }
  for (; row < count; ++row) bounding_rows_avx2<1>(basis + row * n, n, w, out + row);
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

const Kernels& kernels_of(Simd simd) {
  static constexpr Kernels baseline{dots_baseline<float>, dots_baseline<double>, bounding_dots_baseline,
                                    subtract_baseline};
#ifdef NC_FAST_X86
  static constexpr Kernels avx2{dots_avx2<float>, dots_avx2<double>, bounding_dots_avx2, subtract_avx2};
  if (simd == Simd::kAvx2Fma && best_simd() == Simd::kAvx2Fma) return avx2;
#endif
  static_cast<void>(simd);
  return baseline;
}

Simd best_simd() {
#ifdef NC_FAST_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Simd::kAvx2Fma;
#endif
  return Simd::kBaseline;
}

}  // namespace nc_fast
