"""The hub's client made to give up: by itself it waits for ever for a server that takes connections and is silent."""

from __future__ import annotations

import logging
from typing import Any

log = logging.getLogger("rowmill")


def reachable(what: str, offline: bool) -> bool:
    """Whether the hub may be asked for ``what``: not with ``offline``, nor if it does not answer, which is told.

    From then on each request gives up when nothing comes for HF_HUB_DOWNLOAD_TIMEOUT seconds (10 by default).
    """
    if offline:
        return False
    from huggingface_hub import constants, get_session, set_client_factory

    set_client_factory(_client)
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except Exception:  # of whatever HTTP library the client uses
        log.warning("the hub does not answer: looking for %s in the cache", what)
        return False
    return True


def _client() -> Any:
    from huggingface_hub.utils._http import default_client_factory

    client = default_client_factory()
    client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks.get("request", []), _bound]}
    return client


def _bound(request: Any) -> None:
    from huggingface_hub import constants

    asked = request.extensions.get("timeout") or {}
    kinds = ("connect", "read", "write", "pool")
    bound = {kind: asked.get(kind) or constants.HF_HUB_DOWNLOAD_TIMEOUT for kind in kinds}
    request.extensions = {**request.extensions, "timeout": bound}
