"""The nodes under the names of the published CatVTON pack, so that its workflow files open and run."""

from .catvton import TryOnCatVTON, TryOnLoadCatVTON
from .masks import TryOnAutoMasker, TryOnLoadAutoMasker


class LoadCatVTONPipeline(TryOnLoadCatVTON):
    pass


class CatVTON(TryOnCatVTON):
    pass


class LoadAutoMasker(TryOnLoadAutoMasker):
    pass


class AutoMasker(TryOnAutoMasker):
    pass
