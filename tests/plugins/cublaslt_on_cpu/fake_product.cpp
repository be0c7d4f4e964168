// The product itself: element by element in float64, rounded once.
#include "fake_cublaslt.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>

namespace fake_cublaslt
{
namespace
{

double load(void const* data, int32_t type, uint64_t at)
{
    switch (type)
    {
    case R_16F: return __half2float(static_cast<__half const*>(data)[at]);
    case R_16BF: return __bfloat162float(static_cast<__nv_bfloat16 const*>(data)[at]);
    default: return static_cast<float const*>(data)[at];
    }
}

void store(void* data, int32_t type, uint64_t at, double value)
{
    float const single = static_cast<float>(value);
    switch (type)
    {
    case R_16F: static_cast<__half*>(data)[at] = __float2half_rn(single); break;
    case R_16BF: static_cast<__nv_bfloat16*>(data)[at] = __float2bfloat16_rn(single); break;
    default: static_cast<float*>(data)[at] = single; break;
    }
}

uint64_t place(LayoutData const& layout, int32_t operation, uint64_t row, uint64_t column)
{
    uint64_t const ld = static_cast<uint64_t>(layout.ld);
    return operation == OP_T ? column + row * ld : row + column * ld;
}

double activate(uint32_t epilogue, double x)
{
    if (epilogue & EPILOGUE_RELU)
    {
        return x < 0 ? 0 : x;
    }
    if (epilogue & EPILOGUE_GELU)
    {
        return x / 2 * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    }
    return x;
}

bool has_room(LayoutData const& layout)
{
    return layout.ld >= static_cast<int64_t>(layout.rows);
}

} // namespace

uint64_t Problem::depth() const
{
    return desc.transa == OP_T ? a.rows : a.columns;
}

bool Problem::fits() const
{
    uint64_t const a_rows = desc.transa == OP_T ? a.columns : a.rows;
    uint64_t const b_rows = desc.transb == OP_T ? b.columns : b.rows;
    uint64_t const b_columns = desc.transb == OP_T ? b.rows : b.columns;
    bool const types = a.type == b.type && a.type == c.type && a.type == d.type && desc.scale_type == R_32F
        && (desc.bias_type == -1 || desc.bias_type == d.type)
        && (desc.compute_type == COMPUTE_32F || (desc.compute_type == COMPUTE_32F_FAST_TF32 && a.type == R_32F));
    bool const shapes = a_rows == d.rows && b_rows == depth() && b_columns == d.columns && c.rows == d.rows
        && c.columns == d.columns && d.rows > 0 && d.columns > 0 && depth() > 0;
    bool const has_bias = (desc.epilogue & EPILOGUE_BIAS) == 0 || desc.bias != nullptr;
    return types && shapes && has_bias && has_room(a) && has_room(b) && has_room(c) && has_room(d);
}

void compute(Problem const& problem, Operands const& operands)
{
    DescData const& desc = problem.desc;
    for (uint64_t column = 0; column < problem.d.columns; ++column)
    {
        for (uint64_t row = 0; row < problem.d.rows; ++row)
        {
            double sum = 0;
            for (uint64_t k = 0; k < problem.depth(); ++k)
            {
                sum += load(operands.a, problem.a.type, place(problem.a, desc.transa, row, k))
                    * load(operands.b, problem.b.type, place(problem.b, desc.transb, k, column));
            }
            sum *= operands.alpha;
            if (operands.beta != 0)
            {
                sum += operands.beta * load(operands.c, problem.c.type, place(problem.c, OP_N, row, column));
            }
            if (desc.epilogue & EPILOGUE_BIAS)
            {
                sum += load(desc.bias, desc.bias_type == -1 ? problem.d.type : desc.bias_type, row);
            }
            store(operands.d, problem.d.type, place(problem.d, OP_N, row, column), activate(desc.epilogue, sum));
        }
    }
}

} // namespace fake_cublaslt
