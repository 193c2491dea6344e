// Python's view of the projector and of the greedy loop: checks by argument name, and the GIL released while they run.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "null_space_projector.hpp"

namespace py = pybind11;

namespace {

using nc_fast::GreedyOptions;
using nc_fast::GreedyResult;
using nc_fast::MatrixView;
using nc_fast::NullSpaceProjector;
using nc_fast::Residual;
using nc_fast::Simd;

using Clock = std::chrono::steady_clock;

std::string type_name(const py::handle& object) { return py::str(py::type::of(object).attr("__name__")); }

std::string shape_of(const py::array& array) { return py::str(array.attr("shape")); }

// `kinds` says what was expected, e.g. "a NumPy array of float32 or float64".
py::array as_array(const std::string& name, const py::object& object, const std::string& kinds) {
  if (py::hasattr(object, "mask")) {
    throw py::type_error(name + ": expected an array without a mask, got a masked array; fill it first");
  }
  if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
  throw py::type_error(name + ": expected a NumPy array of " + kinds + ", got " + type_name(object));
}

[[noreturn]] void wrong_dtype(const std::string& name, const py::array& array, const std::string& kinds) {
  throw py::type_error(name + ": expected a NumPy array of " + kinds + ", got dtype " +
                       std::string(py::str(array.dtype().attr("str"))));
}

[[noreturn]] void wrong_shape(const std::string& name, const std::string& expected, const py::array& array) {
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
auto with_view(const std::string& name, const py::array& array, Function&& function) {
  if (has_dtype<float>(array)) return function(matrix_view<float>(array));
  if (has_dtype<double>(array)) return function(matrix_view<double>(array));
  wrong_dtype(name, array, "float32 or float64");
}

py::array checked_matrix(const py::object& object, std::optional<std::size_t> rows) {
  py::array W = as_array("W", object, "float32 or float64");
  const std::string expected = "(D, M) = (" + (rows ? std::to_string(*rows) : std::string("*")) + ", *)";
  if (W.ndim() != 2 || W.shape(0) == 0 || (rows && static_cast<std::size_t>(W.shape(0)) != *rows)) {
    wrong_shape("W", expected, W);
  }
  return W;
}

// One entry a column, any stride; length nullopt: any.
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

// Says when an interval has passed since it last said so.
class Timer {
 public:
  explicit Timer(std::chrono::milliseconds interval) : interval_(interval), last_(Clock::now()) {}

  bool due() {
    const Clock::time_point now = Clock::now();
    if (now - last_ < interval_) return false;
    last_ = now;
    return true;
  }

 private:
  std::chrono::milliseconds interval_;
  Clock::time_point last_;
};

void raise_if_signalled() {
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

// The projector behind a lock, so that threads may share it while the GIL is released. The GIL is always let go before
// the lock is asked for: whoever holds the lock may want the GIL back to look for signals.
class SharedProjector {
 public:
  explicit SharedProjector(NullSpaceProjector projector) : projector_(std::move(projector)) {}

  template <class Function>
  auto read(Function&& function) const {
    const py::gil_scoped_release released;
    const std::shared_lock<std::shared_mutex> lock(mutex_);
    return function(projector_);
  }

  template <class Function>
  auto write(Function&& function) {
    const py::gil_scoped_release released;
    const std::unique_lock<std::shared_mutex> lock(mutex_);
    return function(projector_);
  }

  NullSpaceProjector snapshot() const {
    return read([](const NullSpaceProjector& projector) { return projector; });
  }

  std::size_t dim() const { return projector_.dim(); }  // never changes

 private:
  mutable std::shared_mutex mutex_;
  NullSpaceProjector projector_;
};

std::unique_ptr<SharedProjector> make_projector(const py::int_& dim) {
  int overflow = 0;
  const long long value = PyLong_AsLongLongAndOverflow(dim.ptr(), &overflow);
  if (overflow != 0 || value < 1) {
    throw py::value_error("dim: expected an integer from 1 to 2^63 - 1, got " + std::string(py::str(dim)));
  }
  return std::make_unique<SharedProjector>(NullSpaceProjector(static_cast<std::size_t>(value)));
}

template <class T>
double add_values(SharedProjector& self, const std::vector<T>& values) {
  try {
    return self.write([&](NullSpaceProjector& projector) { return projector.add(values.data()); });
  } catch (const std::domain_error&) {
    throw py::value_error("vector: expected finite values, got NaN or infinity");
  }
}

double add(SharedProjector& self, const py::object& object) {
  const py::array vector = as_array("vector", object, "float32 or float64");
  if (has_dtype<float>(vector)) return add_values(self, checked_vector<float>("vector", object, "D", self.dim()));
  if (has_dtype<double>(vector)) return add_values(self, checked_vector<double>("vector", object, "D", self.dim()));
  wrong_dtype("vector", vector, "float32 or float64");
}

py::array_t<double> residuals(const SharedProjector& self, const py::object& object, double (*value)(const Residual&)) {
  const py::array W = checked_matrix(object, self.dim());
  py::array_t<double> result(W.shape(1));
  double* out = result.mutable_data();
  with_view("W", W, [&](const auto& view) {
    self.read([&](const NullSpaceProjector& projector) {
      Timer signals(std::chrono::milliseconds(50));
      nc_fast::visit_residuals(projector, view, [&](std::size_t j, const Residual& residual) {
        out[j] = value(residual);
        if (signals.due()) {
          const py::gil_scoped_acquire acquired;
          raise_if_signalled();
        }
      });
    });
  });
  return result;
}

py::array_t<double> basis(const SharedProjector& self) {
  const NullSpaceProjector projector = self.snapshot();
  py::array_t<double> result({projector.rank(), projector.dim()});
  std::copy(projector.basis().begin(), projector.basis().end(), result.mutable_data());
  return result;
}

std::unique_ptr<SharedProjector> copy(const SharedProjector& self) {
  return std::make_unique<SharedProjector>(self.snapshot());
}

py::tuple get_state(const SharedProjector& self) { return py::make_tuple(self.dim(), basis(self)); }

std::unique_ptr<SharedProjector> from_state(const py::tuple& state) {
  if (state.size() != 2)
    throw py::value_error("state: expected (dim, basis), got " + std::to_string(state.size()) + " items");
  if (!py::isinstance<py::int_>(state[0]) || !py::isinstance<py::array_t<double>>(state[1])) {
    throw py::value_error("state: expected (dim, basis), an integer and an array of float64, got " +
                          type_name(state[0]) + " and " + type_name(state[1]));
  }
  const auto projector = make_projector(state[0]);  // checks dim
  const std::size_t dim = projector->dim();
  const auto rows = state[1].cast<py::array_t<double, py::array::c_style>>();
  if (rows.ndim() != 2 || static_cast<std::size_t>(rows.shape(1)) != dim || rows.shape(0) > rows.shape(1)) {
    wrong_shape("basis", "(rank, D) = (<= D, " + std::to_string(dim) + ")", rows);
  }
  std::vector<double> basis(rows.data(), rows.data() + rows.size());
  for (std::size_t first = 0; first < basis.size(); first += dim) {
    const double square = std::inner_product(&basis[first], &basis[first] + dim, &basis[first], 0.0);
    if (!(std::abs(square - 1) < 1e-6)) throw py::value_error("basis: expected rows of length 1, got other values");
  }
  return std::make_unique<SharedProjector>(NullSpaceProjector(dim, std::move(basis)));
}

std::string repr(const SharedProjector& self) {
  const std::size_t rank = self.read([](const NullSpaceProjector& projector) { return projector.rank(); });
  return "NullSpaceProjector(dim=" + std::to_string(self.dim()) + ", rank=" + std::to_string(rank) + ")";
}

const char* simd_name(Simd simd) { return simd == Simd::kAvx2Fma ? "avx2+fma" : "baseline"; }

Simd simd_of(const std::string& name) {
  const Simd best = nc_fast::best_simd();
  if (name == "auto") return best;
  if (name == "baseline") return Simd::kBaseline;
  if (name == simd_name(best)) return best;
  throw py::value_error("simd: expected 'auto', 'baseline' or '" + std::string(simd_name(best)) +
                        "' on this machine, got '" + name + "'");
}

std::vector<std::size_t> checked_quota(const py::object& object, const std::vector<std::int64_t>& pool) {
  const std::vector<std::int64_t> quota = checked_vector<std::int64_t>("quota", object, "P", std::nullopt);
  std::vector<std::int64_t> members(quota.size(), 0);
  for (std::size_t j = 0; j < pool.size(); ++j) {
    if (pool[j] < -1 || pool[j] >= static_cast<std::int64_t>(quota.size())) {
      wrong_entry("pool", "values from -1 to P - 1 = " + std::to_string(static_cast<std::int64_t>(quota.size()) - 1),
                  pool[j], j);
    }
    if (pool[j] >= 0) ++members[static_cast<std::size_t>(pool[j])];
  }
  for (std::size_t p = 0; p < quota.size(); ++p) {
    if (quota[p] < 0 || quota[p] > members[p]) {
      wrong_entry("quota", "values from 0 to the pool's members = " + std::to_string(members[p]), quota[p], p);
    }
  }
  return {quota.begin(), quota.end()};
}

py::tuple greedy_select(const py::object& W_object, const py::object& score_object, const py::object& pool_object,
                        const py::object& quota_object, const py::int_& threads, bool lazy, const std::string& simd,
                        const py::object& report) {
  const py::array W = checked_matrix(W_object, std::nullopt);
  const auto columns = static_cast<std::size_t>(W.shape(1));
  const std::vector<double> score = checked_vector<double>("score", score_object, "M", columns);
  for (std::size_t j = 0; j < columns; ++j) {
    if (!std::isfinite(score[j])) wrong_entry("score", "finite values", score[j], j);
  }
  const std::vector<std::int64_t> pool = checked_vector<std::int64_t>("pool", pool_object, "M", columns);
  const std::vector<std::size_t> quota = checked_quota(quota_object, pool);
  const auto thread_count = threads.cast<long long>();
  if (thread_count < 1) throw py::value_error("threads: expected an integer >= 1, got " + std::to_string(thread_count));
  const GreedyOptions options{static_cast<std::size_t>(thread_count), lazy, simd_of(simd)};

  const std::size_t total = std::accumulate(quota.begin(), quota.end(), std::size_t{0});
  Timer reports(std::chrono::milliseconds(100));
  const auto poll = [&](std::size_t done) {
    const py::gil_scoped_acquire acquired;
    raise_if_signalled();
    if (!report.is_none() && reports.due()) report(done, total);
  };
  const GreedyResult result = with_view("W", W, [&](const auto& view) {
    const py::gil_scoped_release released;
    return nc_fast::greedy_select(view, score.data(), pool.data(), quota, options, poll);
  });
  if (!report.is_none()) report(total, total);
  py::array_t<std::int64_t> indices(static_cast<py::ssize_t>(result.indices.size()), result.indices.data());
  py::array_t<double> gains(static_cast<py::ssize_t>(result.gains.size()), result.gains.data());
  return py::make_tuple(indices, gains, result.restarts);
}

constexpr const char* kModuleDoc = "Null-space projection and greedy selection in C++; see nc_fast.backends.cpu.select.";

constexpr const char* kProjectorDoc = R"(Projector onto the orthogonal complement of the vectors added so far.

    P = I - sum_i q_i q_i^T,    q_i orthonormal

P itself is never formed: adding a vector is the rank-one update ``P <- P - q q^T``, held as one more row of ``basis``.
All arithmetic is in float64. May be shared by threads.

Parameters
----------
dim : int, >= 1
    D, the length of the vectors.

Raises
------
ValueError
    When ``dim`` is below 1.

Notes
-----
Vectors are orthogonalised twice ("twice is enough"). Residual norms are continued by Pythagoras and computed afresh where
that would cancel digits. A residual of at most 1e-6 of its vector's length is rounding noise and counts as 0.
Source: Mao et al., CIKM 2021 (arXiv 2108.06530), the selection in the null space of the picked weights.

Examples
--------
>>> import numpy as np
>>> from nc_fast._projector import NullSpaceProjector
>>> projector = NullSpaceProjector(2)
>>> projector.add(np.array([0.0, 2.0]))
2.0
>>> projector.residual_norms(np.array([[3.0, 0.0, 1.0], [4.0, 5.0, 0.0]])).round(12).tolist()
[3.0, 0.0, 1.0]
)";

constexpr const char* kAddDoc = R"(Extend the span by a vector.

Parameters
----------
vector : (D,) float32 or float64, finite

Returns
-------
float
    ``||P vector||`` from before the call; 0.0 when the vector lies in the span (ratio <= 1e-6), which then stays as it is.

Raises
------
TypeError
    When ``vector`` is no NumPy array of float32 or float64.
ValueError
    When its shape is wrong, or it holds NaN or infinity.
)";

constexpr const char* kResidualNormsDoc = R"(Return ``||P w||`` for every column w of W.

Parameters
----------
W : (D, M) float32 or float64, finite
    Any memory layout; columns are vectors.

Returns
-------
(M,) float64
    0.0 where the ratio is at most 1e-6.

Raises
------
TypeError
    When W is no NumPy array of float32 or float64.
ValueError
    When its shape is wrong, or it holds NaN or infinity.
)";

