import pytest


@pytest.fixture(autouse=True)
def _one_thread():
    """These networks are small: threads cost far more than they bring when other processes are at work."""
    from init_cases import one_torch_thread  # here, for it needs torch; where that is absent, every module is skipped

    with one_torch_thread():
        yield
