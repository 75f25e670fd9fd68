"""The words that options and arguments take. No imports: `--help` reads them at once."""

OUTPUTS = ("mask", "saliency", "cutout", "overlay", "regions")  # of an object
SEMANTIC_OUTPUTS = ("labels", "overlay")  # of a photo's classes

ANNOTATIONS = ("coco", "yolo", "labelstudio")  # a file of all photos; of YOLO one for each
MASK_FORMATS = ("rle", "polygon")  # of a COCO file: exact runs, or outlines that can be edited

REFINEMENTS = ("none", "guided", "ranking", "grabcut")
"""Ways from the network's map to the photo's size: plain enlarging, the guided filter, the same
after a ranking of what the photo's border says, GrabCut after that ranking."""
DEFAULT_REFINEMENT = "grabcut"
CLIP_REFINEMENT = "ranking"
ADAPTED_REFINEMENT = "guided"  # the network knows more than the ranking then

MAX_PIXELS = 200_000_000  # of the largest picture that is read by default: 600 MB as RGB
SIZES = (16, 8192)  # least and most pixels of the short edge that the network may see
PRECISIONS = ("float32", "bfloat16")  # of the network's numbers
