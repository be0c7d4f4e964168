/* One layer as a builder makes it and an engine keeps and runs it. host_v2.cpp and host_v3.cpp are two ways to this. */
#ifndef TENSORRT_PLAYER_HOST_H
#define TENSORRT_PLAYER_HOST_H

#include "nvinfer_part.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace player
{

struct Field
{
    std::string name;
    nvinfer1::PluginFieldType type;
    std::vector<uint8_t> data;
    int32_t length;
};

/* A tensor of a network: its type, and its shape in a profile. */
struct Input
{
    nvinfer1::DataType type;
    nvinfer1::Dims least;
    nvinfer1::Dims best;
    nvinfer1::Dims most;
};

/* The tensors of a layer for one profile. */
struct Profile
{
    std::vector<nvinfer1::DynamicPluginTensorDesc> inputs;
    std::vector<nvinfer1::DynamicPluginTensorDesc> outputs;
};

struct LayerName
{
    std::string operation;
    std::string version;
    std::string layer;
};

class Host
{
public:
    virtual ~Host() = default;

    /* From fields, as for a network; nullptr where there is no creator or it makes nothing. */
    static std::unique_ptr<Host> create(LayerName const& name, std::vector<Field> const& fields);

    /* From what `serialize` gave, as for an engine; its context is made, too. nullptr where that is refused. */
    static std::unique_ptr<Host> restore(LayerName const& name, std::vector<uint8_t> const& bytes);

    /* The positions in such bytes that are the plugin's own, not this program's. */
    static std::vector<size_t> own_bytes(std::vector<uint8_t> const& bytes);

    /* The names of the fields that a creator tells of, or nothing without a creator. */
    static std::vector<std::string> field_names(LayerName const& name);

    virtual int32_t num_outputs() = 0;
    virtual std::vector<nvinfer1::DataType> output_types(std::vector<Input> const& inputs) = 0;
    virtual std::vector<nvinfer1::DimsExprs> output_shapes(
        std::vector<nvinfer1::DimsExprs> const& inputs, Expressions& expressions) = 0;
    virtual bool supports(int32_t position, std::vector<nvinfer1::PluginTensorDesc> const& tensors, int32_t num_inputs)
        = 0;

    /*
     * As a builder does before it times a layer: the layer that is kept is configured for the first profile, and a clone
     * for every other. The status that stops it, or 0, and the largest workspace that one of them asks for.
     */
    virtual int32_t configure(std::vector<Profile> const& profiles, size_t& workspace_size) = 0;
    virtual std::vector<uint8_t> serialize() = 0;

    /* As an execution context does before it runs other shapes than before. */
    virtual int32_t change_shapes(
        std::vector<nvinfer1::PluginTensorDesc> const& inputs, std::vector<nvinfer1::PluginTensorDesc> const& outputs)
        = 0;
    virtual int32_t enqueue(std::vector<nvinfer1::PluginTensorDesc> const& inputs,
        std::vector<nvinfer1::PluginTensorDesc> const& outputs, std::vector<void const*> const& input_memory,
        std::vector<void*> const& output_memory, void* workspace, cudaStream_t stream)
        = 0;
};

} // namespace player

#endif
