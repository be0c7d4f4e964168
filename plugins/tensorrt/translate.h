/* TensorRT's types, fields and shapes, as the operations know them, and back. The same for both plugin interfaces. */
#ifndef TRTLLM_EXT_PLUGINS_TRANSLATE_H
#define TRTLLM_EXT_PLUGINS_TRANSLATE_H

#include "plugins/tensorrt/operation.h"

#include <NvInferRuntime.h>

#include <vector>

namespace trtllm_ext::plugins
{

/* NO_TYPE for a type that no operation has. */
trtllm_ext_type type_of(nvinfer1::DataType type) noexcept;

/* Throws Refusal for a type that this TensorRT has no tensors of: bfloat16 and float8 before 10. */
nvinfer1::DataType data_type_of(trtllm_ext_type type);

Shape shape_of(nvinfer1::Dims const& dims);

/* A field that was given; throws Refusal for another type than int32 or float32, or not one value. */
FieldValue value_of(nvinfer1::PluginField const& field);

/* What a creator is given; throws Refusal for NULL. */
nvinfer1::PluginFieldCollection const& given(nvinfer1::PluginFieldCollection const* fields);

nvinfer1::PluginFieldType field_type_of(FieldType type) noexcept;

/* The fields of a record, without values: what a creator tells of itself. */
std::vector<nvinfer1::PluginField> field_names_of(OperationRecord const& record);

/* The dimensions of an output, of those of the first input. */
nvinfer1::DimsExprs dims_of(Port const& output, nvinfer1::DimsExprs const& x, nvinfer1::IExprBuilder& builder) noexcept;

} // namespace trtllm_ext::plugins

#endif
