/*
 * gated_activation: act(fc + fc_bias) [* (gate + gate_bias + gate_offset)], elementwise over rows.
 *
 * It is bound by memory: every element is read once and written once, 16 bytes at a time. A thread issues the loads of
 * all its vectors, up to four matrix loads, before it uses the first, so that an SM that holds 1536 threads has 98 KB
 * in flight; 30 KB are what the memory of an H200 needs. Vectors are numbered through all rows, so that no width
 * leaves threads idle at the end of each row. Rows without gaps and without biases are one long row, so that no thread
 * has to divide by the width.
 */
#include <algorithm>
#include <cstddef>

#include "arguments.h"
#include "device/activations.cuh"
#include "device/dependent_launch.cuh"
#include "device/types.cuh"
#include "device_facts.h"
#include "launch.h"

namespace trtllm_ext
{
namespace
{

constexpr char CALL[] = "gated_activation";
// Small blocks: one row of 14336 float16 is spread over 7 SMs.
constexpr int THREADS = 128;
constexpr int VECTORS_PER_THREAD = 2;
constexpr int64_t VECTORS_PER_BLOCK = THREADS * VECTORS_PER_THREAD;
constexpr int64_t LARGEST_GRID = 0x7fffffff;

/* The matrices in vectors of WIDTH elements. gate, fc_bias, gate_bias: NULL for none. */
template <typename T, int WIDTH>
struct Matrices
{
    T const* fc;
    T const* gate;
    T const* fc_bias;
    T const* gate_bias;
    T* output;
    int64_t fc_stride; // elements
    int64_t gate_stride;
    int64_t output_stride;
    int64_t num_vectors; // of all rows
    uint32_t vectors_per_row; // 0 for one long row
    float clamp; // 0 for none
    float gate_offset;
};

/* The activation that a kernel was compiled for. */
template <trtllm_ext_activation ACTIVATION>
struct Compiled
{
    __device__ float operator()(float x) const
    {
        return activate<ACTIVATION>(x);
    }
};

/* The activation that a launch names. */
struct Named
{
    trtllm_ext_activation activation;

