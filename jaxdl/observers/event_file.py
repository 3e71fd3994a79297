"""A file that TensorBoard reads, written at once and in order."""

import io
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8


class EventFile:
    """Scalars, histograms, images and texts, each under a tag and at a step; and a graph.

    After `flush` the file holds everything written, in the order of the calls, and a failure is
    raised where it happens. tensorboardX's own `SummaryWriter` hands its events to a thread. If the
    process is killed, those that wait in the thread are lost.

    Arguments:
        folder: created if missing; files of earlier processes stay.
        first_step: from this step on TensorBoard hides what the earlier files hold.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX import summary
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import masked_crc32c

        self._summary, self._protos, self._checksum = summary, event_pb2, masked_crc32c
        self._values = summary_pb2.Summary
        folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names.
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._write(file_version="brain.Event:2")
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(step=first_step, session_log=start)

    def scalar(self, tag: str, value: Any, step: int) -> None:
        """Write a point of a curve."""
        self._write(step=step, summary=self._summary.scalar(tag, float(value)))

    def histogram(self, tag: str, values: Any, step: int, bins: int) -> None:
        """Write counts of the finite entries, between the smallest and the largest.

        If there are other entries, their number is written as the scalar `nonfinite/<tag>`.
        """
        entries = np.asarray(values).ravel().astype(np.float64)
        finite = np.isfinite(entries)
        if not finite.all():
            self.scalar(f"nonfinite/{tag}", float(np.sum(~finite)), step)
            entries = entries[finite]
        if not entries.size:
            return
        counts, edges = count(entries, bins)
        self._write(
            step=step,
            summary=self._summary.histogram_raw(
                tag,
                min=edges[0],
                max=edges[-1],
                num=float(entries.size),
                sum=float(entries.sum()),
                # Not entries @ entries: BLAS wakes threads, which takes 5 ms on busy cores.
                sum_squares=float(np.square(entries).sum()),
                # TensorBoard's buckets are named by their right edges; an empty one leads.
                bucket_limits=edges.tolist(),
                bucket_counts=[0.0, *counts.astype(float).tolist()],
            ),
        )

    def image(self, tag: str, pixels: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Write a uint8 picture, (height, width, 3)."""
        from PIL import Image

        png = io.BytesIO()
        # Three times as fast as the usual level 6, and little larger.
        Image.fromarray(pixels).save(png, format="png", compress_level=1)
        height, width, colours = pixels.shape
        picture = self._values.Image(
            height=height, width=width, colorspace=colours, encoded_image_string=png.getvalue()
        )
        value = self._values.Value(tag=tag, image=picture)
        self._write(step=step, summary=self._values(value=[value]))

    def text(self, tag: str, markdown: str, step: int) -> None:
        """Write a text in Markdown."""
        self._write(step=step, summary=self._summary.text(tag, markdown))

    def graph(self, graph: Any) -> None:
        """Write a `diagnostics.Graph` for TensorBoard's tab "Graphs"."""
        from tensorboardX.proto import attr_value_pb2, graph_pb2, node_def_pb2, tensor_shape_pb2

        def shapes(node: Any) -> dict[str, Any]:
            sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in node.shape]
            listed = attr_value_pb2.AttrValue.ListValue(
                shape=[tensor_shape_pb2.TensorShapeProto(dim=sizes)]
            )
            return {"_output_shapes": attr_value_pb2.AttrValue(list=listed)}

        nodes = [
            node_def_pb2.NodeDef(
                name=node.name,
                op=node.kind,
                input=[source for source, target in graph.edges if target == node.name],
                attr=shapes(node),
            )
            for node in graph.nodes
        ]
        self._write(graph_def=graph_pb2.GraphDef(node=nodes).SerializeToString())

    def flush(self) -> None:
        """Hand everything written to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, **content: Any) -> None:
        # A TFRecord: length, checksum of the length, content, checksum of the content.
        # tensorboardX's own record writer syncs the disk at each flush, which takes milliseconds.
        event = self._protos.Event(wall_time=time.time(), **content).SerializeToString()
        length = struct.pack("<Q", len(event))
        parts = (length, self._crc(length), event, self._crc(event))
        self._file.write(b"".join(parts))

    def _crc(self, content: bytes) -> bytes:
        return struct.pack("<I", self._checksum(content))


def count(entries: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts in bins of equal width between the smallest and the largest entry, and the edges.

    The same as `numpy.histogram`, up to the rounding of an edge, in half the time. NumPy also
    searches on which side of an edge an equal entry lies.

    Example:
        >>> count(np.array([0.0, 0.1, 0.9, 1.0]), bins=2)
        (array([2, 2]), array([0. , 0.5, 1. ]))
    """
    low, high = float(entries.min()), float(entries.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    places = ((entries - low) * (bins / (high - low))).astype(np.intp)
    return np.bincount(np.minimum(places, bins - 1), minlength=bins), edges
