// Python's view of the projector and of the greedy loop; the GIL is released while they run.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
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

#include "arguments.hpp"
#include "docstrings.hpp"
#include "greedy.hpp"
#include "projector.hpp"
#include "tolerances.hpp"

namespace nc_fast {

namespace {

using Clock = std::chrono::steady_clock;

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

std::unique_ptr<SharedProjector> make_projector(const py::object& dim) {
  if (PyIndex_Check(dim.ptr()) == 0 || PyBool_Check(dim.ptr())) {
    throw py::type_error("dim: expected an integer, got " + std::string(py::repr(dim)));
  }
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
  with_view(W, [&](const auto& view) {
    self.read([&](const NullSpaceProjector& projector) {
      Timer signals(std::chrono::milliseconds(50));
      std::vector<double> scratch;
      view.visit_columns([&](std::size_t j, const auto* w) {
        Residual residual = measure_column(projector, w, j, scratch);
        projector.advance(w, residual, scratch);
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

py::tuple select_greedily(const py::object& W_object, const py::object& score_object, const py::object& pool_object,
                          const py::object& quota_object, const py::object& given_object, const py::int_& threads,
                          bool lazy, const std::string& simd, const py::object& report) {
  const py::array W = checked_matrix(W_object, std::nullopt);
  const auto columns = static_cast<std::size_t>(W.shape(1));
  const std::vector<double> score = checked_vector<double>("score", score_object, "M", columns);
  for (std::size_t j = 0; j < columns; ++j) {
    if (!std::isfinite(score[j])) wrong_entry("score", "finite values", score[j], j);
  }
  const std::vector<std::int64_t> group = checked_vector<std::int64_t>("group", pool_object, "M", columns);
  const std::vector<std::size_t> quota = checked_quota(quota_object, group);
  const std::vector<std::int64_t> given = checked_given(given_object, group, quota);
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
  const GreedyResult result = with_view(W, [&](const auto& view) {
    const py::gil_scoped_release released;
    return greedy_select(view, score.data(), group.data(), quota, given, options, poll);
  });
  if (!report.is_none()) report(total, total);
  py::array_t<std::int64_t> indices(static_cast<py::ssize_t>(result.indices.size()), result.indices.data());
  py::array_t<double> gains(static_cast<py::ssize_t>(result.gains.size()), result.gains.data());
  return py::make_tuple(indices, gains, result.restarts);
}

}  // namespace

PYBIND11_MODULE(_projector, module) {
  module.doc() = kModuleDoc;
  module.attr("RANK_TOLERANCE") = kRankTolerance;
  module.attr("TIE_TOLERANCE") = kTieTolerance;

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

  module.def("greedy_select", &select_greedily, py::arg("W"), py::arg("score"), py::arg("group"), py::arg("quota"),
             py::kw_only(), py::arg("given") = py::none(), py::arg("threads") = 1, py::arg("lazy") = true,
             py::arg("simd") = "auto", py::arg("report") = py::none(), kGreedySelectDoc);
  module.def(
      "simd_level", [] { return simd_name(best_simd()); },
      "Return the instruction set that the loops use on this machine: \"avx2+fma\" or \"baseline\".");
}

}  // namespace nc_fast