    __device__ float operator()(float x) const
    {
        return activate(activation, x);
    }
};

template <typename T, int WIDTH, typename Activation>
__device__ Elements<T, WIDTH> gated(Matrices<T, WIDTH> const& matrices, Activation const& activation, int64_t column,
    Elements<T, WIDTH> const& fc, Elements<T, WIDTH> const& gate)
{
    float inner[WIDTH];
    float factor[WIDTH];
    to_floats(fc, inner);
    to_floats(gate, factor);
    if (matrices.fc_bias != nullptr)
    {
        add_to(inner, load<WIDTH>(matrices.fc_bias + column * WIDTH));
    }
    if (matrices.gate_bias != nullptr)
    {
        add_to(factor, load<WIDTH>(matrices.gate_bias + column * WIDTH));
    }
#pragma unroll
    for (int i = 0; i < WIDTH; ++i)
    {
        if (matrices.clamp > 0.0f)
        {
            inner[i] = at_most(inner[i], matrices.clamp);
            factor[i] = clip(factor[i], matrices.clamp);
        }
        inner[i] = activation(inner[i]);
        inner[i] = matrices.gate != nullptr ? inner[i] * (factor[i] + matrices.gate_offset) : inner[i];
    }
    Elements<T, WIDTH> output;
    from_floats(inner, output);
    return output;
}

/* Where a vector is. */
struct Place
{
    int64_t row;
    int64_t column; // in vectors
};

/* That of the vector `ahead` behind the first one of a block; ahead is below VECTORS_PER_BLOCK. */
__device__ inline Place place_of(int64_t first, uint32_t ahead, uint32_t vectors_per_row)
{
    if (vectors_per_row == 0)
    {
        return {0, first + ahead};
    }
    // The same for all threads of the block; what each divides itself fits 32 bits.
    int64_t const row = first / vectors_per_row;
    uint32_t const column = static_cast<uint32_t>(first - row * vectors_per_row) + ahead;
    return {row + column / vectors_per_row, column % vectors_per_row};
}

template <typename T, int WIDTH, typename Activation>
__global__ void __launch_bounds__(THREADS)
    gated_activation_kernel(Matrices<T, WIDTH> const matrices, Activation const activation)
{
    using Vector = Elements<T, WIDTH>;
    wait_for_previous_kernel();
    let_next_kernel_start();
    int64_t const step = gridDim.x * VECTORS_PER_BLOCK;
    for (int64_t first = blockIdx.x * VECTORS_PER_BLOCK; first < matrices.num_vectors; first += step)
    {
        Vector fc[VECTORS_PER_THREAD];
        Vector gate[VECTORS_PER_THREAD];
        Place place[VECTORS_PER_THREAD];
#pragma unroll
        for (int v = 0; v < VECTORS_PER_THREAD; ++v)
        {
            uint32_t const ahead = threadIdx.x + v * THREADS;
            place[v] = place_of(first, ahead, matrices.vectors_per_row);
            fc[v] = {};
            gate[v] = {};
            if (first + ahead < matrices.num_vectors)
            {
                fc[v] = load<WIDTH>(matrices.fc + place[v].row * matrices.fc_stride + place[v].column * WIDTH);
                if (matrices.gate != nullptr)
                {
                    gate[v] = load<WIDTH>(matrices.gate + place[v].row * matrices.gate_stride + place[v].column * WIDTH);
                }
            }
        }
#pragma unroll
        for (int v = 0; v < VECTORS_PER_THREAD; ++v)
        {
            if (first + threadIdx.x + v * THREADS < matrices.num_vectors)
            {
                Vector const output = gated<T, WIDTH>(matrices, activation, place[v].column, fc[v], gate[v]);
                store(matrices.output + place[v].row * matrices.output_stride + place[v].column * WIDTH, output);
            }
        }
    }
}

template <int WIDTH, typename T, typename Activation>
trtllm_ext_status run(
    trtllm_ext_gated_activation_args const& args, Activation const& activation, trtllm_ext_stream stream)
{
    int64_t const vectors_per_row = args.width / WIDTH;
    int64_t const num_vectors = vectors_per_row * args.num_tokens;
    bool const one_row = args.fc_bias == nullptr && args.gate_bias == nullptr && args.fc_stride == args.width
        && args.output_stride == args.width && (args.gate == nullptr || args.gate_stride == args.width);
    Matrices<T, WIDTH> const matrices{static_cast<T const*>(args.fc), static_cast<T const*>(args.gate),
        static_cast<T const*>(args.fc_bias), static_cast<T const*>(args.gate_bias),
        static_cast<T*>(args.output), args.fc_stride, args.gate_stride, args.output_stride, num_vectors,
        one_row ? 0 : static_cast<uint32_t>(vectors_per_row), args.clamp, args.gate_offset};
    int64_t const num_blocks = std::min((num_vectors + VECTORS_PER_BLOCK - 1) / VECTORS_PER_BLOCK, LARGEST_GRID);
    LaunchShape const shape{dim3(static_cast<unsigned>(num_blocks)), dim3(THREADS)};
    return launch_dependent(CALL, gated_activation_kernel<T, WIDTH, Activation>, shape, stream, matrices, activation);
}

/* 16 bytes at a time with a kernel for each activation; one element at a time with one kernel for all of them. */
template <typename T>
trtllm_ext_status run(trtllm_ext_gated_activation_args const& args, bool wide, trtllm_ext_stream stream)
{
    auto const activation = static_cast<trtllm_ext_activation>(args.activation);
    if (!wide)
    {
        return run<1, T>(args, Named{activation}, stream);
    }
    constexpr int WIDTH = VECTOR_WIDTH<T>;
    switch (activation)
    {
    case TRTLLM_EXT_IDENTITY: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_IDENTITY>{}, stream);
    case TRTLLM_EXT_RELU: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_RELU>{}, stream);
    case TRTLLM_EXT_GELU_ERF: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_GELU_ERF>{}, stream);
    case TRTLLM_EXT_GELU_TANH: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_GELU_TANH>{}, stream);
    case TRTLLM_EXT_QUICK_GELU: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_QUICK_GELU>{}, stream);
    case TRTLLM_EXT_SILU: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_SILU>{}, stream);
    case TRTLLM_EXT_SQUARED_RELU: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_SQUARED_RELU>{}, stream);
    case TRTLLM_EXT_SIGMOID: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_SIGMOID>{}, stream);
    case TRTLLM_EXT_TANH: return run<WIDTH, T>(args, Compiled<TRTLLM_EXT_TANH>{}, stream);
    }
    return check_choice(CALL, "activation", "trtllm_ext_activation", args.activation, 0, -1);
}

