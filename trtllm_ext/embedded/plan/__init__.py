"""The plan file: what a serialized engine looks like on disk.

    offset          content
    0               prefix, 64 bytes: magic, format version, lengths of what follows, crc32 of the prefix
    64              header: JSON (tensors, profiles, shape program, layers, tree of steps, tables)
    then            segments: ONNX models without their weights, one after another, zeros up to a page border
    page border     weights, each at a multiple of 64 bytes, gaps filled with zeros
    then            trailer: sha256 of prefix and header, of the segments, of the weights; crc32 of every 4 MiB of
                    weights; sha256 of the trailer so far

Every byte is under a checksum and the lengths must add up to the size of the file, so damage anywhere is found.
All numbers are little-endian. Nothing in a plan is executable, and nothing in it depends on when or where it was
built: the same network gives the same bytes.
"""

from trtllm_ext.embedded.plan.collectives import CollectiveInfo, CollectiveStep
from trtllm_ext.embedded.plan.header import Header
from trtllm_ext.embedded.plan.layout import FORMAT_VERSION, MAGIC
from trtllm_ext.embedded.plan.plugins import FieldRecord, PluginRecord, PluginStep
from trtllm_ext.embedded.plan.reader import Plan, read_plan
from trtllm_ext.embedded.plan.records import (
    STRIPPED,
    ProfileRecord,
    Range,
    RefitRecord,
    SegmentRecord,
    SegmentWeight,
    TensorRecord,
    WeightRecord,
)
from trtllm_ext.embedded.plan.steps import OnnxStep, SequenceStep, SingleStep, Step
from trtllm_ext.embedded.plan.writer import write_plan

__all__ = [
    "FORMAT_VERSION",
    "MAGIC",
    "STRIPPED",
    "CollectiveInfo",
    "CollectiveStep",
    "FieldRecord",
    "Header",
    "OnnxStep",
    "Plan",
    "PluginRecord",
    "PluginStep",
    "ProfileRecord",
    "Range",
    "RefitRecord",
    "SegmentRecord",
    "SegmentWeight",
    "SequenceStep",
    "SingleStep",
    "Step",
    "TensorRecord",
    "WeightRecord",
    "read_plan",
    "write_plan",
]
