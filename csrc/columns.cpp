#include "columns.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>

namespace nc_fast {

namespace {

constexpr std::size_t kGatherColumns = 64;  // times D numbers is what one block of a gather keeps in the L2 cache
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kNoSlot = std::numeric_limits<std::size_t>::max();

template <class T>
T load(const char* p) {
  T value;  // through memcpy: fields of packed records need not be aligned
  std::memcpy(&value, p, sizeof value);
  return value;
}

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

// Only where the columns are contiguous.
template <class T>
const T* in_place(const MatrixView<T>& W, std::size_t j) {
  return reinterpret_cast<const T*>(W.column(j));
}

}  // namespace

template <class T>
bool MatrixView<T>::columns_contiguous() const {
  constexpr auto kSize = static_cast<std::ptrdiff_t>(sizeof(T));
  constexpr auto kAlign = static_cast<std::ptrdiff_t>(alignof(T));
  return (rows <= 1 || row_stride == kSize) && (columns <= 1 || column_stride % kAlign == 0) &&
         reinterpret_cast<std::uintptr_t>(data) % alignof(T) == 0;
}

template <class T>
void MatrixView<T>::visit_columns(const std::function<void(std::size_t, const T*)>& visit) const {
  if (columns_contiguous()) {
    for (std::size_t j = 0; j < columns; ++j) visit(j, in_place(*this, j));
    return;
  }
  const std::unique_ptr<T[]> copies(new T[kGatherColumns * rows]);
  std::array<std::size_t, kGatherColumns> block;
  for (std::size_t first = 0; first < columns; first += kGatherColumns) {
    const std::size_t count = std::min(kGatherColumns, columns - first);
    for (std::size_t c = 0; c < count; ++c) block[c] = first + c;
    gather(*this, block.data(), count, copies.get());
    for (std::size_t c = 0; c < count; ++c) visit(first + c, copies.get() + c * rows);
  }
}

template <class T>
std::size_t Columns<T>::plan(std::vector<std::size_t> wanted) {
  if (in_place_) return 0;
  wanted_ = std::move(wanted);
  slots_.assign(W_.columns, kNoSlot);
  for (std::size_t slot = 0; slot < wanted_.size(); ++slot) slots_[wanted_[slot]] = slot;
  copies_.reset(new T[wanted_.size() * W_.rows]);  // not zeroed: the threads that fill it touch it first
  return (wanted_.size() + kGatherColumns - 1) / kGatherColumns;
}

template <class T>
void Columns<T>::fill(std::size_t block) {
  const std::size_t first = block * kGatherColumns;
  const std::size_t count = std::min(kGatherColumns, wanted_.size() - first);
  gather(W_, wanted_.data() + first, count, copies_.get() + first * W_.rows);
}

template <class T>
const T* Columns<T>::get(std::size_t j, std::unique_ptr<T[]>& own) const {
  if (in_place_) return in_place(W_, j);
  if (slots_[j] != kNoSlot) return copies_.get() + slots_[j] * W_.rows;
  own.reset(new T[W_.rows]);
  gather(W_, &j, 1, own.get());
  return own.get();
}

template struct MatrixView<float>;
template struct MatrixView<double>;
template class Columns<float>;
template class Columns<double>;

}  // namespace nc_fast