constexpr const char* kRatiosDoc =
    R"(Return ``||P w|| / ||w||`` for every column w of W; 0.0 where it is at most 1e-6, and for a zero column.

Parameters, errors and layout are those of ``residual_norms``.

Returns
-------
(M,) float64 in [0, 1]
)";

constexpr const char* kGreedySelectDoc =
    R"(Pick ``quota[p]`` columns of every pool p, greedily, in the null space of the pool's picks.

    gain = score * ratio  (score >= 0),   score / ratio  (score < 0),   ratio = ||P w|| / ||w||

Parameters
----------
W : (D, M) float32 or float64, finite
    Any memory layout; columns are candidates.
score : (M,) float64, finite
pool : (M,) int64 in [-1, P)
    Pool of each candidate; -1: not eligible.
quota : (P,) int64
    Picks per pool, at most its members.
threads : int, >= 1
    The result has the same bits for every number.
lazy : bool
    False projects every candidate at every pick: slower, the same bits.
simd : "auto" or a name that ``simd_level`` knows
    The same bits at every level.
report : callable(done, total) or None
    Called from this thread, at most every 100 ms, and once at the end.

Returns
-------
indices : (sum(quota),) int64
    Pools in order, within a pool in order of picking.
gains : (sum(quota),) float64
    Gain of each pick when it was picked.
