// Checks of what Python hands over, by argument name; nothing is converted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "columns.hpp"
#include "simd.hpp"

namespace nc_fast {

namespace py = pybind11;

inline std::string type_name(const py::handle& object) { return py::str(py::type::of(object).attr("__name__")); }

inline std::string shape_of(const py::array& array) { return py::str(array.attr("shape")); }

// `kinds` says what was expected, e.g. "a NumPy array of float32 or float64".
inline py::array as_array(const std::string& name, const py::object& object, const std::string& kinds) {
  if (py::hasattr(object, "mask")) {
    throw py::type_error(name + ": expected an array without a mask, got a masked array; fill it first");
  }
  if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
  throw py::type_error(name + ": expected a NumPy array of " + kinds + ", got " + type_name(object));
}

[[noreturn]] inline void wrong_dtype(const std::string& name, const py::array& array, const std::string& kinds) {
  throw py::type_error(name + ": expected a NumPy array of " + kinds + ", got dtype " +
                       std::string(py::str(array.dtype().attr("str"))));
}

[[noreturn]] inline void wrong_shape(const std::string& name, const std::string& expected, const py::array& array) {
  throw py::value_error(name + ": expected shape " + expected + ", got " + shape_of(array));
}

template <class T>
bool has_dtype(const py::array& array) {
  return array.dtype().equal(py::dtype::of<T>());
}

template <class T>
MatrixView<T> matrix_view(const py::array& array) {
  return {static_cast<const char*>(array.data()), array.strides(0), array.strides(1),
          static_cast<std::size_t>(array.shape(0)), static_cast<std::size_t>(array.shape(1))};
}

// Calls function(MatrixView<float>) or function(MatrixView<double>).
template <class Function>
auto with_view(const py::array& W, Function&& function) {
  if (has_dtype<float>(W)) return function(matrix_view<float>(W));
  if (has_dtype<double>(W)) return function(matrix_view<double>(W));
  wrong_dtype("W", W, "float32 or float64");
}

inline py::array checked_matrix(const py::object& object, std::optional<std::size_t> rows) {
  py::array W = as_array("W", object, "float32 or float64");
  const std::string expected = "(D, M) = (" + (rows ? std::to_string(*rows) : std::string("*")) + ", *)";
  if (W.ndim() != 2 || W.shape(0) == 0 || (rows && static_cast<std::size_t>(W.shape(0)) != *rows)) {
    wrong_shape("W", expected, W);
  }
  return W;
}

// One entry a column, any stride; any length where none is given.
template <class T>
std::vector<T> checked_vector(const std::string& name, const py::object& object, const std::string& letter,
                              std::optional<std::size_t> length) {
  const std::string kind = py::str(py::dtype::of<T>().attr("name"));
  const py::array array = as_array(name, object, kind);
  if (!has_dtype<T>(array)) wrong_dtype(name, array, kind);
  if (array.ndim() != 1 || (length && static_cast<std::size_t>(array.shape(0)) != *length)) {
    wrong_shape(name, "(" + letter + ",)" + (length ? " = (" + std::to_string(*length) + ",)" : ""), array);
  }
  std::vector<T> values(static_cast<std::size_t>(array.shape(0)));
  const char* from = static_cast<const char*>(array.data());
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::memcpy(&values[i], from + static_cast<py::ssize_t>(i) * array.strides(0), sizeof(T));
  }
  return values;
}

template <class T>
[[noreturn]] void wrong_entry(const std::string& name, const std::string& expected, T value, std::size_t index) {
  throw py::value_error(name + ": expected " + expected + ", got " + std::string(py::str(py::cast(value))) +
                        " at index " + std::to_string(index));
}

inline const char* simd_name(Simd simd) { return simd == Simd::kAvx2Fma ? "avx2+fma" : "baseline"; }

inline Simd simd_of(const std::string& name) {
  const Simd best = best_simd();
  if (name == "auto") return best;
  if (name == "baseline") return Simd::kBaseline;
  if (name == simd_name(best)) return best;
  throw py::value_error("simd: expected 'auto', 'baseline' or '" + std::string(simd_name(best)) +
                        "' on this machine, got '" + name + "'");
}

inline std::vector<std::size_t> checked_quota(const py::object& object, const std::vector<std::int64_t>& group) {
  const std::vector<std::int64_t> quota = checked_vector<std::int64_t>("quota", object, "G", std::nullopt);
  std::vector<std::int64_t> members(quota.size(), 0);
  for (std::size_t j = 0; j < group.size(); ++j) {
    if (group[j] < -1 || group[j] >= static_cast<std::int64_t>(quota.size())) {
      wrong_entry("group", "values from -1 to G - 1 = " + std::to_string(static_cast<std::int64_t>(quota.size()) - 1),
                  group[j], j);
    }
    if (group[j] >= 0) ++members[static_cast<std::size_t>(group[j])];
  }
  for (std::size_t g = 0; g < quota.size(); ++g) {
    if (quota[g] < 0 || quota[g] > members[g]) {
      wrong_entry("quota", "values from 0 to the group's members = " + std::to_string(members[g]), quota[g], g);
    }
  }
  return {quota.begin(), quota.end()};
}

inline std::vector<std::int64_t> checked_given(const py::object& object, const std::vector<std::int64_t>& group,
                                               std::vector<std::size_t> quota) {
  if (object.is_none()) return {};
  const std::vector<std::int64_t> given = checked_vector<std::int64_t>("given", object, "n", std::nullopt);
  std::vector<bool> seen(group.size());
  for (std::size_t i = 0; i < given.size(); ++i) {
    const auto j = static_cast<std::size_t>(given[i]);
    if (given[i] < 0 || j >= group.size() || group[j] < 0 || seen[j]) {
      wrong_entry("given", "distinct columns that have a group", given[i], i);
    }
    seen[j] = true;
    if (quota[static_cast<std::size_t>(group[j])]-- == 0) {
      wrong_entry("given", "at most as many columns of a group as its quota", given[i], i);
    }
  }
  return given;
}

}  // namespace nc_fast
