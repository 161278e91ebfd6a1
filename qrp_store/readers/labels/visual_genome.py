"""Visual Genome's objects and attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.json_documents import Document
from qrp_store.readers.labels.rows import Batch, LabelRows, Source

_LISTS = (
    "a list is read as Visual Genome's objects.json or attributes.json; rows of a table belong in a .jsonl, one a line"
)


def read_visual_genome(source: Source) -> Iterator[LabelRows]:
    """Visual Genome's objects.json or attributes.json: the first name of each object, or every attribute.

    The key is the image's id; groups are `object` and `attribute`. Annotators named what they saw, so the rest is
    unknown; no pair is marked as looked at. Memory: one image and one batch.
    """
    batch = Batch(source, scored=False)
    for number, image in enumerate(Document(source).items("item"), start=1):
        place = f"image {number}"
        key = image.get("image_id") if isinstance(image, Mapping) else None
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise InvalidInput(f"{source}: {place} has no image_id", hint=_LISTS)
        described = image.get("attributes", image.get("objects"))
        if not isinstance(described, list) or not all(isinstance(thing, Mapping) for thing in described):
            raise InvalidInput(f"{source}: {place} has no list of objects and none of attributes", hint=_LISTS)
        group = "attribute" if "attributes" in image else "object"
        for name in sorted(set(_names(described, group))):
            batch.add(place, str(key), name, None, group)
        if batch.full:
            yield batch.take()
    yield batch.take()


def _names(described: list[Mapping[str, Any]], group: str) -> Iterator[str]:
    """Yield what annotators wrote, in lower case, with single blanks."""
    for thing in described:
        words = thing.get("attributes") if group == "attribute" else thing.get("names") or thing.get("name")
        words = [words] if isinstance(words, str) else words if isinstance(words, list) else []
        words = words if group == "attribute" else words[:1]
        yield from (" ".join(word.lower().split()) for word in words if isinstance(word, str) and word.strip())