restarts : int
    How often a pool's rank was exhausted and its span emptied.

Raises
------
TypeError
    When an array is of another kind; nothing is converted.
ValueError
    When a shape or a value is wrong; the message names the argument.
KeyboardInterrupt
    Within a tenth of a second of Ctrl-C.

Notes
-----
Source: Mao et al., CIKM 2021 (arXiv 2108.06530); lazy evaluation: Minoux (1978).

Examples
--------
>>> import numpy as np
>>> from nc_fast._projector import greedy_select
>>> W = np.array([[1.0, 2.0, 0.0], [0.0, 0.0, 1.0]])  # the first two are parallel
>>> greedy_select(W, np.array([3.0, 2.0, 1.0]), np.zeros(3, np.int64), np.array([2]))
(array([0, 2]), array([3., 1.]), 0)
)";

}  // namespace

PYBIND11_MODULE(_projector, module) {
  module.doc() = kModuleDoc;

  py::class_<SharedProjector>(module, "NullSpaceProjector", kProjectorDoc)
      .def(py::init(&make_projector), py::arg("dim"))
      .def("add", &add, py::arg("vector"), kAddDoc)
      .def(
          "residual_norms",
          [](const SharedProjector& self, const py::object& W) {
            return residuals(self, W, [](const Residual& residual) { return residual.ratio() * residual.length; });
          },
          py::arg("W"), kResidualNormsDoc)
      .def(
          "ratios",
          [](const SharedProjector& self, const py::object& W) {
            return residuals(self, W, [](const Residual& residual) { return residual.ratio(); });
          },
          py::arg("W"), kRatiosDoc)
      .def(
          "reset", [](SharedProjector& self) { self.write([](NullSpaceProjector& projector) { projector.reset(); }); },
          "Empty the span.")
      .def("copy", &copy, "Return an independent projector with the same basis.")
      .def("__copy__", &copy)
      .def(
          "__deepcopy__", [](const SharedProjector& self, const py::dict&) { return copy(self); }, py::arg("memo"))
      .def(py::pickle(&get_state, &from_state))
      .def("__repr__", &repr)
      .def_property_readonly("dim", &SharedProjector::dim, "D, the length of the vectors.")
      .def_property_readonly(
          "rank",
          [](const SharedProjector& self) {
            return self.read([](const NullSpaceProjector& projector) { return projector.rank(); });
          },
          "Dimension of the span.")
      .def_property_readonly("basis", &basis, "Orthonormal basis of the span, (rank, dim) float64, a copy.");

  module.def("greedy_select", &greedy_select, py::arg("W"), py::arg("score"), py::arg("pool"), py::arg("quota"),
             py::kw_only(), py::arg("threads") = 1, py::arg("lazy") = true, py::arg("simd") = "auto",
             py::arg("report") = py::none(), kGreedySelectDoc);
  module.def(
      "simd_level", [] { return simd_name(nc_fast::best_simd()); },
      "Return the instruction set that the loops use on this machine: \"avx2+fma\" or \"baseline\".");
}
