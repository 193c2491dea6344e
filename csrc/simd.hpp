// The inner loops, once for every machine and once for x86 with AVX2: dot products and subtraction of basis vectors.
// Both levels give the same bits, the float32 products apart, which only bound. Needs gcc or clang.
#pragma once

#include <cstddef>

namespace nc_fast {

enum class Simd { kBaseline, kAvx2Fma };

/// The widest level this machine runs.
Simd best_simd();

// Basis vectors that share one pass over a vector: as many as registers hold the lanes of.
constexpr std::size_t kSharedRows = 3;

/// The loops at one level. Every dot product in float64 has one fixed order of summation.
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

/// The loops of a level; the baseline's where the machine does not run it.
const Kernels& kernels_of(Simd simd);

}  // namespace nc_fast
