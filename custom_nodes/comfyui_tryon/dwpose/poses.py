"""Holds who was found in an image, and chooses the one that a pose is drawn of."""

from typing import NamedTuple

import numpy as np

VISIBLE = 0.3
_BODY = slice(1, 14)  # neck, arms and legs


class Pose(NamedTuple):
    """Describes one person's pose in OpenPose's order: body 0-17, feet 18-23, face 24-91, hands 92-112 and 113-133."""

    points: np.ndarray
    """float64 (134, 2): x, y in pixels, which may lie outside the image."""
    scores: np.ndarray
    """float64 (134,): above 0.3 for a point that is seen."""


class Poses(NamedTuple):
    """Holds everybody in an image; if nobody was found, one person with the pose read from the whole image."""

    boxes: np.ndarray
    """float32 (N, 4), N >= 0: x0, y0, x1, y1 in pixels, highest score first."""
    points: np.ndarray
    """float64 (max(N, 1), 134, 2)."""
    scores: np.ndarray
    """float64 (max(N, 1), 134)."""

    @property
    def chosen(self) -> int:
        """Finds the person who fills most of the image: by the points seen, times the width and height they span.

        Which points span a person is read off the first person's scores, as the published program does.
        """
        scores = self.scores[:, _BODY]
        sums = np.where(scores > VISIBLE, scores, 0).sum(1)
        spans = np.stack([_extents(points[_BODY][scores[0] > VISIBLE]) for points in self.points])
        sizes = sums * spans.prod(1)
        return int((sizes if sizes.any() else sums).argmax())

    @property
    def pose(self) -> Pose:
        """Returns the chosen person's."""
        return Pose(self.points[self.chosen], self.scores[self.chosen])


def _extents(points: np.ndarray) -> np.ndarray:
    """Returns the width and height that `points` (N, 2) span, of coordinates above 0 alone."""
    columns = [column[column > 0] for column in points.T]
    return np.array([np.ptp(column) if len(column) else 0.0 for column in columns])
