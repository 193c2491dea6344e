#include "greedy.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <queue>
#include <utility>

#include "candidates.hpp"
#include "task_runner.hpp"
#include "tolerances.hpp"

namespace nc_fast {

namespace {

constexpr double kWorthThreads = 2e6;  // multiplications; a thread starts in the time of some ten thousand

struct Entry {
  double gain;  // or an upper bound of it
  std::size_t member;
  // Heap order: of equal gains the lowest index comes first.
  bool operator<(const Entry& other) const { return gain != other.gain ? gain < other.gain : member > other.member; }
};

// The tie rule: of the candidates whose gains were computed at one pick, the lowest of those tied with the best wins.
class Contest {
 public:
  const std::vector<Entry>& entries() const { return entries_; }

  void add(const Entry& entry) {
    entries_.push_back(entry);
    best_ = std::max(best_, entry.gain);
  }

  // Whether a candidate of at most this gain may win. At a gain of 0 or -inf ties are exact and can be as many as
  // candidates: of those the lowest is at the front of the heap, and does not win against a lower one.
  bool may_win(const Entry& bound) const {
    return entries_.empty() || bound.gain > least_tied() ||
           (bound.gain == least_tied() && bound.member < winner().member);
  }

  Entry winner() const {
    Entry lowest{best_, std::numeric_limits<std::size_t>::max()};
    for (const Entry& entry : entries_) {
      if (entry.gain >= least_tied() && entry.member < lowest.member) lowest = entry;
    }
    return lowest;
  }

 private:
  double least_tied() const { return best_ - kTieTolerance * std::abs(best_); }

  std::vector<Entry> entries_;
  double best_ = -std::numeric_limits<double>::infinity();
};

// The greedy loop over one group.
//
// A ratio never grows while the span does, so the gain computed last bounds a candidate's gain now. The candidates wait
// in a heap by that bound (Minoux 1978); only those whose bound reaches the best exact gain are brought up to date.
template <class T>
class LazyGreedy {
 public:
  LazyGreedy(Candidates<T>& candidates, bool lazy) : candidates_(candidates), lazy_(lazy) {}

  // Picks the given members, then others up to the quota. Returns how often the group's rank was exhausted and its span
  // emptied.
  std::int64_t run(const std::vector<std::size_t>& given, std::size_t quota, std::int64_t* indices, double* gains,
                   std::atomic<std::size_t>& done) {
    std::int64_t restarts = 0;
    std::size_t pick = 0;
    const auto make_pick = [&](const Entry& entry) {
      candidates_.pick(entry.member);
      indices[pick] = static_cast<std::int64_t>(candidates_.column(entry.member));
      gains[pick] = entry.gain;
      ++pick;
      done.fetch_add(1, std::memory_order_relaxed);
    };
    for (const std::size_t member : given) {
      if (candidates_.exhausted()) {
        candidates_.empty_span();
        ++restarts;
      }
      make_pick({candidates_.gain(member), member});
    }
    fill_heap(&Candidates<T>::gain_alone);
    while (pick < quota) {
      if (!lazy_) fill_heap(&Candidates<T>::gain);
      const Entry best = pop_best();
      if (candidates_.in_span(best.member) && candidates_.exhausted()) {
        candidates_.empty_span();
        fill_heap(&Candidates<T>::gain_alone);
        ++restarts;
        continue;
      }
      make_pick(best);
    }
    return restarts;
  }

 private:
  void fill_heap(double (Candidates<T>::*bound)(std::size_t)) {
    std::vector<Entry> entries;
    for (std::size_t i = 0; i < candidates_.size(); ++i) {
      if (!candidates_.picked(i)) entries.push_back({(candidates_.*bound)(i), i});
    }
    heap_ = std::priority_queue<Entry>(std::less<Entry>(), std::move(entries));
  }

  // Takes the winner, with its exact gain, out of the heap.
  Entry pop_best() {
    Contest contest;
    while (!heap_.empty() && contest.may_win(heap_.top())) {
      const std::size_t member = heap_.top().member;
      heap_.pop();
      if (const auto bound = candidates_.tighter_bound(member)) {
        heap_.push({*bound, member});
      } else {
        contest.add({candidates_.gain(member), member});
      }
    }
    const Entry winner = contest.winner();
    for (const Entry& loser : contest.entries()) {
      if (loser.member != winner.member) heap_.push(loser);
    }
    return winner;
  }

  Candidates<T>& candidates_;
  bool lazy_;
  std::priority_queue<Entry> heap_;
};

struct Group {
  std::vector<std::size_t> members;
  std::vector<std::size_t> given;  // places among the members
  std::size_t quota;
  std::size_t offset;  // of its picks among those of all groups

