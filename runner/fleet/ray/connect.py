"""From ``fleet.address`` to a cluster that answers."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from runner.fleet.ray.actors import RayTransport
from runner.fleet.ray.nodes import ANSWER_S
from runner.fleet.ray.quiet import silence, undisturbed, unheard
from runner.fleet.ray.refusal import SAME_TOKEN, of_address, refused
from runner.types import UserError
from runner.words import first_line

# Without the first, a Mac's address is 127.0.0.1.
SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_AUTO = "auto"
_SETTINGS, _FRAME = b"\4", 9  # how servers of HTTP/2, which gRPC goes over, begin; bytes of a frame's head
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + _SETTINGS + bytes(5)  # and how clients do
_NO_ANSWER = "no Ray cluster answers there"


def connect(address: str) -> RayTransport | None:
    """The way to a cluster; None if ``auto`` finds none. UserError if there is none at another address, or no Ray."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if address != _AUTO:
        _place_of(address, address)
    try:
        import ray
    except ImportError as error:
        raise UserError("fleet", "it needs Ray: pip install -e '.[ray]'", value="ray") from error
    found, address = _found(ray._private.services) if address == _AUTO else (address, address)
    if not found:
        return None
    _check_answers(address, _place_of(found, address))
    try:
        with undisturbed():
            _check_same(ray, found)
            ray.init(address=found, namespace="rowmill", logging_level=logging.CRITICAL, log_to_driver=False)
    except ConnectionError as error:
        same = f"where it does run, Ray must be {ray.__version__} there, too, and {SAME_TOKEN}"
        raise of_address(address, f"{_NO_ANSWER} ({first_line(error)}; {same})") from error
    except Exception as error:
        raise refused(address, error) from error
    silence(ray)
    return RayTransport(ray, address)


def _found(services: Any) -> tuple[str, str]:
    """What ``auto`` is, empty if nothing of Ray runs here, and both as they are shown.

    Ray also believes a file that the last cluster has left, and waits for minutes where that is gone.
    """
    if named := os.environ.get("RAY_ADDRESS"):
        return named, f"{_AUTO} (RAY_ADDRESS={named})"
    with unheard():
        found = services.canonicalize_bootstrap_address(_AUTO) if services.find_gcs_addresses() else ""
    return found, f"{_AUTO} ({found})"


def _place_of(address: str, shown: str) -> tuple[str, int]:
    """The host and the port. UserError for what else Ray takes: ``local`` starts a new cluster."""
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not (port.isdecimal() and 0 < int(port) < 1 << 16):
        problem = "it takes auto, or the host and port of the cluster's head, such as 10.0.0.5:6379"
        raise UserError("fleet.address", problem, value=shown)
    return host.strip("[]"), int(port)


def _check_same(ray: Any, found: str) -> None:
    """Raise what Ray says of another token or version, where ``ray.init`` would go on trying for a while; nothing where
    this version of Ray cannot be asked.
    """
    try:
        from ray._common.usage.usage_lib import get_cluster_metadata
        from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled

        client, check_version = ray._raylet.GcsClient, ray._private.utils.check_version_info
    except (ImportError, AttributeError):
        return
    ensure_token_if_auth_enabled(create_token_if_missing=False)  # a client without one ends the process
    if known := get_cluster_metadata(client(address=found)):
        check_version(known, "this machine")


def _check_answers(address: str, place: tuple[str, int]) -> None:
    """Raise UserError where nothing listens, or what is no server of gRPC: Ray itself would wait for minutes."""
    try:
        with socket.create_connection(place, ANSWER_S) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_PREFACE)
            said = connection.recv(_FRAME)
    except OSError as error:
        raise of_address(address, f"{_NO_ANSWER} ({first_line(error)})") from error
    if said[3:4] != _SETTINGS:
        raise of_address(address, f"{_NO_ANSWER} (something else listens)")
