"""The files that a group of the configuration can be set to: ``job=NAME`` takes ``conf/job/NAME.yaml``."""

from __future__ import annotations

from pathlib import Path

GROUPS = ("job", "prompt", "dataset", "model", "engine", "fleet")


def group_files(group: str, config_dir: str | None = None) -> dict[str, Path]:
    """A group's files by name; a user's own take the place of ours."""
    import conf

    folders = [Path(folder) for folder in (next(iter(conf.__path__)), config_dir) if folder]
    files = (file for folder in folders for file in sorted((folder / group).rglob("*.yaml")))
    return {str(file.with_suffix("")).rpartition(f"/{group}/")[2]: file for file in files}
