/*
 * SoftCap, y = cap * tanh(x / cap), for TensorRT: the kernel, the layer around it, and the library's list of operations.
 * What TensorRT asks of a plugin besides (fields, shapes, formats, bytes in an engine, registration) is in the adapters of
 * plugins/tensorrt, which are compiled along; names and fields come from soft_cap.py.
 */
#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/operation.h"

#include <algorithm>
#include <utility>

#include "device/types.cuh"
#include "launch.h"

namespace trtllm_ext
{
namespace
{

constexpr int64_t THREADS = 256;
constexpr int64_t LARGEST_GRID = 1 << 16;

template <typename T>
__global__ void soft_cap_kernel(T const* x, T* y, int64_t size, float cap)
{
    int64_t const step = gridDim.x * THREADS;
    for (int64_t i = blockIdx.x * THREADS + threadIdx.x; i < size; i += step)
    {
        y[i] = from_float<T>(cap * tanhf(to_float(x[i]) / cap));
    }
}

template <typename T>
trtllm_ext_status soft_cap(void const* x, void* y, int64_t size, float cap, trtllm_ext_stream stream)
{
    if (size == 0)
    {
        return TRTLLM_EXT_SUCCESS;
    }
    unsigned const blocks = static_cast<unsigned>(std::min((size + THREADS - 1) / THREADS, LARGEST_GRID));
    LaunchShape const shape{dim3(blocks), dim3(THREADS)};
    return launch("soft_cap", soft_cap_kernel<T>, shape, stream, static_cast<T const*>(x), static_cast<T*>(y), size, cap);
}

} // namespace

namespace plugins
{

class SoftCap final : public Operation
{
public:
    explicit SoftCap(Fields given)
        : Operation(std::move(given))
    {
        add_input({"x", type_of(fields())});
        add_output({"y", type_of(fields())});
    }

    std::unique_ptr<Operation> clone() const override
    {
        return std::make_unique<SoftCap>(*this);
    }

    trtllm_ext_status run(Sizes const& sizes, void const* const* inputs, void* const* outputs, void*,
        trtllm_ext_stream stream) const noexcept override
    {
        int64_t const size = sizes.num_tokens * sizes.hidden_size;
        float const cap = fields().number("cap");
        switch (inputs_type())
        {
        case TRTLLM_EXT_FLOAT32: return soft_cap<float>(inputs[0], outputs[0], size, cap, stream);
        case TRTLLM_EXT_FLOAT16: return soft_cap<__half>(inputs[0], outputs[0], size, cap, stream);
        default: return soft_cap<__nv_bfloat16>(inputs[0], outputs[0], size, cap, stream);
        }
    }

private:
    trtllm_ext_type inputs_type() const
    {
        return inputs()[0].type;
    }
};

std::vector<OperationRecord const*> const& all_records()
{
    static std::vector<OperationRecord const*> const records{&SOFT_CAP};
    return records;
}

std::unique_ptr<Operation> make_operation(Fields fields)
{
    return std::make_unique<SoftCap>(std::move(fields));
}

} // namespace plugins
} // namespace trtllm_ext
