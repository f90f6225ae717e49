"""What Ray says, as errors of ours."""

from __future__ import annotations

import re

from runner.fleet.protocol import Failed, GoneError
from runner.night.link import NO_MEMORY
from runner.types import EXIT_CANNOT_RUN, UserError
from runner.words import first_line

_MISMATCH = re.compile(r"Ray: (\S+).*?Python: (\S+).*?Ray: (\S+).*?Python: (\S+)", re.DOTALL)
_BLAMELESS = re.compile(r"node (has died|was|is) |node failure|unavailable|[Oo]wner|preempt", re.IGNORECASE)
_NO_ROWMILL = re.compile(r"ModuleNotFoundError|No module named|failed to import|cannot import")
_NO_TOKEN = re.compile("InvalidAuthToken|[Aa]uthentication token|Unauthenticated")
_REASON = re.compile(r"is dead because (.+?)(?:\.(?:\s|$)|\n|$)")
_NOT_REACHED = re.compile("all references to the actor were removed")  # Ray asks this process, which holds one
SAME_TOKEN = "RAY_AUTH_MODE must be the same here as where Ray was started, with the same ~/.ray/auth_token"
_HOW_REACHED = f"Ray cannot call this process from there: {SAME_TOKEN}, and no firewall in between"
_OUT_OF_MEMORY = re.compile("low on memory")  # "OOM" stands in what it says of any death: among what may be the cause
_PROCESS_DIED = "its worker process has died"
_HOW_DIED = "Ray's process there has died, of a full disk perhaps; its logs are in /tmp/ray/session_latest/logs there"


def of_address(address: str, text: str) -> UserError:
    """What keeps a run from the cluster at this address."""
    return UserError("fleet.address", text, value=address, exit_code=EXIT_CANNOT_RUN)


def refused(address: str, error: Exception) -> UserError:
    """Ray's exception as one line."""
    if found := _MISMATCH.search(str(error)):
        ray, python, our_ray, our_python = (word.rstrip(".,") for word in found.groups())
        there, here = f"Ray {ray} and Python {python}", f"Ray {our_ray} and Python {our_python}"
        same = "they must be the same, Python to the patch level"
        return of_address(address, f"the cluster runs {there}, this machine {here}: {same}")
    if _NO_TOKEN.search(str(error)):
        return of_address(address, f"the cluster does not know this machine's token: {SAME_TOKEN}")
    return of_address(address, f"Ray cannot connect: {first_line(error)}")


def told(error: Exception) -> Failed:
    """What Ray says of a seat that is gone. GoneError unless it can never be otherwise."""
    said = str(error)
    if _NOT_REACHED.search(said) and "never ran" in said:
        return Failed(_HOW_REACHED, is_final=True)
    if _NO_ROWMILL.search(said):
        return Failed(f"rowmill cannot be imported there: {_last_line(said)}", is_final=True)
    memory = bool(_OUT_OF_MEMORY.search(said) or NO_MEMORY.search(said))
    is_blameless = not memory and (bool(_BLAMELESS.search(said)) or type(error).__name__ == "ActorUnavailableError")
    if is_blameless:
        raise GoneError("because its node is gone", is_blameless=True)
    found = _REASON.search(said)
    cause = _HOW_DIED if found and found[1] == _PROCESS_DIED else found and found[1]
    why = f"because {cause}" if cause else f"of what Ray calls: {_last_line(said)}"
    raise GoneError("because memory ran out" if memory else why, memory=memory)


def _last_line(said: str) -> str:
    return (said.strip().splitlines() or [""])[-1].strip()
