#include "tensors.h"

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>

namespace player
{

using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;

namespace
{

size_t element_size(nvinfer1::DataType type)
{
    switch (static_cast<int32_t>(type))
    {
    case 0: // float32
    case 3: return 4;
    case 1: // float16
    case 7: return 2;
    case 8: return 8;
    default: return 1;
    }
}

} // namespace

std::vector<uint8_t> read_file(std::string const& path)
{
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write_file(std::string const& path, std::vector<uint8_t> const& bytes)
{
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<char const*>(bytes.data()), bytes.size());
}

size_t size_of(PluginTensorDesc const& tensor)
{
    size_t size = element_size(tensor.type);
    for (int32_t i = 0; i < tensor.dims.nbDims; ++i)
    {
        size *= tensor.dims.d[i];
    }
    return size;
}

Dims dims_of(std::string const& text)
{
    Dims dims{};
    std::istringstream parts(text);
    for (std::string part; std::getline(parts, part, 'x');)
    {
        dims.d[dims.nbDims++] = std::atoi(part.c_str());
    }
    return dims;
}

std::string text_of(Dims const& dims)
{
    std::string text;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        text += (i == 0 ? "" : "x") + std::to_string(dims.d[i]);
    }
    return text;
}

Dims network_dims(Input const& input)
{
    Dims dims = input.best;
    for (int32_t i = 0; i < dims.nbDims; ++i)
    {
        dims.d[i] = input.least.d[i] == input.most.d[i] ? dims.d[i] : -1;
    }
    return dims;
}

std::vector<Dims> outputs_of(Host& host, std::vector<Dims> const& inputs)
{
    Expressions expressions;
    std::vector<nvinfer1::DimsExprs> given;
    for (Dims const& dims : inputs)
    {
        nvinfer1::DimsExprs each{};
        each.nbDims = dims.nbDims;
        for (int32_t i = 0; i < dims.nbDims; ++i)
        {
            each.d[i] = dims.d[i] < 0 ? expressions.unknown() : expressions.constant(dims.d[i]);
        }
        given.push_back(each);
    }
    std::vector<Dims> outputs;
    for (auto const& shape : host.output_shapes(given, expressions))
    {
        Dims dims{};
        dims.nbDims = shape.nbDims;
        for (int32_t i = 0; i < shape.nbDims; ++i)
        {
            dims.d[i] = shape.d[i]->isConstant() ? shape.d[i]->getConstantValue() : -1;
        }
        outputs.push_back(dims);
    }
    return outputs;
}

} // namespace player
