"""Which GPUs ship, and what they may be called."""

from __future__ import annotations

import os
from functools import cache
from importlib.resources import files
from pathlib import Path

from fasim.hardware.faults import Fault, Position, ProfileError, suggestion

# The form that people mean when they give none: the one most papers measure.
SHORT_NAMES: dict[str, str] = {
    "a100": "a100-sxm4-80gb",
    "a100-80": "a100-sxm4-80gb",
    "a100-80gb": "a100-sxm4-80gb",
    "a100-sxm": "a100-sxm4-80gb",
    "a100-sxm4": "a100-sxm4-80gb",
    "a100-40": "a100-sxm4-40gb",
    "a100-40gb": "a100-sxm4-40gb",
    "a100-pcie": "a100-pcie-80gb",
    "h100": "h100-sxm5",
    "h100-sxm": "h100-sxm5",
    "h200": "h200-sxm",
    "4090": "rtx4090",
    "rtx-4090": "rtx4090",
    "3090": "rtx3090",
    "rtx-3090": "rtx3090",
    "b200": "b200-sxm",
}


@cache
def shipped() -> dict[str, Path]:
    """Every shipped profile by name."""
    folder = Path(str(files("hardware_profiles")))
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find(asked: str | Path, relative_to: Path | None = None) -> tuple[Path, str | None]:
    """The file that `asked` means, and a note where it was a short name.

    A name is looked up among the shipped profiles, whatever its case. Text with a slash or
    ending in .yaml or .yml is a file, relative to `relative_to` where that is given.

    Raises:
        LookupError: no such name; the message says what there is.
    """
    text = str(asked)
    looks_like_file = os.sep in text or text.endswith((".yaml", ".yml"))
    if isinstance(asked, Path) or looks_like_file:
        return (relative_to / text if relative_to else Path(text)), None
    name = text.strip().lower().replace("_", "-").replace(" ", "-")
    full = SHORT_NAMES.get(name, name)
    if full in shipped():
        return shipped()[full], f"{text} stands for {full}" if full != text else None
    if relative_to is None and text and Path(text).exists():
        return Path(text), None
    close = suggestion(name, [*shipped(), *SHORT_NAMES])
    hint = f"did you mean {close}? " if close else ""
    raise LookupError(
        f"no GPU of the name {text!r}; {hint}there are {', '.join(shipped())}; "
        "or give a YAML file, as in ./my-gpu.yaml"
    )


def find_gpu(asked: str | Path) -> tuple[Path, str | None]:
    """`find` for what a person asked for.

    Raises:
        ProfileError: one fault, `--gpu: …`.
    """
    try:
        return find(asked)
    except LookupError as error:
        raise ProfileError([Fault(None, "--gpu", error.args[0])]) from None


def find_parent(asked: str, position: Position, child: Path) -> tuple[Path, str | None]:
    """`find` for what a profile `extends`.

    Raises:
        ProfileError: one fault at `position`: no such name or no such file.
    """
    try:
        path, note = find(asked, child.parent)
    except (LookupError, ValueError) as error:
        raise ProfileError([Fault(position, "extends", error.args[0])]) from None
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        message = f"{path}: {what}; give a file relative to this one, or a name such as h100-sxm5"
        raise ProfileError([Fault(position, "extends", message)])
    return path, note
