// Which operations this library has. A library of other operations has this file and generated/operations.h of its own.
#include "plugins/tensorrt/feed_forward.h"
#include "plugins/tensorrt/gated_activation.h"
#include "plugins/tensorrt/generated/operations.h"
#include "plugins/tensorrt/residual_norm.h"

#include <utility>

namespace trtllm_ext::plugins
{

std::vector<OperationRecord const*> const& all_records()
{
    static std::vector<OperationRecord const*> const records{&FEED_FORWARD, &GATED_ACTIVATION, &RESIDUAL_NORM};
    return records;
}

std::unique_ptr<Operation> make_operation(Fields fields)
{
    OperationRecord const* const record = &fields.record();
    if (record == &FEED_FORWARD)
    {
        return std::make_unique<FeedForward>(std::move(fields));
    }
    if (record == &GATED_ACTIVATION)
    {
        return std::make_unique<GatedActivation>(std::move(fields));
    }
    return std::make_unique<ResidualNorm>(std::move(fields));
}

} // namespace trtllm_ext::plugins
