// What tuning chose, as bytes that are kept with an engine, and for people.
#ifndef TRTLLM_EXT_FEED_FORWARD_CHOICES_H
#define TRTLLM_EXT_FEED_FORWARD_CHOICES_H

#include "feed_forward_plan.h"

#include <string>
#include <vector>

namespace trtllm_ext::feed_forward
{

// Only tuned choices: the heuristic's are made again wherever a plan is.
std::vector<unsigned char> write_choices(Plan const& plan);

// Takes those of this form, device and cublasLt that cublasLt still accepts; INVALID_ARGUMENT for damaged bytes.
trtllm_ext_status read_choices(Plan& plan, void const* bytes, uint64_t size, int32_t* num_taken);

// JSON: the road, the bucket, and what each product of it is computed by.
std::string description_of(Plan const& plan, int64_t num_tokens);

} // namespace trtllm_ext::feed_forward

#endif
