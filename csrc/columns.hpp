// The columns of a matrix in any memory layout, as plain arrays. Free of Python.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

namespace nc_fast {

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
  /// Calls `visit(j, column)` for every column, in order; the array lasts until `visit` returns.
  void visit_columns(const std::function<void(std::size_t, const T*)>& visit) const;
};

/// Columns in any order: in place where W allows it, else copied, those that are planned block by block beforehand.
template <class T>
class Columns {
 public:
  explicit Columns(const MatrixView<T>& W) : W_(W), in_place_(W.columns_contiguous()) {}

  /// Plan the copies of these columns, in ascending order; returns how many blocks there are to fill.
  std::size_t plan(std::vector<std::size_t> wanted);

  /// Copy the columns of one block; threads may fill one each.
  void fill(std::size_t block);

  /// Column j; one that was not planned is copied into `own`, which has to outlive its use.
  const T* get(std::size_t j, std::unique_ptr<T[]>& own) const;

 private:
  const MatrixView<T>& W_;
  bool in_place_;
  std::vector<std::size_t> wanted_;
  std::vector<std::size_t> slots_;  // of each column, its place among the copies
  std::unique_ptr<T[]> copies_;
};

}  // namespace nc_fast
