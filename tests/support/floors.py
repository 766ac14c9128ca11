"""The oldest versions that pyproject.toml names, as pins (`make test-oldest`)."""

from __future__ import annotations

from pathlib import Path

from hatchling.metadata.core import ProjectMetadata
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def requirements() -> dict[str, list[Requirement]]:
    """What each extra of pyproject.toml asks for; "" are the dependencies of the package itself."""
    project = ProjectMetadata(str(ROOT), None).core
    asked = {"": project.dependencies, **project.optional_dependencies}
    return {extra: [Requirement(line) for line in lines] for extra, lines in asked.items()}


def pins(*extras: str) -> list[str]:
    """`name==floor` of everything that is asked for, in the order of its names."""
    asked = [need for extra in ("", *extras) for need in requirements()[extra]]
    return sorted(f"{need.name}{need.specifier}".replace(">=", "==") for need in asked)


if __name__ == "__main__":
    print("\n".join(pins("test")))
