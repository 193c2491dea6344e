"""The quickest part of `make sanitize`: the C++ driver under AddressSanitizer and UBSan, and that they are at work."""

import shutil

import pytest

pytest.importorskip("typer")

import sanitize


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_projector_is_clean_under_address_and_undefined_behaviour_sanitizers():
    sanitize.watch("g++", "address")
