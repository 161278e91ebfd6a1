"""COCO's annotations (instances, stuff, panoptic) and the files of its family: LVIS, Objects365, iNaturalist, …"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from qrp_store.errors import InvalidInput
from qrp_store.readers.labels.file_keys import FileKeys, is_elsewhere
from qrp_store.readers.labels.json_documents import Document
from qrp_store.readers.labels.rows import Batch, LabelRows, Source, Term, kind
from qrp_store.samples import shown

_EXPECTED = "expected COCO instances, stuff or panoptic JSON"


def read_coco(source: Source) -> Iterator[LabelRows]:
    """COCO's annotations: a category holds for an image that has one annotation of it.

    The key is the image's `file_name`, or the end of its `coco_url`; the group is the category's `supercategory`. Every
    image that the file lists was looked at for every category. Memory: the images' and categories' names, one batch.
    """
    document = Document(source)
    batch = Batch(source, scored=False)
    categories = _categories(document, batch)
    images = {identifier: key for identifier, key, _ in _images(document, batch)}
    vocabulary = list(categories.values())
    for key in images.values():
        batch.seen.append(key)
        if batch.full:
            yield batch.take(vocabulary)
    for place, key, (name, group) in _annotations(document, images, categories):
        batch.add(place, key, name, None, group)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def read_inaturalist(source: Source) -> Iterator[LabelRows]:
    """iNaturalist's JSON: COCO's layout with one species an image, which says nothing of the other species."""
    return (replace(rows, seen=()) for rows in read_coco(source))


def read_lvis(source: Source) -> Iterator[LabelRows]:
    """LVIS: only some categories were looked at in each image; the rest is unknown, not absent.

    Looked at are an image's annotated categories, its `neg_category_ids` (absent) and its
    `not_exhaustive_category_ids`. The key is `file_name`, or the end of `coco_url`.
    """
    document = Document(source)
    batch = Batch(source, scored=True)
    categories = _categories(document, batch)
    vocabulary = list(categories.values())
    images: dict[Any, str] = {}
    for identifier, key, image in _images(document, batch):
        images[identifier] = key
        for listed in ("neg_category_ids", "not_exhaustive_category_ids"):
            for category in _looked_at(source, identifier, image, listed):
                name, group = _known(source, f"image {identifier}: {listed}", category, categories)
                batch.pair(key, name, group, holds=False)
        if batch.full:
            yield batch.take(vocabulary)
    for _, key, (name, group) in _annotations(document, images, categories):
        batch.pair(key, name, group, holds=True)
        if batch.full:
            yield batch.take(vocabulary)
    yield batch.take(vocabulary)


def _looked_at(source: Source, identifier: Any, image: Mapping[str, Any], name: str) -> list[Any]:
    listed = image.get(name) or []
    if not isinstance(listed, list):
        raise InvalidInput(f"{source}: image {identifier}: {name} is {kind(listed)}, expected a list")
    return listed


def _annotations(
    document: Document, images: Mapping[Any, str], categories: Mapping[Any, Term]
) -> Iterator[tuple[str, str, Term]]:
    """Yield the place, key and category of every annotation; of a panoptic one, of each of its segments."""
    source = document.source
    number = 0
    for number, annotation in enumerate(document.items("annotations.item"), start=1):
        place = f"annotation {number}"
        identifier = _field(source, place, annotation, "image_id")
        key = images.get(identifier, images.get(_other_kind(identifier)))
        if key is None:
            raise InvalidInput(
                f"{source}: {place} is of image {identifier!r}, which the file does not list",
                hint="every image_id of the annotations must be an id of images",
            )
        segments = annotation.get("segments_info", [annotation])
        if not isinstance(segments, list):
            raise InvalidInput(f"{source}: {place}: segments_info is {kind(segments)}, expected a list")
        for category in sorted({_field(source, place, segment, "category_id") for segment in segments}, key=str):
            yield place, key, _known(source, place, category, categories)
    if not number:
        raise InvalidInput(f"{source}: has no annotations", hint=_EXPECTED)


def _known(source: Source, place: str, category: Any, categories: Mapping[Any, Term]) -> Term:
    plain = _whole(category)
    term = categories.get(plain, categories.get(_other_kind(plain))) if isinstance(plain, str | int) else None
    if term is None:
        raise InvalidInput(f"{source}: {place} is of category {category!r}, which the file does not list")
    return term


def _other_kind(identifier: Any) -> Any:
    """Return an id as text when it is a number, and as a number when it is the text of one."""
    if isinstance(identifier, int):
        return str(identifier)
    return int(identifier) if len(identifier) <= 20 and identifier.isdecimal() and identifier.isascii() else identifier


def _whole(value: Any) -> Any:
    """Return an id that was written as 1.0, as pandas does, as 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _field(source: Source, place: str, content: Any, name: str) -> Any:
    """Return a number or text of an object. Raises InvalidInput, naming the place, when it has none."""
    value = _whole(content.get(name)) if isinstance(content, Mapping) else None
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise InvalidInput(f"{source}: {place} has no {name}")
    return value


def _categories(document: Document, batch: Batch) -> dict[Any, Term]:
    """Return the categories by id. Of several with one name, each gets its supercategory or its id in brackets."""
    source = document.source
    terms: dict[Any, Term] = {}
    for number, category in enumerate(document.items("categories.item"), start=1):
        place = f"category {number}"
        identifier = _field(source, place, category, "id")
        name = batch.term(f"category {identifier}", category.get("name"), "name")
        if identifier in terms:
            raise InvalidInput(f"{source}: two categories have id {identifier}: {terms[identifier][0]!r} and {name!r}")
        group = category.get("supercategory")
        terms[identifier] = name, source.group if not group else batch.term(place, group, "supercategory")
    if not terms:
        raise InvalidInput(f"{source}: has no categories", hint=_EXPECTED)
    shared = {name for name, n in Counter(name for name, _ in terms.values()).items() if n > 1}
    if shared:
        by_group = Counter(terms.values())
        for identifier, (name, group) in terms.items():
            if name in shared:
                by = group if group is not None and by_group[name, group] == 1 else identifier
                terms[identifier] = f"{name} ({by})", group
        example = [name for identifier, (name, _) in terms.items() if name.rpartition(" (")[0] in shared]
        source.warn(
            f"{source}: {len(shared)} {'names belong' if len(shared) > 1 else 'name belongs'} to several categories, "
            f"which are kept apart: {', '.join(map(shown, example[:3]))}"
        )
    return terms


def _images(document: Document, batch: Batch) -> Iterator[tuple[Any, str, Mapping[str, Any]]]:
    """Yield the id, the key and the object of every image."""
    source, keys = document.source, FileKeys(document.source)
    names: dict[Any, str] = {}
    for number, image in enumerate(document.items("images.item"), start=1):
        place = f"image {number}"
        identifier = _field(source, place, image, "id")
        name = image.get("file_name") or image.get("coco_url") or image.get("file_name")
        key = batch.text(place, "file_name", name)
        if is_elsewhere(key):
            key = keys.of(key)
        if names.setdefault(identifier, key) != key:
            raise InvalidInput(f"{source}: two images have id {identifier}: {names[identifier]!r} and {key!r}")
        yield identifier, key, image
    if not names:
        raise InvalidInput(f"{source}: lists no images", hint=_EXPECTED)
