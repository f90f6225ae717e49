import pytest


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow at their full length")


@pytest.fixture
def slow(request):
    """Whether tests marked slow run at full length."""
    return request.config.getoption("--slow")
