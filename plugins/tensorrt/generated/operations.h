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
    {"type", FieldType::INT32, true, 0, "trtllm_ext_type of all inputs and outputs"},
    {"activation", FieldType::INT32, true, 0, "trtllm_ext_activation"},
    {"gated", FieldType::INT32, false, 0, "whether there is a gate_weight"},
    {"has_fc_bias", FieldType::INT32, false, 0, "whether there is an fc_bias"},
    {"has_gate_bias", FieldType::INT32, false, 0, "whether there is a gate_bias"},
    {"has_proj_bias", FieldType::INT32, false, 0, "whether there is a proj_bias"},
    {"has_residual", FieldType::INT32, false, 0, "whether there is a residual"},
    {"clamp", FieldType::FLOAT32, false, 0, "limit of both halves; 0 for none"},
    {"gate_offset", FieldType::FLOAT32, false, 0, "added to the gate"},
    {"tf32", FieldType::INT32, false, 0, "whether float32 products may round their operands to TF32"},
    {"max_num_tokens", FieldType::INT32, false, 0, "tokens to plan for; 0: those of the profile"},
};

inline constexpr FieldRecord GATED_ACTIVATION_FIELDS[] = {
    {"type", FieldType::INT32, true, 0, "trtllm_ext_type of all inputs and outputs"},
    {"activation", FieldType::INT32, true, 0, "trtllm_ext_activation"},
    {"gated", FieldType::INT32, false, 0, "whether there is a gate"},
    {"clamp", FieldType::FLOAT32, false, 0, "limit of both halves; 0 for none"},
    {"gate_offset", FieldType::FLOAT32, false, 0, "added to the gate"},
};

inline constexpr FieldRecord RESIDUAL_NORM_FIELDS[] = {
    {"type", FieldType::INT32, true, 0, "trtllm_ext_type of all inputs and of the sum"},
    {"norm", FieldType::INT32, true, 0, "trtllm_ext_norm"},
    {"eps", FieldType::FLOAT32, false, 0, "added to the mean of squares; above 0 where there is a norm"},
    {"weight_offset", FieldType::FLOAT32, false, 0, "added to the weight"},
    {"rounding", FieldType::INT32, false, 0, "trtllm_ext_rounding"},
    {"quantized_type", FieldType::INT32, false, 0, "trtllm_ext_type of the rows with scales; 0: normed instead"},
    {"has_residual", FieldType::INT32, false, 0, "whether there is a residual"},
    {"has_bias", FieldType::INT32, false, 0, "whether there is a bias"},
    {"has_weight", FieldType::INT32, false, 0, "whether there is a weight"},
    {"has_norm_bias", FieldType::INT32, false, 0, "whether there is a norm_bias"},
};

inline constexpr OperationRecord FEED_FORWARD{"FeedForward", "1", FEED_FORWARD_FIELDS, 11};
inline constexpr OperationRecord GATED_ACTIVATION{"GatedActivation", "1", GATED_ACTIVATION_FIELDS, 5};
inline constexpr OperationRecord RESIDUAL_NORM{"ResidualNorm", "1", RESIDUAL_NORM_FIELDS, 10};

} // namespace trtllm_ext::plugins

#endif
