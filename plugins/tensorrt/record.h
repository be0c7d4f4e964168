/*
 * What an operation is called and which fields it has. The tables of generated/operations.h are made of these; they
 * are written from the Python records of trtllm_ext/plugin, the one place where an operation's fields are stated.
 */
#ifndef TRTLLM_EXT_PLUGINS_RECORD_H
#define TRTLLM_EXT_PLUGINS_RECORD_H

#include <cstdint>

namespace trtllm_ext::plugins
{

enum class FieldType : int32_t
{
    INT32 = 0,
    FLOAT32 = 1,
};

struct FieldRecord
{
    char const* name;
    FieldType type;
    bool required;        // no default: a layer cannot be made without it
    double default_value;
    char const* doc;
};

struct OperationRecord
{
    char const* name; // as TensorRT knows it: "FeedForward"
    char const* version;
    FieldRecord const* fields;
    int32_t num_fields;
};

} // namespace trtllm_ext::plugins

#endif
