"""Labels in large JSON documents, streamed: COCO (instances, stuff, panoptic) and Visual Genome."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term, kind
from qrp_store.readers.labels.text_tables import not_utf8
from qrp_store.samples import shown


def first_event(source: Source) -> str:
    """What a JSON document begins with: `start_map`, `start_array`, … Raises InvalidInput."""
    import ijson

    with _opened(source) as file:
        try:
            return str(next(iter(ijson.basic_parse(file)))[0])
        except (ijson.JSONError, StopIteration) as error:
            raise _no_json(source, error) from error


def _items(source: Source, prefix: str) -> Iterator[Any]:
    """The elements at a place of a JSON document, one after the other."""
    import ijson

    with _opened(source) as file:
        try:
            yield from ijson.items(file, prefix, use_float=True)
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise _no_json(source, error) from error


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    """A JSON document from its first character on. Raises InvalidInput for UTF-16."""
    with source.path.open("rb") as file:
        start = file.read(4)
        if b"\0" in start or start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise not_utf8(source)
        file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
        yield file


def _no_json(source: Source, error: Exception) -> InvalidInput:
    said = (str(error) or "it is empty").splitlines()[0]
    return InvalidInput(f"{source}: not JSON, or damaged ({said})")


def read_coco(source: Source) -> Iterator[LabelRows]:
    """COCO's instances, stuff and panoptic annotations: a category holds for an image that has one annotation of it.

    The key is the image's `file_name`, the group the category's `supercategory`. Every image that the file lists was
    looked at for every category. Memory: the images' and categories' names and one batch.
    """
    batch = Batch(source, scored=False)
    categories = _categories(source, batch)
    images = _images(source, batch)
    vocabulary = list(categories.values())
    for listed in images.values():
        batch.seen.append(listed)
        if batch.full:
            yield batch.take(vocabulary)
    number = 0
    for number, annotation in enumerate(_items(source, "annotations.item"), start=1):
        place = f"annotation {number}"
        key = images.get(_field(source, place, annotation, "image_id"))
        if key is None:
            raise InvalidInput(
                f"{source}: {place} is of image {annotation['image_id']!r}, which the file does not list",
                hint="every image_id of the annotations must be an id of images",
            )
        segments = annotation.get("segments_info", [annotation])
        if not isinstance(segments, list):
            raise InvalidInput(f"{source}: {place}: segments_info is {kind(segments)}, expected a list")
        for identifier in sorted({_field(source, place, s, "category_id") for s in segments}, key=str):
            if identifier not in categories:
                raise InvalidInput(f"{source}: {place} is of category {identifier!r}, which the file does not list")
            name, group = categories[identifier]
            batch.add(place, key, name, None, group)
        if batch.full:
            yield batch.take(vocabulary)
    if not number:
        raise InvalidInput(f"{source}: has no annotations", hint="expected COCO instances, stuff or panoptic JSON")
    yield batch.take(vocabulary)


def _field(source: Source, place: str, content: Any, name: str) -> Any:
    """A number or text of an object. Raises InvalidInput, naming the place, when it is not there."""
    value = content.get(name) if isinstance(content, Mapping) else None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InvalidInput(f"{source}: {place} has no {name}")
    return value


def _categories(source: Source, batch: Batch) -> dict[Any, Term]:
    found: dict[Any, Term] = {}
    owner: dict[str, Any] = {}
    for number, category in enumerate(_items(source, "categories.item"), start=1):
        place = f"category {number}"
        identifier = _field(source, place, category, "id")
        name = batch.text(f"category {identifier}", "name", category.get("name"))
        if identifier in found:
            raise InvalidInput(f"{source}: two categories have id {identifier}: {found[identifier][0]!r} and {name!r}")
        if owner.setdefault(name, identifier) != identifier:
            raise InvalidInput(f"{source}: categories {owner[name]} and {identifier} have one name, {shown(name)}")
        group = category.get("supercategory")
        found[identifier] = name, source.group if not group else batch.text(place, "supercategory", group)
    if not found:
        raise InvalidInput(f"{source}: has no categories", hint="expected COCO instances, stuff or panoptic JSON")
    return found


def _images(source: Source, batch: Batch) -> dict[Any, str]:
    found: dict[Any, str] = {}
    for number, image in enumerate(_items(source, "images.item"), start=1):
        place = f"image {number}"
        identifier = _field(source, place, image, "id")
        key = batch.text(place, "file_name", image.get("file_name"))
        if found.setdefault(identifier, key) != key:
            raise InvalidInput(f"{source}: two images have id {identifier}: {found[identifier]!r} and {key!r}")
    if not found:
        raise InvalidInput(f"{source}: lists no images", hint="expected COCO instances, stuff or panoptic JSON")
    return found


_LISTS = (
    "a list is read as Visual Genome's objects.json or attributes.json; rows of a table belong in a .jsonl, one a line"
)


def read_visual_genome(source: Source) -> Iterator[LabelRows]:
    """Visual Genome's objects.json or attributes.json: the first name of each object, or every attribute.

    The key is the image's id; groups are `object` and `attribute`. Annotators named what they saw, so what is not
    there is unknown; nothing is marked as checked. Memory: one image and one batch.
    """
    batch = Batch(source, scored=False)
    for number, image in enumerate(_items(source, "item"), start=1):
        place = f"image {number}"
        if not isinstance(image, Mapping) or "image_id" not in image:
            raise InvalidInput(f"{source}: {place} has no image_id", hint=_LISTS)
        key = str(_field(source, place, image, "image_id"))
        described = image.get("attributes", image.get("objects"))
        if not isinstance(described, list) or not all(isinstance(thing, Mapping) for thing in described):
            raise InvalidInput(f"{source}: {place} has no list of objects and none of attributes", hint=_LISTS)
        group = "attribute" if "attributes" in image else "object"
        for name in sorted(set(_said(described, group))):
            batch.add(place, key, name, None, group)
        if batch.full:
            yield batch.take()
    yield batch.take()


def _said(described: list[Mapping[str, Any]], group: str) -> Iterator[str]:
    """What annotators wrote, in lower case, blanks in order."""
    for thing in described:
        words = thing.get("attributes") if group == "attribute" else thing.get("names") or thing.get("name")
        words = [words] if isinstance(words, str) else words if isinstance(words, list) else []
        words = words if group == "attribute" else words[:1]
        yield from (" ".join(word.lower().split()) for word in words if isinstance(word, str) and word.strip())
