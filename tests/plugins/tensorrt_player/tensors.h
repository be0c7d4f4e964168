/* Shapes and types as text, as numbers of bytes, and as a layer makes its outputs' of its inputs'. */
#ifndef TENSORRT_PLAYER_TENSORS_H
#define TENSORRT_PLAYER_TENSORS_H

#include "host.h"

#include <string>
#include <vector>

namespace player
{

std::vector<uint8_t> read_file(std::string const& path);
void write_file(std::string const& path, std::vector<uint8_t> const& bytes);

/* Of a tensor whose shape is known. */
size_t size_of(nvinfer1::PluginTensorDesc const& tensor);

/* 4x8 */
nvinfer1::Dims dims_of(std::string const& text);
std::string text_of(nvinfer1::Dims const& dims);

/* The dimensions of a profile as a network has them: -1 where they vary. */
nvinfer1::Dims network_dims(Input const& input);

/* Output dimensions, of those of all inputs, by asking the layer. */
std::vector<nvinfer1::Dims> outputs_of(Host& host, std::vector<nvinfer1::Dims> const& inputs);

} // namespace player

#endif
