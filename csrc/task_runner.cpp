#include "task_runner.hpp"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace nc_fast {

namespace {

struct Joined {
  std::vector<std::thread> threads;
  ~Joined() {
    for (std::thread& thread : threads) thread.join();
  }
};

}  // namespace

void TaskRunner::run(std::size_t count, const std::function<void(std::size_t)>& task) {
  next_ = 0;
  const auto work = [&] {
    try {
      for (std::size_t i = next_++; i < count; i = next_++) task(i);
    } catch (const Stopped&) {
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!error_) error_ = std::current_exception();
      stop_ = true;
    }
  };
  const std::size_t threads = std::min(threads_, count);
  if (threads == 0) {
    work();
  } else {
    run_threads(threads, work);
  }
  if (error_) std::rethrow_exception(error_);
}

void TaskRunner::run_threads(std::size_t count, const std::function<void()>& work) {
  std::size_t running = 0;
  std::condition_variable finished;
  Joined workers;
  workers.threads.reserve(count);
  const auto worker = [&] {
    work();
    const std::lock_guard<std::mutex> lock(mutex_);
    --running;
    finished.notify_one();
  };
  std::unique_lock<std::mutex> lock(mutex_);
  try {
    for (; running < count; ++running) workers.threads.emplace_back(worker);
  } catch (const std::system_error&) {  // no more threads to be had: fewer do the same work
  } catch (const std::bad_alloc&) {     // as above
  }
  if (running == 0) {
    lock.unlock();
    work();
    return;
  }
  while (!finished.wait_for(lock, std::chrono::milliseconds(50), [&] { return running == 0; })) {
    lock.unlock();
    try {
      poll_();
    } catch (...) {
      stop_ = true;
      throw;
    }
    lock.lock();
  }
}

}  // namespace nc_fast
