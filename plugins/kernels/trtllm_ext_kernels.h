/*
 * The C interface of trtllm_ext's CUDA kernels: pointers, sizes, strides, a stream, and a status back.
 *
 * Rules that hold for every function that takes a stream:
 * - Nothing is allocated, nothing waits for the device, and nothing but launches goes to the stream, so a call can be
 *   captured into a CUDA graph. What has to be prepared (choice of algorithms) has functions of its own.
 * - Everything is checked before the first launch. A refusal is a status, with a sentence for people behind
 *   trtllm_ext_last_error(); it leaves no CUDA error behind and no output half written.
 * - Any alignment that the element type itself has, any width and any row stride at least the width are computed
 *   correctly; rows of 16-byte multiples at 16-byte addresses are computed fast.
 * - No tokens are no work: success without a launch.
 * - Arithmetic is in float32; every result is rounded to its type once, where the description says so.
 *
 * Structures begin with their own size, as the caller knows it: a library that is newer than its caller takes fields
 * that the caller does not have as zero, and zero always means "as before that field existed".
 */
#ifndef TRTLLM_EXT_KERNELS_H
#define TRTLLM_EXT_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define TRTLLM_EXT_API __declspec(dllexport)
#else
#define TRTLLM_EXT_API __attribute__((visibility("default")))
#endif

/* Goes up when an existing structure or function changes its meaning; additions leave it. */
#define TRTLLM_EXT_KERNELS_ABI 1

typedef enum trtllm_ext_status
{
    TRTLLM_EXT_SUCCESS = 0,
    TRTLLM_EXT_INVALID_ARGUMENT = 1,   /* a size, stride, pointer or name that cannot be meant */
    TRTLLM_EXT_UNSUPPORTED_TYPE = 2,   /* no kernel for this type, or these types together */
    TRTLLM_EXT_UNSUPPORTED_DEVICE = 3, /* no device, or code for another compute capability only */
    TRTLLM_EXT_TOO_MANY_TOKENS = 4,    /* more than was planned for */
    TRTLLM_EXT_WORKSPACE_TOO_SMALL = 5,
    TRTLLM_EXT_LIBRARY_MISSING = 6,    /* cublasLt is not to be found */
    TRTLLM_EXT_OUT_OF_MEMORY = 7,      /* of the host; kernels ask for none of the device's */
    TRTLLM_EXT_CUDA_FAILURE = 8,       /* a launch was refused: the sentence has CUDA's own words */
    TRTLLM_EXT_CUBLAS_FAILURE = 9
} trtllm_ext_status;

typedef enum trtllm_ext_type
{
    TRTLLM_EXT_NO_TYPE = 0,
    TRTLLM_EXT_FLOAT32 = 1,
    TRTLLM_EXT_FLOAT16 = 2,
    TRTLLM_EXT_BFLOAT16 = 3,
    TRTLLM_EXT_INT8 = 4,
    TRTLLM_EXT_FLOAT8_E4M3 = 5
} trtllm_ext_type;

/* The formulas are those of trtllm_ext.checkpoint.ACTIVATIONS. */
typedef enum trtllm_ext_activation
{
    TRTLLM_EXT_IDENTITY = 0,
    TRTLLM_EXT_RELU = 1,
    TRTLLM_EXT_GELU_ERF = 2,
    TRTLLM_EXT_GELU_TANH = 3,
    TRTLLM_EXT_QUICK_GELU = 4,
    TRTLLM_EXT_SILU = 5,
    TRTLLM_EXT_SQUARED_RELU = 6,
    TRTLLM_EXT_SIGMOID = 7,
    TRTLLM_EXT_TANH = 8
} trtllm_ext_activation;

typedef enum trtllm_ext_norm
{
    TRTLLM_EXT_NO_NORM = 0, /* the sum alone */
    TRTLLM_EXT_LAYER_NORM = 1,
    TRTLLM_EXT_RMS_NORM = 2
} trtllm_ext_norm;

typedef enum trtllm_ext_rounding
{
    TRTLLM_EXT_AFTER_WEIGHT = 0,  /* the normed value times the weight is rounded, once */
    TRTLLM_EXT_BEFORE_WEIGHT = 1  /* the normed value is rounded, and its product with the weight again */
} trtllm_ext_rounding;

/* A cudaStream_t, without CUDA's headers. NULL is the default stream. */
typedef struct CUstream_st* trtllm_ext_stream;

/* The ABI that the library was built with: TRTLLM_EXT_KERNELS_ABI of then. */
TRTLLM_EXT_API int32_t trtllm_ext_kernels_abi(void);

/* What was built: JSON with "kernels_abi", "cuda" (of the compiler), "architectures". Lives as long as the library. */
TRTLLM_EXT_API char const* trtllm_ext_kernels_info(void);

/* The name of a status, such as "INVALID_ARGUMENT". */
TRTLLM_EXT_API char const* trtllm_ext_status_name(trtllm_ext_status status);

/* What the last call of this thread that did not succeed objected to; "" before any. Valid until the next one. */
TRTLLM_EXT_API char const* trtllm_ext_last_error(void);

