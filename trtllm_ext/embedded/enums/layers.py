"""Enumerations of layer kinds and layer attributes; names and values are those of TensorRT 10.14.

What belongs to collectives is of 11, which 10.14 lacks.
"""

from trtllm_ext.embedded.enums.base import NativeEnum


class LayerType(NativeEnum):
    """Kind of a layer."""

    CONVOLUTION = 0
    CAST = 1
    ACTIVATION = 2
    POOLING = 3
    LRN = 4
    SCALE = 5
    SOFTMAX = 6
    DECONVOLUTION = 7
    CONCATENATION = 8
    ELEMENTWISE = 9
    PLUGIN = 10
    UNARY = 11
    PADDING = 12
    SHUFFLE = 13
    REDUCE = 14
    TOPK = 15
    GATHER = 16
    MATRIX_MULTIPLY = 17
    RAGGED_SOFTMAX = 18
    CONSTANT = 19
    IDENTITY = 20
    PLUGIN_V2 = 21
    SLICE = 22
    SHAPE = 23
    PARAMETRIC_RELU = 24
    RESIZE = 25
    TRIP_LIMIT = 26
    RECURRENCE = 27
    ITERATOR = 28
    LOOP_OUTPUT = 29
    SELECT = 30
    FILL = 31
    QUANTIZE = 32
    DEQUANTIZE = 33
    CONDITION = 34
    CONDITIONAL_INPUT = 35
    CONDITIONAL_OUTPUT = 36
    SCATTER = 37
    EINSUM = 38
    ASSERTION = 39
    ONE_HOT = 40
    NON_ZERO = 41
    GRID_SAMPLE = 42
    NMS = 43
    REVERSE_SEQUENCE = 44
    NORMALIZATION = 45
    PLUGIN_V3 = 46
    SQUEEZE = 47
    UNSQUEEZE = 48
    CUMULATIVE = 49
    DYNAMIC_QUANTIZE = 50
    ATTENTION_INPUT = 51
    ATTENTION_OUTPUT = 52
    DIST_COLLECTIVE = 56


class ActivationType(NativeEnum):
    """Function of an activation layer."""

    RELU = 0
    SIGMOID = 1
    TANH = 2
    LEAKY_RELU = 3
    ELU = 4
    SELU = 5
    SOFTSIGN = 6
    SOFTPLUS = 7
    CLIP = 8
    HARD_SIGMOID = 9
    SCALED_TANH = 10
    THRESHOLDED_RELU = 11
    GELU_ERF = 12
    GELU_TANH = 13


class ElementWiseOperation(NativeEnum):
    """Binary operation of an elementwise layer."""

    SUM = 0
    PROD = 1
    MAX = 2
    MIN = 3
    SUB = 4
    DIV = 5
    POW = 6
    FLOOR_DIV = 7
    AND = 8
    OR = 9
    XOR = 10
    EQUAL = 11
    GREATER = 12
    LESS = 13


class UnaryOperation(NativeEnum):
    """Function of a unary layer."""

    EXP = 0
    LOG = 1
    SQRT = 2
    RECIP = 3
    ABS = 4
    NEG = 5
    SIN = 6
    COS = 7
    TAN = 8
    SINH = 9
    COSH = 10
    ASIN = 11
    ACOS = 12
    ATAN = 13
    ASINH = 14
    ACOSH = 15
    ATANH = 16
    CEIL = 17
    FLOOR = 18
    ERF = 19
    NOT = 20
    SIGN = 21
    ROUND = 22
    ISINF = 23
    ISNAN = 24


class ReduceOperation(NativeEnum):
    """Reduction of a reduce layer or of a collective; NONE is for collectives that only move data."""

    SUM = 0
    PROD = 1
    MAX = 2
    MIN = 3
    AVG = 4
    NONE = 5


class CollectiveOperation(NativeEnum):
    """What the ranks of a group do together."""

    ALL_REDUCE = 0
    ALL_GATHER = 1
    BROADCAST = 2
    REDUCE = 3
    REDUCE_SCATTER = 4
    ALL_TO_ALL = 5
    GATHER = 6
    SCATTER = 7


class MatrixOperation(NativeEnum):
    """How a matrix multiply layer reads an operand."""

    NONE = 0
    TRANSPOSE = 1
    VECTOR = 2


class GatherMode(NativeEnum):
    """How a gather layer reads its indices."""

    DEFAULT = 0
    ELEMENT = 1
    ND = 2


class ScatterMode(NativeEnum):
    """How a scatter layer reads its indices."""

    ELEMENT = 0
    ND = 1


class SampleMode(NativeEnum):
    """What a slice or grid sample layer does out of bounds."""

    STRICT_BOUNDS = 0
    WRAP = 1
    CLAMP = 2
    FILL = 3
    REFLECT = 4


class FillOperation(NativeEnum):
    """How a fill layer makes its values."""

    LINSPACE = 0
    RANDOM_UNIFORM = 1
    RANDOM_NORMAL = 2


class TopKOperation(NativeEnum):
    """Whether a top-k layer finds the largest or the smallest."""

    MAX = 0
    MIN = 1


class CumulativeOperation(NativeEnum):
    """Operation of a cumulative layer."""

    SUM = 0


class AttentionNormalizationOp(NativeEnum):
    """Normalisation of the scores of an attention."""

    NONE = 0
    SOFTMAX = 1


class InterpolationMode(NativeEnum):
    """Interpolation of a resize or grid sample layer."""

    NEAREST = 0
    LINEAR = 1
    CUBIC = 2


class ResizeCoordinateTransformation(NativeEnum):
    """How a resize layer maps output coordinates to input coordinates."""

    ALIGN_CORNERS = 0
    ASYMMETRIC = 1
    HALF_PIXEL = 2


class ResizeRoundMode(NativeEnum):
    """Rounding of a nearest-neighbour resize."""

    HALF_UP = 0
    HALF_DOWN = 1
    FLOOR = 2
    CEIL = 3


class ResizeSelector(NativeEnum):
    """Coordinate selection where a resize output has one element."""

    FORMULA = 0
    UPPER = 1


class ScaleMode(NativeEnum):
    """How the weights of a scale layer are applied."""

    UNIFORM = 0
    CHANNEL = 1
    ELEMENTWISE = 2


class PoolingType(NativeEnum):
    """Reduction of a pooling layer."""

    MAX = 0
    AVERAGE = 1
    MAX_AVERAGE_BLEND = 2


class PaddingMode(NativeEnum):
    """How a convolution or pooling layer rounds its output size."""

    EXPLICIT_ROUND_DOWN = 0
    EXPLICIT_ROUND_UP = 1
    SAME_UPPER = 2
    SAME_LOWER = 3


class BoundingBoxFormat(NativeEnum):
    """Corners or centre and size, for non-maximum suppression."""

    CORNER_PAIRS = 0
    CENTER_SIZES = 1


class LoopOutput(NativeEnum):
    """What a loop hands out."""

    LAST_VALUE = 0
    CONCATENATE = 1
    REVERSE = 2


class TripLimit(NativeEnum):
    """How the number of iterations of a loop is given."""

    COUNT = 0
    WHILE = 1


class DimensionOperation(NativeEnum):
    """Operation on dimension expressions."""

    SUM = 0
    PROD = 1
    MAX = 2
    MIN = 3
    SUB = 4
    EQUAL = 5
    LESS = 6
    FLOOR_DIV = 7
    CEIL_DIV = 8
