// What counts as zero and what counts as tied. nc_fast/tolerances.py holds the same two numbers for the other backends;
// tests/conftest.py compares them.
#pragma once

namespace nc_fast {

// A residual at most this fraction of its vector is rounding noise: the vector lies in the span and its ratio is 0.
constexpr double kRankTolerance = 1e-6;
// Gains this close, relative to the best, are tied; the lowest index wins, whatever the rounding.
constexpr double kTieTolerance = 1e-9;

}  // namespace nc_fast