/*
 * Whether this library has code for the current device; a status with its reason otherwise (no driver, no device,
 * another compute capability).
 */
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_device_status(void);

/*
 * Whether kernels are launched with programmatic dependent launch from now on, for the whole process; off at first. The
 * next kernel of the stream then begins while this one ends, where it is one of this library and the device is of
 * compute capability 9.0 or later. Weights and biases must not be written by kernels of the stream while it is on: they
 * are read before the previous kernel has ended.
 */
TRTLLM_EXT_API void trtllm_ext_set_dependent_launch(int32_t enabled);

/*
 * sum    = x + bias + residual                          (one rounding to `type`)
 * normed = norm(sum) * (weight + weight_offset) + norm_bias
 *
 * LayerNorm: (sum - mean) / sqrt(variance + eps), the variance being the mean of squared deviations. RMSNorm:
 * sum / sqrt(mean(sum^2) + eps). Statistics are of the rounded sum, as the next reader of the stream sees it.
 *
 * With a quantized_type each row is also written as round(normed / scale), saturated, with one scale a row:
 * max|normed| over the type's largest value (127; 448). normed is the value before it is rounded to `type`. The scale
 * of a row of zeros is 0, and so are its elements. A NaN in a row makes its scale NaN, its int8 elements 0 and its
 * float8 elements NaN. All else about NaN and infinities is as IEEE arithmetic has it.
 *
 * Rows that lie alike in memory give the same results, bit for bit, however many there are.
 *
 * Outputs may be the same memory as x or residual with the same stride, and not overlap inputs otherwise.
 */
typedef struct trtllm_ext_residual_norm_args
{
    uint32_t size;          /* sizeof(trtllm_ext_residual_norm_args) */
    int32_t type;           /* trtllm_ext_type of x, residual, bias, weight, norm_bias, sum, normed */
    int32_t norm;           /* trtllm_ext_norm */
    int32_t rounding;       /* trtllm_ext_rounding */
    int32_t quantized_type; /* trtllm_ext_type: INT8, FLOAT8_E4M3 or NO_TYPE */
    float eps;              /* above 0 where there is a norm */
    float weight_offset;    /* 1 for Gemma's (1 + weight), else 0; rounding AFTER_WEIGHT only */
    int32_t reserved;       /* 0 */
    int64_t num_tokens;
    int64_t hidden_size;
    void const* x;          /* (num_tokens, hidden_size) */
    void const* residual;   /* the same, or NULL */
    void const* bias;       /* (hidden_size), or NULL */
    void const* weight;     /* (hidden_size), or NULL for 1 */
    void const* norm_bias;  /* (hidden_size), or NULL for 0 */
    void* sum;              /* (num_tokens, hidden_size), or NULL where nobody reads it */
    void* normed;           /* the same, or NULL */
    void* quantized;        /* (num_tokens, hidden_size) of quantized_type */
    float* scales;          /* (num_tokens) */
    int64_t x_stride;       /* elements from a row to the next, of each of the matrices */
    int64_t residual_stride;
    int64_t sum_stride;
    int64_t normed_stride;
    int64_t quantized_stride;
} trtllm_ext_residual_norm_args;

TRTLLM_EXT_API trtllm_ext_status trtllm_ext_residual_norm(
    trtllm_ext_residual_norm_args const* args, trtllm_ext_stream stream);

/*
 * output = act(fc + fc_bias)                                     without a gate
 * output = act(fc + fc_bias) * (gate + gate_bias + gate_offset)  with one
 * and with a clamp c > 0: act(min(fc + fc_bias, c)) * (clip(gate + gate_bias, -c, c) + gate_offset)
 * (without a gate c limits what is activated from above all the same). One rounding to `type`. NaN stays NaN, in limits
 * and maxima too.
 *
 * The output may be the same memory as fc or gate with the same stride. fc and gate may be the halves of one buffer.
 */
typedef struct trtllm_ext_gated_activation_args
{
    uint32_t size;
    int32_t type;           /* of all matrices and biases */
    int32_t activation;     /* trtllm_ext_activation */
    float clamp;            /* 0 for none */
    float gate_offset;
    int32_t reserved;       /* 0 */
    int64_t num_tokens;
    int64_t width;
    void const* fc;         /* (num_tokens, width) */
    void const* gate;       /* the same, or NULL */
    void const* fc_bias;    /* (width), or NULL */
    void const* gate_bias;  /* (width), or NULL */
    void* output;           /* (num_tokens, width) */
    int64_t fc_stride;
    int64_t gate_stride;
    int64_t output_stride;
} trtllm_ext_gated_activation_args;

TRTLLM_EXT_API trtllm_ext_status trtllm_ext_gated_activation(
    trtllm_ext_gated_activation_args const* args, trtllm_ext_stream stream);

/*
 * y = act(x fc^T + fc_bias) proj^T + proj_bias + residual, or with the gated form of trtllm_ext_gated_activation in
 * place of act. Weights are (out_features, in_features), rows without gaps. The inner activations are rounded to `type`
 * once, y once; by cublasLt what no epilogue of a product can finish (a gate, a clamp, activations other than IDENTITY,
 * RELU and GELU_TANH) is rounded once more, between the products and the activation.
 *
 * A plan holds what is chosen once for a form and a device: how each product is computed, by buckets of token counts.
 * It belongs to the device that was current when it was made. Any number of threads may run one plan, each with its
 * own workspace; tuning one is for a single thread.
 */