trtllm_ext_status check_form(trtllm_ext_gated_activation_args const& args)
{
    TRTLLM_EXT_CHECK(check_float_type(CALL, args.type));
    TRTLLM_EXT_CHECK(check_choice(CALL, "activation", "trtllm_ext_activation", args.activation, TRTLLM_EXT_IDENTITY,
        TRTLLM_EXT_TANH));
    TRTLLM_EXT_CHECK(check_choice(CALL, "reserved", "it", args.reserved, 0, 0));
    TRTLLM_EXT_CHECK(check_gate(CALL, args.gate != nullptr, args.gate_bias != nullptr, args.clamp, args.gate_offset));
    return check_sizes(CALL, args.num_tokens, "width", args.width);
}

/* wide: whether all of it is vectors of 16 bytes. */
trtllm_ext_status check_memory(trtllm_ext_gated_activation_args const& args, bool* wide)
{
    TRTLLM_EXT_CHECK(check_given(CALL, "fc", args.fc));
    TRTLLM_EXT_CHECK(check_given(CALL, "output", args.output));
    int const size = size_of_type(args.type);
    MatrixArgument const fc{"fc", args.fc, args.fc_stride, size};
    MatrixArgument const gate{"gate", args.gate, args.gate_stride, size};
    MatrixArgument const output{"output", args.output, args.output_stride, size};
    VectorArgument const fc_bias{"fc_bias", args.fc_bias, size};
    VectorArgument const gate_bias{"gate_bias", args.gate_bias, size};
    for (MatrixArgument const& matrix : {fc, gate, output})
    {
        TRTLLM_EXT_CHECK(check_matrix(CALL, matrix, args.num_tokens, args.width));
    }
    for (VectorArgument const& bias : {fc_bias, gate_bias})
    {
        TRTLLM_EXT_CHECK(check_vector(CALL, bias));
        TRTLLM_EXT_CHECK(check_apart(CALL, output, bias, args.num_tokens, args.width));
    }
    TRTLLM_EXT_CHECK(check_apart(CALL, output, fc, args.num_tokens, args.width, true));
    TRTLLM_EXT_CHECK(check_apart(CALL, output, gate, args.num_tokens, args.width, true));
    *wide = args.width * size % VECTOR_BYTES == 0 && rows_aligned({fc, gate, output}, args.num_tokens, VECTOR_BYTES)
        && vectors_aligned({fc_bias, gate_bias}, VECTOR_BYTES);
    return TRTLLM_EXT_SUCCESS;
}

} // namespace
} // namespace trtllm_ext

extern "C" trtllm_ext_status trtllm_ext_gated_activation(
    trtllm_ext_gated_activation_args const* given, trtllm_ext_stream stream)
{
    using namespace trtllm_ext;
    trtllm_ext_gated_activation_args args;
    bool wide = false;
    constexpr uint32_t FIRST_SIZE = offsetof(trtllm_ext_gated_activation_args, output_stride) + sizeof(int64_t);
    TRTLLM_EXT_CHECK(take_struct(CALL, given, FIRST_SIZE, &args));
    TRTLLM_EXT_CHECK(check_form(args));
    if (args.num_tokens == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    TRTLLM_EXT_CHECK(check_memory(args, &wide));
    DeviceFacts device{}; // asked for the refusal of a device that the kernels are not compiled for
    TRTLLM_EXT_CHECK(current_device(&device));
    switch (args.type)
    {
    case TRTLLM_EXT_FLOAT32: return run<float>(args, wide, stream);
    case TRTLLM_EXT_FLOAT16: return run<__half>(args, wide, stream);
    default: return run<__nv_bfloat16>(args, wide, stream);
    }
}
