// A list of tasks on threads that stop together. Free of Python.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <functional>
#include <mutex>
#include <utility>

namespace nc_fast {

/// Runs task(0) .. task(count - 1) on threads; whatever a task or `poll` throws stops the others and is thrown on.
class TaskRunner {
 public:
  /// `poll` is called from the thread that calls `run`, about every 50 ms; never where `threads` is 0, which runs the
  /// tasks in that thread itself.
  TaskRunner(std::size_t threads, std::function<void()> poll) : threads_(threads), poll_(std::move(poll)) {}

  /// For a task to call now and then: leaves it when the others have stopped.
  void check_stopped() const {
    if (stop_.load(std::memory_order_relaxed)) throw Stopped{};
  }

  void run(std::size_t count, const std::function<void(std::size_t)>& task);

 private:
  struct Stopped {};

  void run_threads(std::size_t count, const std::function<void()>& work);

  std::size_t threads_;
  std::function<void()> poll_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::exception_ptr error_;
};

}  // namespace nc_fast
