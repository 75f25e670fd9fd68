"""The words that options and arguments take. No imports: `--help` reads them at once."""

OUTPUTS = ("mask", "saliency", "cutout", "overlay", "regions")
"""What can be drawn of the object in a photo or a frame."""

SEMANTIC_OUTPUTS = ("labels", "overlay")
"""What can be drawn of a photo's classes."""

ANNOTATIONS = ("coco", "yolo", "labelstudio")
"""Files for labelling tools: one for all photos, but YOLO has one for each."""

MASK_FORMATS = ("rle", "polygon")
"""How a COCO file holds masks: exact runs of pixels, or outlines that can be edited."""

REFINEMENTS = ("none", "guided", "colour", "grabcut")
"""Ways from the network's coarse map to the photo's size: plain enlarging, the guided filter,
densities of the colours on its two sides, GrabCut."""

DEFAULT_REFINEMENT = "colour"

MAX_PIXELS = 200_000_000
"""Pixels of the largest picture that is read by default: 600 MB as RGB."""

SIZES = (16, 8192)
"""Smallest and largest short edge, in pixels, that the network may be asked to see."""

PRECISIONS = ("float32", "bfloat16")
"""Of the network's numbers."""
