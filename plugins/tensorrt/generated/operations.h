/* Written by `python -m trtllm_ext.plugin.write_operations` from the records of trtllm_ext/plugin. Do not edit. */
#ifndef TRTLLM_EXT_PLUGINS_GENERATED_OPERATIONS_H
#define TRTLLM_EXT_PLUGINS_GENERATED_OPERATIONS_H

#include "plugins/tensorrt/record.h"

#define TRTLLM_EXT_PLUGIN_NAMESPACE "trtllm_ext"

/* The plugins as a JSON list, for the text that is read without loading the library. */
#define TRTLLM_EXT_PLUGINS_JSON \
    "[{\"name\": \"FeedForward\", \"version\": \"1\", \"namespace\": \"trtllm_ext\"}, " \
    "{\"name\": \"GatedActivation\", \"version\": \"1\", \"namespace\": \"trtllm_ext\"}, " \
    "{\"name\": \"ResidualNorm\", \"version\": \"1\", \"namespace\": \"trtllm_ext\"}]"

namespace trtllm_ext::plugins
{

inline constexpr FieldRecord FEED_FORWARD_FIELDS[] = {
    {"type", FieldType::INT32, true, 0, "type of all inputs and of y"},
    {"activation", FieldType::INT32, true, 0, "which activation"},
    {"gated", FieldType::INT32, false, 0, "whether there is a gate_weight"},
    {"has_fc_bias", FieldType::INT32, false, 0, "whether there is an fc_bias"},
    {"has_gate_bias", FieldType::INT32, false, 0, "whether there is a gate_bias"},
    {"has_proj_bias", FieldType::INT32, false, 0, "whether there is a proj_bias"},
    {"has_residual", FieldType::INT32, false, 0, "whether there is a residual"},
    {"clamp", FieldType::FLOAT32, false, 0, "limit c of act(min(fc, c)) * clip(gate, -c, c); 0 for none"},
    {"gate_offset", FieldType::FLOAT32, false, 0, "added to the gate, such as GPT-OSS's 1"},
    {"tf32", FieldType::INT32, false, 0, "whether float32 products may round their operands to TF32"},
    {"max_num_tokens", FieldType::INT32, false, 0, "most tokens in a run; 0: as the optimization profile says"},
};

inline constexpr FieldRecord GATED_ACTIVATION_FIELDS[] = {
    {"type", FieldType::INT32, true, 0, "type of inputs and output"},
    {"activation", FieldType::INT32, true, 0, "which activation"},
    {"gated", FieldType::INT32, false, 0, "whether there is a gate"},
    {"clamp", FieldType::FLOAT32, false, 0, "limit c of act(min(fc, c)) * clip(gate, -c, c); 0 for none"},
    {"gate_offset", FieldType::FLOAT32, false, 0, "added to the gate, such as GPT-OSS's 1"},
};

inline constexpr FieldRecord RESIDUAL_NORM_FIELDS[] = {
    {"type", FieldType::INT32, true, 0, "type of all inputs, of sum and of normed"},
    {"norm", FieldType::INT32, true, 0, "which norm; NO_NORM is the sum alone"},
    {"eps", FieldType::FLOAT32, false, 0, "added to the variance, or the mean of squares; above 0 where there is a norm"},
    {"weight_offset", FieldType::FLOAT32, false, 0, "added to the weight, such as Gemma's 1"},
    {"rounding", FieldType::INT32, false, 0, "when normed is rounded to the type"},
    {"quantized_type", FieldType::INT32, false, 0, "INT8 or FLOAT8_E4M3 for scaled rows in place of normed"},
    {"has_residual", FieldType::INT32, false, 0, "whether there is a residual"},
    {"has_bias", FieldType::INT32, false, 0, "whether there is a bias of x"},
    {"has_weight", FieldType::INT32, false, 0, "whether the norm has a weight"},
    {"has_norm_bias", FieldType::INT32, false, 0, "whether the norm has a bias"},
    {"has_sum", FieldType::INT32, false, 1, "whether the sum is an output; 0 where only the norm reads it"},
};

inline constexpr OperationRecord FEED_FORWARD{"FeedForward", "1", FEED_FORWARD_FIELDS, 11};
inline constexpr OperationRecord GATED_ACTIVATION{"GatedActivation", "1", GATED_ACTIVATION_FIELDS, 5};
inline constexpr OperationRecord RESIDUAL_NORM{"ResidualNorm", "1", RESIDUAL_NORM_FIELDS, 11};

} // namespace trtllm_ext::plugins

#endif