typedef struct trtllm_ext_feed_forward_form
{
    uint32_t size;
    int32_t type;           /* FLOAT32, FLOAT16 or BFLOAT16, of everything */
    int32_t activation;     /* trtllm_ext_activation */
    int32_t gated;          /* 0 or 1, as all that follow up to tf32 */
    int32_t has_fc_bias;
    int32_t has_gate_bias;
    int32_t has_proj_bias;
    int32_t has_residual;
    int32_t tf32;           /* whether float32 products may round their operands to TF32 */
    float clamp;
    float gate_offset;
    int32_t reserved;       /* 0 */
    int64_t hidden_size;
    int64_t ffn_hidden_size;
    int64_t max_num_tokens; /* a run with more is refused */
} trtllm_ext_feed_forward_form;

typedef struct trtllm_ext_feed_forward_plan trtllm_ext_feed_forward_plan;

typedef struct trtllm_ext_feed_forward_args
{
    uint32_t size;
    int32_t reserved;       /* 0 */
    int64_t num_tokens;
    void const* x;          /* (num_tokens, hidden_size) */
    void const* fc_weight;  /* (ffn_hidden_size, hidden_size) */
    void const* gate_weight;
    void const* proj_weight; /* (hidden_size, ffn_hidden_size) */
    void const* fc_bias;    /* (ffn_hidden_size) */
    void const* gate_bias;
    void const* proj_bias;  /* (hidden_size) */
    void const* residual;   /* (num_tokens, hidden_size) */
    void* y;                /* (num_tokens, hidden_size); may be residual's memory, not x's */
    int64_t x_stride;
    int64_t residual_stride;
    int64_t y_stride;
    void* workspace;        /* of the device, 256-byte aligned */
    uint64_t workspace_size;
} trtllm_ext_feed_forward_args;

/*
 * Makes a plan: no launch, and no device memory but what cublasLt itself takes once a device. Without cublasLt the plan
 * computes its products by a plain kernel, correct and slow; trtllm_ext_feed_forward_describe() says so.
 *
 * cublasLt is the file that the environment variable TRTLLM_EXT_CUBLASLT names; else what the process has opened
 * already, else libcublasLt.so.13 or .12 where the loader finds it.
 */
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward_create(
    trtllm_ext_feed_forward_form const* form, trtllm_ext_feed_forward_plan** plan);

TRTLLM_EXT_API void trtllm_ext_feed_forward_destroy(trtllm_ext_feed_forward_plan* plan);

/*
 * Bytes of workspace for a run of at most this many tokens: enough with and without cublasLt, as an engine may be built
 * where it is missing and run where it is there. Tuning and taking choices do not change it.
 */
TRTLLM_EXT_API uint64_t trtllm_ext_feed_forward_workspace(
    trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens);

/*
 * Times the algorithms for this many tokens on the arguments given (y is written) and keeps the fastest for every
 * token count of the same bucket. Waits for the stream; not inside a graph capture, not with y in the residual's memory,
 * and with operands at multiples of 16 bytes. LIBRARY_MISSING without cublasLt: there is nothing to choose then.
 */
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward_tune(
    trtllm_ext_feed_forward_plan* plan, trtllm_ext_feed_forward_args const* args, trtllm_ext_stream stream);

/* The bucket of a token count: the largest that shares its choice; 0 of no tokens, -1 of counts that a run refuses. */
TRTLLM_EXT_API int64_t trtllm_ext_feed_forward_bucket(trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens);

/*
 * The choices as bytes, to be kept with an engine, and back. With a NULL buffer the size alone is told. Choices of
 * another cublasLt, device or form are left aside (SUCCESS, *num_taken = 0); damaged ones are INVALID_ARGUMENT.
 */
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward_choices(
    trtllm_ext_feed_forward_plan const* plan, void* buffer, uint64_t* size);
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward_take_choices(
    trtllm_ext_feed_forward_plan* plan, void const* buffer, uint64_t size, int32_t* num_taken);

/*
 * How a run of this many tokens is computed, for people: JSON with "num_tokens", "bucket", "device", and for tokens to
 * compute "road" and "workspace"; "no_cublaslt" (why) or "cublaslt" (the file), "cublaslt_version" and "products", each
 * with "of" (such as "fc, gate"), "epilogue", "chosen" and, where known, "microseconds" and "algorithm" (a digest).
 * Writes at most `size` bytes with the final 0; INVALID_ARGUMENT if those are too few.
 */
TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward_describe(
    trtllm_ext_feed_forward_plan const* plan, int64_t num_tokens, char* text, uint64_t size);

TRTLLM_EXT_API trtllm_ext_status trtllm_ext_feed_forward(
    trtllm_ext_feed_forward_plan const* plan, trtllm_ext_feed_forward_args const* args, trtllm_ext_stream stream);

#ifdef __cplusplus
}
#endif

#endif
