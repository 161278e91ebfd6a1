"""Several checkpoints of one architecture over the same images: each picture is decoded and scaled once for all.

On a CPU the weights of a series are mapped from a temporary file, so that the system can drop what does not fit into
memory: a series of any length needs the memory of one checkpoint.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from qrp_store.errors import InvalidInput, Unavailable, first_line
from qrp_store.models.backbone import BackboneOptions, LoadedBackbone, load_backbone

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class Embedder(Protocol):
    """What makes vectors of pictures; as `LoadedBackbone` has it."""

    @property
    def widths(self) -> tuple[int, ...]: ...

    @property
    def dim(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def specs(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def provenances(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def notes(self) -> tuple[str, ...]: ...

    @property
    def image_size(self) -> int: ...

    def transform(self, image: Image) -> torch.Tensor: ...

    def forward(self, batch: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class Series:
    """Backbones whose pictures are scaled alike. Their vectors are joined, checkpoint by checkpoint."""

    members: tuple[LoadedBackbone, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(chain.from_iterable(member.widths for member in self.members))

    @property
    def dim(self) -> int:
        return sum(self.widths)

    @property
    def device(self) -> str:
        return self.members[0].device

    @property
    def specs(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(chain.from_iterable(member.specs for member in self.members))

    @property
    def provenances(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(chain.from_iterable(member.provenances for member in self.members))

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(chain.from_iterable(member.notes for member in self.members)))

    @property
    def image_size(self) -> int:
        return self.members[0].image_size

    def transform(self, image: Image) -> torch.Tensor:
        """As `LoadedBackbone.transform`."""
        return self.members[0].transform(image)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """As `LoadedBackbone.forward`, of every member."""
        import torch

        return torch.cat([member.forward(batch) for member in self.members], 1)


def load_together(options: Sequence[BackboneOptions]) -> Embedder:
    """Load one backbone, or several whose pictures are scaled alike. Raises as `load_backbone` does."""
    if len(options) == 1:
        return load_backbone(options[0])
    loaded = tuple(_mapped(load_backbone(each)) for each in options)
    first = _scaling(loaded[0])
    for each, member in zip(options, loaded, strict=True):
        if _scaling(member) != first:
            raise InvalidInput(
                f"{each.weights}: scales images otherwise than {options[0].weights}",
                hint="ingest them one by one, or name --resize, --crop, --image-size and --interpolation",
            )
    return Series(loaded)


def _mapped(member: LoadedBackbone) -> LoadedBackbone:
    """Put a backbone's weights into a temporary file and map them from there. On a GPU, return it unchanged.

    The file has no name from then on: it is gone when the backbone is. Raises Unavailable when the disk is full.
    """
    import torch

    model = member._model
    if member.device != "cpu" or not isinstance(model, torch.nn.Module) or not any(True for _ in model.parameters()):
        return member
    try:
        with tempfile.NamedTemporaryFile(prefix="qrp-weights-", suffix=".pt") as file:
            torch.save(model.state_dict(), file.name)
            state = torch.load(file.name, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise Unavailable(
            f"{tempfile.gettempdir()}: the weights of a series cannot be put here ({first_line(error)})",
            hint="TMPDIR names another folder; or ingest the checkpoints one by one",
        ) from error
    model.load_state_dict(state, assign=True)
    model.requires_grad_(False)
    return member


def _scaling(member: LoadedBackbone) -> dict[str, Any]:
    document = member.specs[0]["preprocessing"]
    return {name: value for name, value in document.items() if name not in ("mean", "std")}
