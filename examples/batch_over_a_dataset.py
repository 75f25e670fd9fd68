"""Segment a data set of any size with Ray Data: one worker a CPU or GPU, killed ones replaced.

    python examples/batch_over_a_dataset.py PHOTOS OUT [--workers 2] [--gpu] [--png]

PHOTOS is a folder, a .txt with a URI a line (whatever fsspec opens: paths, https, s3, gs), or
.parquet with a column uri and, where the photos themselves are in it, a column bytes.
OUT, a folder that all workers see, gets part-*.parquet: uri, width, height, threshold, mask_share,
confidence, object, and saliency as the bytes of a PNG; with --png the PNGs lie beside the parts
and the column png has their names. What is in a part is not done again by the next run; what
failed is. Needs Ray: pip install "amd-seg[ray]". A cluster is taken where RAY_ADDRESS names one.
"""

import argparse
import os
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reads it when it is imported.

import fsspec
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import ray

from amd_seg import AmdSegError, Segmenter
from amd_seg.media.files import find_images, write_atomically
from amd_seg.prefetch import map_ahead


class SegmentPhotos:
    """One worker: it holds a Segmenter and gets batch after batch."""

    def __init__(self, out: Path, as_png: bool, weights: str | None) -> None:
        self.segmenter = Segmenter.from_pretrained(weights)
        self.out, self.as_png = out, as_png

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Write a part with what can be segmented; return each URI and its error, if any."""
        uris = [str(uri) for uri in batch["uri"]]
        contents = batch.get("bytes", map_ahead(read, uris, ahead=16))
        photos = dict(zip(uris, contents, strict=True))
        errors = {u: f"no bytes: {c}" for u, c in photos.items() if not isinstance(c, bytes)}
        good = [uri for uri in photos if uri not in errors]
        rows = []
        for uri, result in zip(good, self.segmenter.stream(photos[u] for u in good), strict=True):
            if isinstance(result, AmdSegError):
                errors[uri] = str(result)
            else:
                rows.append({"uri": uri, **result.facts, **self.picture(uri, result)})
        if rows:
            # Named by what was asked for: a batch that is done again replaces its own part.
            name = f"part-{sha256(chr(10).join(uris).encode()).hexdigest()[:16]}.parquet"
            table = pa.Table.from_pylist(rows)
            write_atomically(self.out / name, lambda file: pa.parquet.write_table(table, file))
        return {"uri": uris, "error": [errors.get(uri, "") for uri in uris]}

    def picture(self, uri: str, result: Any) -> dict[str, Any]:
        """Return the saliency as a column of the part, or write it beside the part."""
        if not self.as_png:
            return {"saliency": result.encode("saliency")}
        name = f"{Path(uri).stem[:80]}-{sha256(uri.encode()).hexdigest()[:8]}.png"
        result.save(self.out / name, "saliency")
        return {"png": name}


def read(uri: str) -> bytes | Exception:
    """Return the bytes of a file, wherever it is, or why they cannot be had."""
    try:
        with fsspec.open(uri, "rb") as file:
            return bytes(file.read())
    except Exception as error:  # Each file system raises errors of its own.
        return error


def photos_to_do(source: str, done: set[str], batch_size: int) -> "ray.data.Dataset":
    """Return a dataset with a column uri, and bytes where the source has them."""
    if source.endswith(".parquet"):
        # No CPU of its own: all are taken by the workers.
        photos = ray.data.read_parquet(source, ray_remote_args={"num_cpus": 0})
        return photos.filter(lambda row: row["uri"] not in done, num_cpus=0)
    if source.endswith(".txt"):
        uris = [line.strip() for line in Path(source).read_text("utf-8").splitlines()]
    else:
        uris = [str(path.resolve()) for path in find_images([source], recursive=True)]
    rows = [{"uri": uri} for uri in dict.fromkeys(uris) if uri and uri not in done]
    blocks = max(1, -(-len(rows) // batch_size))
    return ray.data.from_items(rows, override_num_blocks=blocks) if rows else ray.data.range(0)


def main() -> int:
    """Segment what is not done yet; 1 where a photo failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos")
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpu", action="store_true", help="one GPU a worker, not one CPU")
    parser.add_argument("--png", action="store_true")
    parser.add_argument("--weights")
    parser.add_argument("--batch-size", type=int, default=64, help="photos a part")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [str(path) for path in options.out.glob("part-*.parquet")]
    done = set(pa.dataset.dataset(parts).to_table(["uri"])["uri"].to_pylist() if parts else [])
    ray.init(include_dashboard=False, log_to_driver=False)
    results = photos_to_do(options.photos, done, options.batch_size).map_batches(
        SegmentPhotos,
        fn_constructor_args=(options.out.resolve(), options.png, options.weights),
        batch_size=options.batch_size,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_cpus=0 if options.gpu else 1,
        num_gpus=1 if options.gpu else 0,
    )
    count = failed = 0
    for row in results.iter_rows():
        count += 1
        if row["error"]:
            failed += 1
            print(f"{row['uri']}: {row['error']}", file=sys.stderr)
    ray.shutdown()  # What it has still to say of killed workers comes before the last line.
    print(f"{count - failed} done, {failed} failed, {len(done)} were done before")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
