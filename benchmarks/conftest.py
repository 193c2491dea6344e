"""Makes ``pytest benchmarks`` find the bench files; keeps host names out of the saved results."""


def pytest_configure(config):
    config.addinivalue_line("python_files", "bench_*.py")


def pytest_benchmark_update_machine_info(machine_info):
    machine_info.pop("node", None)
