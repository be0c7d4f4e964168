/*
 * The plain matrix product: what is left where cublasLt is missing or has no algorithm for a shape.
 *
 * A block computes a tile of 64 tokens by 64 features; each of its 256 threads 4 by 4 of that, 16 apart, so that
 * neighbouring threads write neighbouring features. x and weight come through shared memory 16 inputs at a time, as
 * float32, element by element: any size, stride and alignment is right, and none is special.
 */
#include "feed_forward_product.h"

#include "device/activations.cuh"
#include "device/types.cuh"
#include "launch.h"

#include <algorithm>

namespace trtllm_ext::feed_forward
{
namespace
{

constexpr int tile = 64;   // tokens, and features, of a block
constexpr int depth = 16;  // inputs at a time
constexpr int side = 16;   // threads along tokens, and along features
constexpr int share = tile / side;
constexpr int64_t most_blocks = 0x7fffffff;

// One column more than a row needs spreads a row's readers over the banks.
using Tile = float[depth][tile + 1];

template <typename T>
struct Matrix
{
    T const* data;
    int64_t num_rows;
    int64_t stride;
};

// Rows first_row.. and columns first_column.. of a matrix, transposed, with 0 where the matrix has ended.
template <typename T>
__device__ void load_tile(
    Tile& into, Matrix<T> const& matrix, int64_t first_row, int64_t first_column, int64_t num_columns)
{
    int64_t const column = first_column + threadIdx.x;
    for (int i = 0; i < share; ++i)
    {
        int const line = static_cast<int>(threadIdx.y) + i * side;
        int64_t const row = first_row + line;
        bool const is_there = row < matrix.num_rows && column < num_columns;
        into[threadIdx.x][line] = is_there ? to_float(matrix.data[row * matrix.stride + column]) : 0.0f;
    }
}

struct Sums
{
    float of[share][share] = {};

    __device__ void add(Tile const& x, Tile const& weight, int k)
    {
#pragma unroll
        for (int i = 0; i < share; ++i)
        {
#pragma unroll
            for (int j = 0; j < share; ++j)
            {
                of[i][j] += x[k][threadIdx.y + i * side] * weight[k][threadIdx.x + j * side];
            }
        }
    }
};

template <typename T>
__device__ float element_or_zero(T const* data, int64_t at)
{
    return data == nullptr ? 0.0f : to_float(data[at]);
}

// The formula behind the sums: see Product.
template <typename T, bool GATED>
__device__ void finish(Product const& product, ProductArgs const& args, int64_t token, int64_t feature, float sum,
    float gate_sum)
{
    float value = sum + element_or_zero(static_cast<T const*>(args.bias), feature);
    float const limit = product.clamp;
    value = activate(static_cast<trtllm_ext_activation>(product.activation), limit > 0 ? at_most(value, limit) : value);
    if constexpr (GATED)
    {
        float const gate = gate_sum + element_or_zero(static_cast<T const*>(args.gate_bias), feature);
        value *= (limit > 0 ? clip(gate, limit) : gate) + product.gate_offset;
    }
    value += element_or_zero(static_cast<T const*>(args.residual), token * args.residual_stride + feature);
    static_cast<T*>(args.y)[token * args.y_stride + feature] = from_float<T>(value);
}

template <typename T, bool GATED>
__global__ void __launch_bounds__(side* side) feed_forward_product_kernel(Product product, ProductArgs args)
{
    __shared__ Tile x_tile;
    __shared__ Tile weight_tile;
    __shared__ Tile gate_tile;
    int64_t const in = product.in_features, out = product.out_features;
    Matrix<T> const x{static_cast<T const*>(args.x), args.num_tokens, args.x_stride};
    Matrix<T> const weight{static_cast<T const*>(args.weight), out, in};
    Matrix<T> const gate_weight{static_cast<T const*>(args.gate_weight), out, in};
    int64_t const tiles_across = (out + tile - 1) / tile;
    int64_t const num_tiles = tiles_across * ((args.num_tokens + tile - 1) / tile);
    for (int64_t at = blockIdx.x; at < num_tiles; at += gridDim.x)
    {
        int64_t const first_token = at / tiles_across * tile, first_feature = at % tiles_across * tile;
        Sums sums, gate_sums;
        for (int64_t first_in = 0; first_in < in; first_in += depth)
        {
            load_tile(x_tile, x, first_token, first_in, in);
            load_tile(weight_tile, weight, first_feature, first_in, in);
            if constexpr (GATED)
            {
                load_tile(gate_tile, gate_weight, first_feature, first_in, in);
            }
            __syncthreads();
            for (int k = 0; k < depth; ++k)
            {
                sums.add(x_tile, weight_tile, k);
                if constexpr (GATED)
                {
                    gate_sums.add(x_tile, gate_tile, k);
                }
            }
            __syncthreads();
        }
        // Unrolled, so that the sums are registers: an index known only at run time would put them into memory.
#pragma unroll
        for (int i = 0; i < share; ++i)
        {
#pragma unroll
            for (int j = 0; j < share; ++j)
            {
                int64_t const token = first_token + threadIdx.y + i * side;
                int64_t const feature = first_feature + threadIdx.x + j * side;
                if (token < args.num_tokens && feature < out)
                {
                    finish<T, GATED>(product, args, token, feature, sums.of[i][j], gate_sums.of[i][j]);
                }
            }
        }
    }
}

template <typename T>
trtllm_ext_status launch_product(Product const& product, ProductArgs const& args, trtllm_ext_stream stream)
{
    auto const tiles_of = [](int64_t size) { return (size + tile - 1) / tile; };
    int64_t const num_tiles = tiles_of(product.out_features) * tiles_of(args.num_tokens);
    LaunchShape const shape{dim3(static_cast<unsigned>(std::min(num_tiles, most_blocks))), dim3(side, side)};
    auto const kernel = product.gated ? feed_forward_product_kernel<T, true> : feed_forward_product_kernel<T, false>;
    return launch("feed_forward's plain product", kernel, shape, stream, product, args);
}

} // namespace

trtllm_ext_status plain_product(Product const& product, ProductArgs const& args, trtllm_ext_stream stream)
{
    switch (product.type)
    {
    case TRTLLM_EXT_FLOAT32: return launch_product<float>(product, args, stream);
    case TRTLLM_EXT_FLOAT16: return launch_product<__half>(product, args, stream);
    case TRTLLM_EXT_BFLOAT16: return launch_product<__nv_bfloat16>(product, args, stream);
    }
    return fail(TRTLLM_EXT_UNSUPPORTED_TYPE, "feed_forward: no plain product for type %d", product.type);
}

} // namespace trtllm_ext::feed_forward