  // Multiplications, were every member projected at every pick.
  double work(std::size_t dim) const {
    return static_cast<double>(members.size()) * static_cast<double>(quota) * static_cast<double>(dim);
  }
};

std::vector<Group> groups_of(const std::int64_t* group, std::size_t columns, const std::vector<std::size_t>& quota,
                             const std::vector<std::int64_t>& given) {
  std::vector<Group> groups;
  std::size_t offset = 0;
  for (const std::size_t picks : quota) {
    groups.push_back({{}, {}, picks, offset});
    offset += picks;
  }
  for (std::size_t j = 0; j < columns; ++j) {
    if (group[j] >= 0) groups[static_cast<std::size_t>(group[j])].members.push_back(j);
  }
  for (const std::int64_t j : given) {
    Group& of = groups[static_cast<std::size_t>(group[j])];
    const auto place = std::lower_bound(of.members.begin(), of.members.end(), static_cast<std::size_t>(j));
    of.given.push_back(static_cast<std::size_t>(place - of.members.begin()));
  }
  return groups;
}

// Members of a group that the greedy loop is likely to evaluate: a guess that decides what is gathered in one sweep,
// not what is right. After `quota` picks a vector in general position keeps sqrt(1 - quota / D) of its length, so the
// last pick gains about that share of the quota-th highest score, and what cannot gain as much is never looked at.
void append_likely(const Group& group, const double* score, std::size_t dim, std::vector<std::size_t>& likely) {
  if (group.quota == 0) return;
  const double left = 1 - static_cast<double>(group.quota) / static_cast<double>(dim);
  if (left <= 0) {
    likely.insert(likely.end(), group.members.begin(), group.members.end());
    return;
  }
  std::vector<double> scores;
  for (const std::size_t j : group.members) scores.push_back(score[j]);
  const auto last_pick = scores.begin() + static_cast<std::ptrdiff_t>(group.quota) - 1;
  std::nth_element(scores.begin(), last_pick, scores.end(), std::greater<double>());
  const double least = gain_of(*last_pick, std::sqrt(left));
  std::copy_if(group.members.begin(), group.members.end(), std::back_inserter(likely),
               [&](std::size_t j) { return score[j] >= least; });
}

}  // namespace

template <class T>
GreedyResult greedy_select(const MatrixView<T>& W, const double* score, const std::int64_t* group,
                           const std::vector<std::size_t>& quota, const std::vector<std::int64_t>& given,
                           const GreedyOptions& options, const std::function<void(std::size_t)>& poll) {
  std::vector<Group> groups = groups_of(group, W.columns, quota, given);
  std::vector<std::size_t> likely(given.begin(), given.end());
  std::size_t picks = 0;
  double work = 0;
  for (const Group& each : groups) {
    append_likely(each, score, W.rows, likely);
    picks += each.quota;
    work += each.work(W.rows);
  }
  std::sort(likely.begin(), likely.end());
  likely.erase(std::unique(likely.begin(), likely.end()), likely.end());
  // The longest first, so that no thread starts one when the others are done.
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const Group& a, const Group& b) { return a.work(W.rows) > b.work(W.rows); });

  GreedyResult result;
  result.indices.resize(picks);
  result.gains.resize(picks);
  std::atomic<std::size_t> done{0};
  std::atomic<std::int64_t> restarts{0};
  TaskRunner runner(work < kWorthThreads ? 0 : std::max<std::size_t>(options.threads, 1),
                    [&] { poll(done.load(std::memory_order_relaxed)); });
  Columns<T> columns(W);
  runner.run(columns.plan(std::move(likely)), [&](std::size_t block) {
    runner.check_stopped();
    columns.fill(block);
  });
  runner.run(groups.size(), [&](std::size_t g) {
    const Group& each = groups[g];
    Candidates<T> candidates(columns, W.rows, each.members, score, options.simd, runner);
    LazyGreedy<T> loop(candidates, options.lazy);
    restarts +=
        loop.run(each.given, each.quota, result.indices.data() + each.offset, result.gains.data() + each.offset, done);
  });
  result.restarts = restarts;
  return result;
}

#define NC_FAST_INSTANTIATE(T)                                                                           \
  template GreedyResult greedy_select(const MatrixView<T>&, const double*, const std::int64_t*,          \
                                      const std::vector<std::size_t>&, const std::vector<std::int64_t>&, \
                                      const GreedyOptions&, const std::function<void(std::size_t)>&);
NC_FAST_INSTANTIATE(float)
NC_FAST_INSTANTIATE(double)
#undef NC_FAST_INSTANTIATE

}  // namespace nc_fast
