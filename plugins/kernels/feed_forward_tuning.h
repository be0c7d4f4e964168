// Choosing cublasLt's algorithms by timing them on the device.
#ifndef TRTLLM_EXT_FEED_FORWARD_TUNING_H
#define TRTLLM_EXT_FEED_FORWARD_TUNING_H

#include "feed_forward_plan.h"

namespace trtllm_ext::feed_forward
{

/*
 * Times the algorithms of the plan's products on a checked run and makes the fastest the choices of its bucket. Waits
 * for the stream. y is then what a run writes.
 */
trtllm_ext_status tune(Plan& plan, Args const& args, trtllm_ext_stream stream);

} // namespace trtllm_ext::feed_forward

#endif
