"""Guesses which field a client meant by a name that requests do not have: other try-on services use many."""

import re
from collections.abc import Collection
from difflib import get_close_matches

# Words of the names that other services and web pages have for a field, most telling first.
WORDS = {
    "mask_image": "mask agnostic inpaint",
    "cloth_type": "category type part kind",
    "num_inference_steps": "step steps timesteps",
    "guidance_scale": "cfg guidance scale",
    "seed": "seed",
    "webhook_url": "webhook webhooks callback",
    "upload_urls": "upload uploads presigned",
    "output_quality": "quality compression",
    "output_format": "format extension mime",
    "num_images": "samples n num number count batch outputs",
    "workflow": "workflow pipeline name version",
    "width": "w width",
    "height": "h height",
    "garment_image": "garment garments garm cloth cloths clothes clothing product products outfit apparel top tops "
    "bottom bottoms upper lower dress shirt item reference refer ref",
    "person_image": "person human model user subject target body avatar portrait people customer init source src",
}
FIELD_OF_WORD = {word: field for field, words in reversed(WORDS.items()) for word in words.split()}
ORDER = list(WORDS)
IMAGE_WORDS = set("image images img imgs photo photos picture pic".split())
# Fields with these have no counterpart, whatever else their names say.
OTHER_WORDS = set("prompt des desc description caption text id".split())
SIMILARITY = 0.85
MAX_NAME_LENGTH = 64  # longer ones are no misspellings, and comparing takes time by their length
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


def meant_field(name: str, known: Collection[str]) -> str | None:
    """Returns the one of the `known` fields that `name` probably stands for, or None."""
    name = name[:MAX_NAME_LENGTH]
    words = [word.lower() for word in WORD.findall(name)]
    if not words or OTHER_WORDS.intersection(words):
        return None
    near = get_close_matches("_".join(words), known, 1, SIMILARITY)
    if near:
        return near[0]
    found = sorted({FIELD_OF_WORD[word] for word in words if word in FIELD_OF_WORD}, key=ORDER.index)
    if not found and IMAGE_WORDS.intersection(words):
        found = ["person_image"]
    return found[0] if found and found[0] in known else None
