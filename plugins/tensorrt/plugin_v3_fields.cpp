/* How a layer is kept with an engine of TensorRT 10 and later, which keeps fields by name. */
#include <NvInferVersion.h>

#if NV_TENSORRT_MAJOR >= 10

#include "plugins/tensorrt/plugin_v3.h"
#include "plugins/tensorrt/refusal.h"

#include <algorithm>
#include <cstring>

namespace trtllm_ext::plugins
{

namespace
{

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// Beside the operation's own fields. No field of an operation begins with a dot.
constexpr char FORMAT[] = ".format";
constexpr char STATE[] = ".state";
constexpr char CHECKSUM[] = ".checksum";

template <typename T>
T number_of(PluginField const& field, PluginFieldType type, int32_t length)
{
    if (field.type != type || field.length != length || field.data == nullptr)
    {
        throw Refusal(std::string("the engine's field '") + field.name + "' is damaged. Build the engine again");
    }
    T value;
    std::memcpy(&value, field.data, sizeof(value));
    return value;
}

void check_format(int32_t format)
{
    if (format <= 0)
    {
        throw Refusal("fields that are no layer of this library, or no engine's");
    }
    if (static_cast<uint32_t>(format) > BLOB_FORMAT)
    {
        throw Refusal("a layer of format " + std::to_string(format) + "; this library reads format "
            + std::to_string(BLOB_FORMAT) + ". Run the engine with the library it was built with, or build it again");
    }
}

} // namespace

nvinfer1::PluginFieldCollection const* SerializedFields::take(Layer const& layer)
{
    Blob const blob{layer.operation().fields().values(), layer.operation().state()};
    state_ = blob.state;
    format_ = BLOB_FORMAT;
    checksum_ = checksum_of(layer.record(), blob);
    // Reserved, so that the addresses of the values stay.
    integers_.assign(blob.fields.size(), 0);
    numbers_.assign(blob.fields.size(), 0);
    fields_.clear();
    for (size_t i = 0; i < blob.fields.size(); ++i)
    {
        FieldType const type = blob.fields[i].type;
        integers_[i] = type == FieldType::INT32 ? static_cast<int32_t>(blob.fields[i].value) : 0;
        numbers_[i] = static_cast<float>(blob.fields[i].value);
        void const* const data = type == FieldType::INT32 ? static_cast<void const*>(&integers_[i]) : &numbers_[i];
        fields_.emplace_back(layer.record().fields[i].name, data, field_type_of(type), 1);
    }
    fields_.emplace_back(FORMAT, &format_, PluginFieldType::kINT32, 1);
    if (!state_.empty())
    {
        fields_.emplace_back(STATE, state_.data(), PluginFieldType::kUNKNOWN, static_cast<int32_t>(state_.size()));
    }
    fields_.emplace_back(CHECKSUM, &checksum_, PluginFieldType::kUNKNOWN, static_cast<int32_t>(sizeof(checksum_)));
    collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
    return &collection_;
}

Blob SerializedFields::blob_of(OperationRecord const& record, nvinfer1::PluginFieldCollection const& fields)
{
    Blob blob;
    int32_t format = 0;
    uint64_t checksum = 0;
    for (int32_t i = 0; i < fields.nbFields; ++i)
    {
        PluginField const& field = fields.fields[i];
        std::string const name = field.name == nullptr ? "" : field.name;
        if (name == FORMAT)
        {
            format = number_of<int32_t>(field, PluginFieldType::kINT32, 1);
        }
        else if (name == STATE)
        {
            // Bytes that are not there leave the state empty, which the checksum finds.
            auto const* const begin = static_cast<uint8_t const*>(field.data);
            blob.state.assign(begin, begin + (begin == nullptr ? 0 : std::max(field.length, 0)));
        }
        else if (name == CHECKSUM)
        {
            checksum = number_of<uint64_t>(field, PluginFieldType::kUNKNOWN, sizeof(checksum));
        }
        else
        {
            blob.fields.push_back(value_of(field));
        }
    }
    check_format(format);
    if (checksum != checksum_of(record, blob))
    {
        throw Refusal("the layer's fields are damaged, or those of another operation: their checksum is another. Build "
                      "the engine again");
    }
    return blob;
}

} // namespace trtllm_ext::plugins

#endif
