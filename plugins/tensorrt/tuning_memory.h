/* Memory of the device for the time that a layer is tuned in a build, and what it is filled with. */
#ifndef TRTLLM_EXT_PLUGINS_TUNING_MEMORY_H
#define TRTLLM_EXT_PLUGINS_TUNING_MEMORY_H

#include "plugins/kernels/trtllm_ext_kernels.h"

#include <cstdint>

namespace trtllm_ext::plugins
{

/* The number of the current device. Throws Refusal where there is none. */
int32_t current_device();

class TuningMemory
{
public:
    /* Throws Refusal where the device has too little left. No bytes are no memory. */
    explicit TuningMemory(uint64_t size);
    TuningMemory(TuningMemory&& other) noexcept;
    TuningMemory(TuningMemory const&) = delete;
    ~TuningMemory();

    void* data() const
    {
        return data_;
    }

    /*
     * Fills it with numbers of both signs between 1/32 and 1/16 and random mantissas: the power that a product takes,
     * and with it its speed, depends on the bits.
     */
    void fill(trtllm_ext_type type);

private:
    void* data_ = nullptr;
    uint64_t size_;
};

} // namespace trtllm_ext::plugins

#endif
