#include "plugins/tensorrt/translate.h"

#include "plugins/tensorrt/refusal.h"

#include <cstring>

namespace trtllm_ext::plugins
{

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;

trtllm_ext_type type_of(DataType type) noexcept
{
    switch (type)
    {
    case DataType::kFLOAT: return TRTLLM_EXT_FLOAT32;
    case DataType::kHALF: return TRTLLM_EXT_FLOAT16;
    case DataType::kINT8: return TRTLLM_EXT_INT8;
#if NV_TENSORRT_MAJOR >= 10
    case DataType::kBF16: return TRTLLM_EXT_BFLOAT16;
    case DataType::kFP8: return TRTLLM_EXT_FLOAT8_E4M3;
#endif
    default: return TRTLLM_EXT_NO_TYPE;
    }
}

DataType data_type_of(trtllm_ext_type type)
{
    switch (type)
    {
    case TRTLLM_EXT_FLOAT32: return DataType::kFLOAT;
    case TRTLLM_EXT_FLOAT16: return DataType::kHALF;
    case TRTLLM_EXT_INT8: return DataType::kINT8;
#if NV_TENSORRT_MAJOR >= 10
    case TRTLLM_EXT_BFLOAT16: return DataType::kBF16;
    case TRTLLM_EXT_FLOAT8_E4M3: return DataType::kFP8;
#else
    case TRTLLM_EXT_BFLOAT16:
        throw Refusal(TRTLLM_EXT_UNSUPPORTED_TYPE, "TensorRT 8 has no bfloat16; take float16, or TensorRT 10");
    case TRTLLM_EXT_FLOAT8_E4M3:
        throw Refusal(TRTLLM_EXT_UNSUPPORTED_TYPE, "TensorRT 8 has no float8 tensors; take int8, or TensorRT 10");
#endif
    default: throw Refusal(TRTLLM_EXT_UNSUPPORTED_TYPE, "TensorRT has no such type: " + std::to_string(type));
    }
}

Shape shape_of(nvinfer1::Dims const& dims)
{
    Shape shape;
    shape.num_dims = dims.nbDims;
    for (int32_t i = 0; i < dims.nbDims && i < MAX_DIMS; ++i)
    {
        shape.dims[i] = dims.d[i];
    }
    return shape;
}

FieldValue value_of(nvinfer1::PluginField const& field)
{
    std::string const name = field.name == nullptr ? "" : field.name;
    if (field.data == nullptr || field.length != 1)
    {
        throw Refusal("field '" + name + "' has " + std::to_string(field.data == nullptr ? 0 : field.length)
            + " values; one is expected");
    }
    if (field.type == PluginFieldType::kINT32)
    {
        int32_t value;
        std::memcpy(&value, field.data, sizeof(value));
        return {name, FieldType::INT32, static_cast<double>(value)};
    }
    if (field.type == PluginFieldType::kFLOAT32)
    {
        float value;
        std::memcpy(&value, field.data, sizeof(value));
        return {name, FieldType::FLOAT32, static_cast<double>(value)};
    }
    throw Refusal("field '" + name + "' is of type " + std::to_string(static_cast<int32_t>(field.type))
        + "; int32 or float32 is expected");
}

nvinfer1::PluginFieldCollection const& given(nvinfer1::PluginFieldCollection const* fields)
{
    if (fields == nullptr)
    {
        throw Refusal("made without a collection of fields; give one, if need be an empty one");
    }
    return *fields;
}

PluginFieldType field_type_of(FieldType type) noexcept
{
    return type == FieldType::INT32 ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32;
}

std::vector<nvinfer1::PluginField> field_names_of(OperationRecord const& record)
{
    std::vector<nvinfer1::PluginField> fields;
    for (int32_t i = 0; i < record.num_fields; ++i)
    {
        fields.emplace_back(record.fields[i].name, nullptr, field_type_of(record.fields[i].type), 1);
    }
    return fields;
}

nvinfer1::DimsExprs dims_of(Port const& output, nvinfer1::DimsExprs const& x, nvinfer1::IExprBuilder& builder) noexcept
{
    nvinfer1::DimsExprs dims = x;
    if (output.columns == Extent::ONE && dims.nbDims > 0)
    {
        dims.d[dims.nbDims - 1] = builder.constant(1);
    }
    return dims;
}

} // namespace trtllm_ext::plugins
